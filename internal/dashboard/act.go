package dashboard

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
)

// confirmView asks whether something is to be done.
type confirmView struct {
	Question, Button string
	Danger           bool
	Action           string     // where the form goes
	Fields           url.Values // that it holds
	Back             string

	Also       string     // a second button, which does more than the first one; empty: there is none
	AlsoFields url.Values // that its form holds
}

// confirmed reports whether who asks has been asked back.
func confirmed(r *http.Request) bool { return r.PostFormValue("confirmed") == "yes" }

// form reads a form of bounded size.
func form(w http.ResponseWriter, r *http.Request) error {
	r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
	if err := r.ParseForm(); err != nil {
		return &problem{http.StatusBadRequest, "The form can't be read."}
	}
	return nil
}

// done goes back to a page, which tells what was done.
func done(w http.ResponseWriter, r *http.Request, to, what string, n int) error {
	q := url.Values{"said": {what}}
	if n >= 0 {
		q.Set("n", strconv.Itoa(n))
	}
	http.Redirect(w, r, to+"?"+q.Encode(), http.StatusSeeOther) //nolint:gosec // to is a page of ours
	return nil
}

// said is what was just done, in words that no address can choose.
func said(r *http.Request) string {
	q := r.URL.Query()
	n, err := strconv.Atoi(q.Get("n"))
	if err != nil {
		n = 0
	}
	switch q.Get("said") {
	case "cancel":
		return "Cancelled. What is under way ends; nothing more is started."
	case "cancel-late":
		return "There was nothing left to cancel."
	case "pause":
		return "Paused. What is under way ends; nothing more is started until it goes on."
	case "resume":
		return "It goes on."
	case "same":
		return "Nothing had to be changed."
	case "retry":
		return "This is the new batch: it repeats what had failed or was left out."
	case repeatInDoubt:
		return "This is the new batch. It repeats the requests that were in doubt."
	case "aside-release":
		return "Released. The batch is the next one to run in its store."
	case "aside-end":
		return "Ended."
	case "cancelled-many":
		return "Cancelled: " + batches(n) + "."
	case "retried-many":
		return "Created from what had failed: " + batches(n) + "."
	}
	return ""
}

// batches says how many.
func batches(n int) string {
	if n == 1 {
		return "1 batch"
	}
	return number(n) + " batches"
}

// steerQueue pauses the caller's queue, or lets it go on.
func (d *Dashboard) steerQueue(w http.ResponseWriter, r *http.Request) error {
	if err := form(w, r); err != nil {
		return err
	}
	store, action := r.PathValue("store"), r.PathValue("action")
	if action != "pause" && action != "resume" {
		return d.nothing(w, r)
	}
	if action == "pause" && !confirmed(r) {
		return d.show(w, r, http.StatusOK, "confirm", "Pause the queue?", confirmView{
			Question: "Pause the whole queue of this store? What is under way ends; nothing more is started until the queue goes on.",
			Button:   "Pause the queue", Action: r.URL.Path, Back: storePage(store),
		})
	}
	return d.steered(w, r, batchPath(store)+"/"+action, nil, storePage(store), action)
}

// steered pauses something or lets it go on, and goes back.
func (d *Dashboard) steered(w http.ResponseWriter, r *http.Request, path string, query url.Values, back, action string) error {
	var got struct{ UpdateCount int }
	if err := d.post(r, path, query, &got); err != nil {
		return err
	}
	if got.UpdateCount == 0 {
		action = "same"
	}
	return done(w, r, back, action, -1)
}

// actBatch does something with one batch.
func (d *Dashboard) actBatch(w http.ResponseWriter, r *http.Request) error {
	if err := form(w, r); err != nil {
		return err
	}
	store, ticket, action := r.PathValue("store"), r.PathValue("ticket"), r.PathValue("action")
	back := storePage(store) + "/batches/" + url.PathEscape(ticket)
	one := url.Values{"ticket": {ticket}}
	ask := map[string]confirmView{
		"cancel": {Question: "Cancel this batch? What is under way ends; what was not sent is not sent any more. That can't be undone.", Button: "Cancel the batch", Danger: true},
		"pause":  {Question: "Pause this batch, and with it what waits behind it in the queue?", Button: "Pause the batch"},
	}
	if (action == "retry" || action == repeatInDoubt) && !confirmed(r) {
		return d.askRetry(w, r, action, back)
	}
	if q, ok := ask[action]; ok && !confirmed(r) {
		q.Action, q.Back = r.URL.Path, back
		return d.show(w, r, http.StatusOK, "confirm", q.Button+"?", q)
	}
	switch action {
	case "cancel":
		var got struct{ UpdateCount int }
		if err := d.post(r, batchPath(store)+"/cancel-group", one, &got); err != nil {
			return err
		}
		if got.UpdateCount == 0 {
			action = "cancel-late"
		}
		return done(w, r, back, action, -1)
	case "pause", "resume":
		return d.steered(w, r, batchPath(store)+"/"+action, one, back, action)
	case "retry", repeatInDoubt:
		if action == repeatInDoubt {
			one.Set("inDoubt", "only")
		}
		var got struct{ Ticket string }
		if err := d.post(r, batchPath(store)+"/retry", one, &got); err != nil {
			return err
		}
		return done(w, r, storePage(store)+"/batches/"+got.Ticket, action, -1)
	}
	return d.nothing(w, r)
}

// repeatInDoubt is the action that repeats the requests in doubt of a batch.
const repeatInDoubt = "retry-in-doubt"

// askRetry asks the user to confirm a retry, and shows how many requests it repeats.
func (d *Dashboard) askRetry(w http.ResponseWriter, r *http.Request, action, back string) error {
	query := url.Values{"ticket": {r.PathValue("ticket")}, "dryRun": {"true"}}
	if action == repeatInDoubt {
		query.Set("inDoubt", "only")
	}
	var got struct{ TotalRequests, InDoubtRequests int }
	if err := d.post(r, batchPath(r.PathValue("store"))+"/retry", query, &got); err != nil {
		return err
	}
	v := confirmView{Action: r.URL.Path, Back: back}
	if action == repeatInDoubt {
		v.Question = fmt.Sprintf("%s in doubt: the API may have carried them out. If it has, a retry carries them out twice. Check there first. They keep their Idempotency-Key.", areRequests(got.InDoubtRequests))
		if more := got.TotalRequests - got.InDoubtRequests; more > 0 {
			v.Question += fmt.Sprintf(" The new batch also has %s that waited for them.", requests(more))
		}
		v.Button, v.Danger = "Repeat "+requests(got.TotalRequests), true
	} else {
		v.Question = fmt.Sprintf("This creates a batch of %s that failed or did not run.", requests(got.TotalRequests))
		if got.InDoubtRequests > 0 {
			v.Question += fmt.Sprintf(" %s in doubt and left out, because the API may have carried them out.", areRequests(got.InDoubtRequests))
		}
		v.Button = "Retry " + requests(got.TotalRequests)
	}
	if got.TotalRequests == 0 {
		v.Button = ""
	}
	return d.show(w, r, http.StatusOK, "confirm", "Retry?", v)
}

// requests says how many.
func requests(n int) string {
	if n == 1 {
		return "1 request"
	}
	return number(n) + " requests"
}

// areRequests says how many are something.
func areRequests(n int) string {
	if n == 1 {
		return "1 request is"
	}
	return number(n) + " requests are"
}

// actMatching does something with all batches that a filter selects: first it tells how many.
func (d *Dashboard) actMatching(w http.ResponseWriter, r *http.Request) error {
	if err := form(w, r); err != nil {
		return err
	}
	store, action := r.PathValue("store"), r.PathValue("action")
	if action != "cancel" && action != "retry" {
		return d.nothing(w, r)
	}
	path := batchPath(store) + "/" + action + "-matching"
	f := filterOf(r.PostForm)
	back := storePage(store) + "/search?" + f.Form().Encode()
	query := f.Query()
	if action == "retry" && r.PostFormValue("repeatInDoubt") == "true" {
		query.Set("repeatInDoubt", "true")
	}
	if !confirmed(r) {
		query.Set("dryRun", "true")
		var got struct{ Matched, TotalRequests, InDoubtRequests int }
		if err := d.post(r, path, query, &got); err != nil {
			return err
		}
		v := confirmView{
			Question: fmt.Sprintf("This cancels %s: all unfinished ones that match. What is under way ends; what was not sent is not sent any more. That can't be undone.", batches(got.Matched)),
			Button:   "Cancel " + batches(got.Matched), Danger: true,
			Action: r.URL.Path, Fields: f.Form(), Back: back,
		}
		if action == "retry" {
			v.Question = fmt.Sprintf("This retries %s of %s: all matching batches that ended with failures and were not repeated yet. For each of them, a new batch is created with the requests that failed or did not run.",
				requests(got.TotalRequests), batches(got.Matched))
			v.Button, v.Danger = "Retry "+requests(got.TotalRequests), false
		}
		if n := got.InDoubtRequests; n > 0 {
			v.Question += fmt.Sprintf(" %s in doubt and left out, because the API may have carried them out: check there before you repeat them.", areRequests(n))
			v.Also, v.AlsoFields = "Repeat the "+number(n)+" in doubt as well", f.Form()
			v.AlsoFields.Set("repeatInDoubt", "true")
		}
		if got.Matched == 0 {
			v.Button = ""
		}
		return d.show(w, r, http.StatusOK, "confirm", "All that match", v)
	}
	var got struct{ UpdateCount, CreatedCount int }
	if err := d.post(r, path, query, &got); err != nil {
		return err
	}
	if action == "cancel" {
		return done(w, r, storePage(store), "cancelled-many", got.UpdateCount)
	}
	return done(w, r, storePage(store), "retried-many", got.CreatedCount)
}
