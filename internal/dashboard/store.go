package dashboard

import (
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// summary is the API's description of a batch in a list.
type summary struct {
	Store  string `json:"-"`
	Ticket string

	Status, GroupID, RetryOf string

	TotalRequests, CompletedRequests, FailedRequests, InDoubtRequests int

	CreatedAt, StartedAt, FinishedAt time.Time
	Retried, Paused, Quarantined     bool

	QueuePaused bool `json:"-"`
}

// CertainlyFailed returns how many failed requests are not in doubt.
func (s summary) CertainlyFailed() int { return s.FailedRequests - s.InDoubtRequests }

// Short returns the first characters of the ticket.
func (s summary) Short() string { return short(s.Ticket) }

// Took returns how long the batch ran, or has been running.
func (s summary) Took() time.Duration {
	switch {
	case s.StartedAt.IsZero():
		return 0
	case s.FinishedAt.IsZero():
		return time.Since(s.StartedAt)
	}
	return s.FinishedAt.Sub(s.StartedAt)
}

// Label returns the status as the page shows it.
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
		return "quarantined"
	case s.Paused, s.QueuePaused:
		return "paused"
	case s.Status == "IN_PROGRESS", !s.StartedAt.IsZero():
		return "running"
	}
	return "queued"
}

// list is the API's answer to a search. Next is the key of the next page, or 0 if there is none.
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

// listLength is the number of batches in each list on a store's page.
const listLength = 20

// storeView is the data of a store's page.
type storeView struct {
	Queue struct {
		Unfinished, Kept int
		Paused           bool
		waiting
	}
	Open, Ended list
	Plot        plot
	Filter      filter
}

func (storeView) every() int { return 2000 }

// store shows a store's queue, its recent activity, and a search form.
func (d *Dashboard) store(w http.ResponseWriter, r *http.Request) error {
	var v storeView
	path := batchPath(r.PathValue("store"))
	if err := d.get(r, path+"/queue", nil, &v.Queue); err != nil {
		return err
	}
	var err error
	if v.Open, err = d.find(r, url.Values{"status": {"UNFINISHED"}, "limit": {strconv.Itoa(listLength)}}); err != nil {
		return err
	}
	if v.Ended, err = d.find(r, url.Values{"status": {"COMPLETED"}, "limit": {strconv.Itoa(listLength)}}); err != nil {
		return err
	}
	var active activity
	if err := d.get(r, path+"/activity", nil, &active); err != nil {
		return err
	}
	v.Plot = newPlot(&active)
	remember(w, r, r.PathValue("store"), false)
	return d.show(w, r, http.StatusOK, "store", "Store "+r.PathValue("store"), v)
}

// filter is the content of a search form.
type filter struct {
	Ticket, Status, GroupID, From, To, Code, Path string
	Failed, InDoubt                               bool
}

// formTime is the layout of a datetime-local input. The dashboard interprets its value as UTC.
const formTime = "2006-01-02T15:04"

// filterOf reads a filter from a form.
func filterOf(q url.Values) filter {
	return filter{
		Ticket: q.Get("ticket"), Status: q.Get("status"), GroupID: q.Get("groupId"), From: q.Get("createdFrom"), To: q.Get("createdTo"),
		Code: q.Get("code"), Path: q.Get("path"), Failed: q.Get("failed") == "true", InDoubt: q.Get("inDoubt") == "true",
	}
}

// Query returns the filter as parameters for the API.
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

// Form returns the filter as parameters of the search page.
func (f filter) Form() url.Values {
	q := f.Query()
	for name, value := range map[string]string{"createdFrom": f.From, "createdTo": f.To} {
		if value != "" {
			q.Set(name, value)
		}
	}
	return q
}

// utc converts a time from the form to RFC 3339. It returns an invalid time unchanged, so that the
// API reports the error.
func utc(text string) string {
	for _, layout := range []string{formTime, formTime + ":05"} {
		if t, err := time.Parse(layout, text); err == nil {
			return t.Format(time.RFC3339)
		}
	}
	return text
}

// searchView is the data of the search page.
type searchView struct {
	Filter  filter
	Found   list
	Older   string // the URL of the page with older batches; "": there is none
	Problem string // what is wrong with the filter
}

// search shows the batches that match a filter. A search for a ticket redirects to the batch.
func (d *Dashboard) search(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	v := searchView{Filter: filterOf(q)}
	if v.Filter.Ticket != "" {
		http.Redirect(w, r, storePage(r.PathValue("store"))+"/batches/"+url.PathEscape(v.Filter.Ticket), http.StatusSeeOther) //nolint:gosec // a page of the dashboard
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
