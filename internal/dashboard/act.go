package dashboard

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
)

// confirmView asks the user to confirm an action.
type confirmView struct {
	Question, Button string
	Danger           bool
	Action           string     // the URL that both forms are sent to
	Fields           url.Values // the form's hidden fields
	Back             string     // the URL of the Back button

	Also       string     // the text of a second button, which does more than the first; "": none
	AlsoFields url.Values // the hidden fields of the second button's form
}

// confirmed reports whether the user has confirmed the action.
func confirmed(r *http.Request) bool { return r.PostFormValue("confirmed") == "yes" }

// form parses the request's form. It limits the form to 64 KiB.
func form(w http.ResponseWriter, r *http.Request) error {
	r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
	if err := r.ParseForm(); err != nil {
		return &problem{http.StatusBadRequest, "The form is invalid or larger than 64 KiB."}
	}
	return nil
}

// done redirects to a page that shows a notice about what was done. n is the number of batches that
// the notice names; if n is negative, the notice has no number.
func done(w http.ResponseWriter, r *http.Request, to, what string, n int) error {
	q := url.Values{"notice": {what}}
	if n >= 0 {
		q.Set("n", strconv.Itoa(n))
	}
	http.Redirect(w, r, to+"?"+q.Encode(), http.StatusSeeOther) //nolint:gosec // to is a page of the dashboard
	return nil
}

// notice returns the notice that the URL names, or "" for none. A URL only selects one of these texts,
// so a link from elsewhere can't make the page say anything else.
func notice(r *http.Request) string {
	q := r.URL.Query()
	n, err := strconv.Atoi(q.Get("n"))
	if err != nil {
		n = 0
	}
	switch q.Get("notice") {
	case "cancel":
		return "Batch canceled. Requests in flight will finish; no more requests will be sent."
	case "cancel-late":
		return "Nothing to cancel: the batch has already ended."
	case "pause":
		return "Paused. Requests in flight will finish; no more requests will be sent until you resume."
	case "resume":
		return "Resumed."
	case "same":
		return "No change needed."
	case "retry":
		return "Retry created. This is the new batch: it repeats the requests that failed or did not run."
	case repeatInDoubt:
		return "Retry created. This is the new batch: it repeats the requests that were in doubt."
	case "aside-release":
		return "Batch released. It runs next in its store."
	case "aside-end":
		return "Batch ended."
	case "cancelled-many":
		return "Canceled " + batches(n) + "."
	case "retried-many":
		return "Created " + batches(n) + " to retry failed requests."
	}
	return ""
}

// batches returns "1 batch" or "n batches".
func batches(n int) string {
	if n == 1 {
		return "1 batch"
	}
	return number(n) + " batches"
}

// steerQueue pauses or resumes the user's queue.
func (d *Dashboard) steerQueue(w http.ResponseWriter, r *http.Request) error {
	if err := form(w, r); err != nil {
		return err
	}
	store, action := r.PathValue("store"), r.PathValue("action")
	if action != "pause" && action != "resume" {
		return d.notFound(w, r)
	}
	if action == "pause" && !confirmed(r) {
		return d.show(w, r, http.StatusOK, "confirm", "Pause queue?", confirmView{
			Question: "Pause this store's whole queue? Requests in flight will finish; no more requests will be sent until you resume.",
			Button:   "Pause queue", Action: r.URL.Path, Back: storePage(store),
		})
	}
	return d.setPaused(w, r, batchPath(store)+"/"+action, nil, storePage(store), action)
}

// setPaused pauses or resumes a queue or a batch, and redirects to back.
func (d *Dashboard) setPaused(w http.ResponseWriter, r *http.Request, path string, query url.Values, back, action string) error {
	var got struct{ UpdateCount int }
	if err := d.post(r, path, query, &got); err != nil {
		return err
	}
	if got.UpdateCount == 0 {
		action = "same"
	}
	return done(w, r, back, action, -1)
}

// actBatch carries out an action on one batch.
func (d *Dashboard) actBatch(w http.ResponseWriter, r *http.Request) error {
	if err := form(w, r); err != nil {
		return err
	}
	store, ticket, action := r.PathValue("store"), r.PathValue("ticket"), r.PathValue("action")
	back := storePage(store) + "/batches/" + url.PathEscape(ticket)
	one := url.Values{"ticket": {ticket}}
	ask := map[string]confirmView{
		"cancel": {Question: "Cancel this batch? Requests in flight will finish; the remaining requests will not be sent. This can't be undone.", Button: "Cancel batch", Danger: true},
		"pause":  {Question: "Pause this batch? The batches behind it in the queue will wait too.", Button: "Pause batch"},
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
		return d.setPaused(w, r, batchPath(store)+"/"+action, one, back, action)
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
	return d.notFound(w, r)
}

// repeatInDoubt is the action that repeats a batch's requests in doubt.
const repeatInDoubt = "retry-in-doubt"

// askRetry asks the user to confirm a retry and shows how many requests it will repeat.
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
		v.Question = fmt.Sprintf("%s in doubt: the API may have carried them out. If it has, a retry carries them out twice. Check there first. The retry keeps their Idempotency-Key.", areRequests(got.InDoubtRequests))
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

// requests returns "1 request" or "n requests".
func requests(n int) string {
	if n == 1 {
		return "1 request"
	}
	return number(n) + " requests"
}

// areRequests returns "1 request is" or "n requests are".
func areRequests(n int) string {
	if n == 1 {
		return "1 request is"
	}
	return number(n) + " requests are"
}

// actMatching carries out an action on all batches that match a filter. It shows their number first
// and asks for confirmation.
func (d *Dashboard) actMatching(w http.ResponseWriter, r *http.Request) error {
	if err := form(w, r); err != nil {
		return err
	}
	store, action := r.PathValue("store"), r.PathValue("action")
	if action != "cancel" && action != "retry" {
		return d.notFound(w, r)
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
			Question: fmt.Sprintf("This cancels %s: all unfinished ones that match. Requests in flight will finish; the remaining requests will not be sent. This can't be undone.", batches(got.Matched)),
			Button:   "Cancel " + batches(got.Matched), Danger: true,
			Action: r.URL.Path, Fields: f.Form(), Back: back,
		}
		if action == "retry" {
			v.Question = fmt.Sprintf("This retries %s of %s: all matching batches that ended with failures and have not been retried yet. Sheaf creates a new batch for each, with the requests that failed or did not run.",
				requests(got.TotalRequests), batches(got.Matched))
			v.Button, v.Danger = "Retry "+requests(got.TotalRequests), false
		}
		if n := got.InDoubtRequests; n > 0 {
			v.Question += fmt.Sprintf(" %s in doubt and left out, because the API may have carried them out: check there before you repeat them.", areRequests(n))
			v.Also, v.AlsoFields = "Also repeat the "+number(n)+" in doubt", f.Form()
			v.AlsoFields.Set("repeatInDoubt", "true")
		}
		if got.Matched == 0 {
			v.Button = ""
		}
		return d.show(w, r, http.StatusOK, "confirm", "All matches", v)
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
