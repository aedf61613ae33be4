package dashboard

import (
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// summary is a batch as the API lists it.
type summary struct {
	Store  string `json:"-"` // whose it is
	Ticket string

	Status, GroupID, RetryOf string

	TotalRequests, CompletedRequests, FailedRequests, InDoubtRequests int

	CreatedAt, StartedAt, FinishedAt time.Time
	Retried, Paused, Quarantined     bool

	QueuePaused bool `json:"-"`
}

// CertainlyFailed is how many requests failed without being in doubt.
func (s summary) CertainlyFailed() int { return s.FailedRequests - s.InDoubtRequests }

// Short is enough of a ticket to tell batches apart.
func (s summary) Short() string { return s.Ticket[:min(8, len(s.Ticket))] }

// Took is how long the batch has run, or runs.
func (s summary) Took() time.Duration {
	switch {
	case s.StartedAt.IsZero():
		return 0
	case s.FinishedAt.IsZero():
		return time.Since(s.StartedAt)
	}
	return s.FinishedAt.Sub(s.StartedAt)
}

// Label is the status in a word that people use.
func (s summary) Label() string {
	switch {
	case s.Status == "COMPLETED" && s.CertainlyFailed() > 0:
		return "failures"
	case s.Status == "COMPLETED" && s.InDoubtRequests > 0:
		return "in doubt"
	case s.Status == "COMPLETED" && s.CompletedRequests < s.TotalRequests:
		return "cut short"
	case s.Status == "COMPLETED":
		return "completed"
	case s.Quarantined:
		return "set aside"
	case s.Paused, s.QueuePaused:
		return "paused"
	case s.Status == "IN_PROGRESS", !s.StartedAt.IsZero():
		return "running"
	}
	return "queued"
}

// list is the API's answer to a search.
type list struct {
	Items []summary
	Next  int64
}

// find searches for batches of a store.
func (d *Dashboard) find(r *http.Request, query url.Values) (l list, err error) {
	store := r.PathValue("store")
	if err := d.get(r, batchPath(store)+"/search", query, &l); err != nil {
		return l, err
	}
	open := false
	for i := range l.Items {
		l.Items[i].Store = store
		open = open || l.Items[i].Status != "COMPLETED"
	}
	if !open {
		return l, nil
	}
	var queue struct{ Paused bool }
	if err := d.get(r, batchPath(store)+"/queue", nil, &queue); err != nil {
		return l, err
	}
	for i := range l.Items {
		l.Items[i].QueuePaused = queue.Paused
	}
	return l, nil
}

// shown is how many batches a list on the store's page has.
const shown = 20

// storeView is a store's page.
type storeView struct {
	Queue struct {
		Unfinished, Kept int
		Paused           bool
		WaitsUntil       time.Time
	}
	Open, Ended list
	Plot        plot
	Filter      filter
}

func (storeView) every() int { return 2000 }

// store shows a store's queue, what it has done, and where to search.
func (d *Dashboard) store(w http.ResponseWriter, r *http.Request) error {
	var v storeView
	path := batchPath(r.PathValue("store"))
	if err := d.get(r, path+"/queue", nil, &v.Queue); err != nil {
		return err
	}
	var err error
	if v.Open, err = d.find(r, url.Values{"status": {"UNFINISHED"}, "limit": {strconv.Itoa(shown)}}); err != nil {
		return err
	}
	if v.Ended, err = d.find(r, url.Values{"status": {"COMPLETED"}, "limit": {strconv.Itoa(shown)}}); err != nil {
		return err
	}
	var active activity
	if err := d.get(r, path+"/activity", nil, &active); err != nil {
		return err
	}
	v.Plot = draw(&active)
	remember(w, r, r.PathValue("store"), false)
	return d.show(w, r, http.StatusOK, "store", "Store "+r.PathValue("store"), v)
}

// filter is what the form of a search holds.
type filter struct {
	Ticket, Status, GroupID, From, To, Code, Path string
	Failed, InDoubt                               bool
}

// formMoment is the form in which browsers give a moment without a zone; here it is UTC.
const formMoment = "2006-01-02T15:04"

// filterOf reads the form.
func filterOf(q url.Values) filter {
	return filter{
		Ticket: q.Get("ticket"), Status: q.Get("status"), GroupID: q.Get("groupId"), From: q.Get("createdFrom"), To: q.Get("createdTo"),
		Code: q.Get("code"), Path: q.Get("path"), Failed: q.Get("failed") == "true", InDoubt: q.Get("inDoubt") == "true",
	}
}

// Query is the filter as the API takes it.
func (f filter) Query() url.Values {
	q := url.Values{}
	add := func(name, value string) {
		if value != "" {
			q.Set(name, value)
		}
	}
	add("status", f.Status)
	add("groupId", f.GroupID)
	add("createdFrom", utc(f.From))
	add("createdTo", utc(f.To))
	add("code", f.Code)
	add("path", f.Path)
	if f.Failed {
		q.Set("failed", "true")
	}
	if f.InDoubt {
		q.Set("inDoubt", "true")
	}
	return q
}

// Form is the filter as the form's address has it.
func (f filter) Form() url.Values {
	q := f.Query()
	for name, value := range map[string]string{"createdFrom": f.From, "createdTo": f.To} {
		if value != "" {
			q.Set(name, value)
		}
	}
	return q
}

// utc gives a moment of the form its zone. What is no such moment stays as it is, for the API
// to say what is wrong.
func utc(text string) string {
	for _, layout := range []string{formMoment, formMoment + ":05"} {
		if t, err := time.Parse(layout, text); err == nil {
			return t.Format(time.RFC3339)
		}
	}
	return text
}

// searchView is the page of what was found.
type searchView struct {
	Filter  filter
	Found   list
	Older   string // the address of the next page; empty: there is none
	Problem string // what is wrong with the filter
}

// search shows what a filter finds. A ticket leads to its batch.
func (d *Dashboard) search(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	v := searchView{Filter: filterOf(q)}
	if v.Filter.Ticket != "" {
		http.Redirect(w, r, storePage(r.PathValue("store"))+"/batches/"+url.PathEscape(v.Filter.Ticket), http.StatusSeeOther) //nolint:gosec // a page of ours
		return nil
	}
	ask := v.Filter.Query()
	ask.Set("limit", "50")
	if after := q.Get("after"); after != "" {
		ask.Set("after", after)
	}
	status := http.StatusOK
	var err error
	v.Found, err = d.find(r, ask)
	if p, ok := asProblem(err); ok && p.status == http.StatusBadRequest {
		v.Problem, status = p.text, p.status
	} else if err != nil {
		return err
	}
	if v.Found.Next != 0 {
		older := v.Filter.Form()
		older.Set("after", strconv.FormatInt(v.Found.Next, 10))
		v.Older = storePage(r.PathValue("store")) + "/search?" + older.Encode()
	}
	return d.show(w, r, status, "search", "Search", v)
}
