package dashboard

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// storeLoad is a store with unfinished batches.
type storeLoad struct {
	Store, Caller     string
	UnfinishedBatches int
	OldestCreatedAt   time.Time
	AtWork, Paused    bool
	waiting
}

// operatorView is the data of the page of all stores.
type operatorView struct {
	Nodes []struct {
		Name                 string
		Self                 bool
		StartedAt, RenewedAt time.Time
		Stores               int
	}
	Stores struct {
		WithWork, AtWork, UnfinishedBatches, QuarantinedBatches int
		Deepest, Slowest                                        []storeLoad
	}
	Database struct{ Bytes int64 }
	Node     struct {
		Version                                      string
		StoresAtWork, StoresAtOnce, RequestsUnderWay int
		Upstream                                     struct {
			WindowSeconds, Requests, CredentialsHeld, StoresParked int
			Codes                                                  map[string]int
			MedianMs, P99Ms                                        float64
			HeldUntil, OutageSince                                 time.Time
		}
	}
	Codes       []codeCount        `json:"-"`
	Quarantined []quarantinedBatch `json:"-"`
}

// quarantinedBatch is a batch that can't be run and waits for an operator.
type quarantinedBatch struct {
	Ticket, StoreID, Reason  string
	TotalRequests            int
	CreatedAt, QuarantinedAt time.Time
}

// Short returns the first characters of the ticket.
func (b quarantinedBatch) Short() string { return short(b.Ticket) }

func (operatorView) every() int { return 2000 }

// codeCount counts the answers with one class of status codes.
type codeCount struct {
	Name    string
	Count   int
	Percent float64
}

// operator shows an overview of the whole service. It needs an operator key.
func (d *Dashboard) operator(w http.ResponseWriter, r *http.Request) error {
	var v operatorView
	err := d.get(r, "/operator", nil, &v)
	if p, ok := asProblem(err); ok && p.status == http.StatusUnauthorized && d.tokenOf(r) != "" {
		// The list of operator keys is separate, so the token may still be valid for a store.
		return &problem{http.StatusForbidden, p.text + " You need an operator key to see all stores."}
	}
	if err != nil {
		return err
	}
	for name, n := range v.Node.Upstream.Codes {
		v.Codes = append(v.Codes, codeCount{name, n, 100 * float64(n) / float64(max(v.Node.Upstream.Requests, 1))})
	}
	slices.SortFunc(v.Codes, func(a, b codeCount) int { return strings.Compare(a.Name, b.Name) })
	if v.Stores.QuarantinedBatches > 0 {
		var got struct{ Batches []quarantinedBatch }
		if err := d.get(r, "/operator/quarantine", nil, &got); err != nil {
			return err
		}
		v.Quarantined = got.Batches
	}
	remember(w, r, "", true)
	return d.show(w, r, http.StatusOK, "operator", "All stores", v)
}

// actQuarantined releases or ends a quarantined batch. It needs an operator key.
func (d *Dashboard) actQuarantined(w http.ResponseWriter, r *http.Request) error {
	if err := form(w, r); err != nil {
		return err
	}
	const back = prefix + "operator"
	ticket, action := r.PathValue("ticket"), r.PathValue("action")
	ask := map[string]confirmView{
		"release": {Question: "Release batch " + ticket + "? It runs next in its store and continues where it stopped. If the cause persists, Sheaf quarantines it again.", Button: "Release batch"},
		"end":     {Question: "End batch " + ticket + "? Recorded results are kept. A request that was in flight is marked in doubt, and the rest is not executed. This can't be undone.", Button: "End batch", Danger: true},
	}
	q, ok := ask[action]
	if !ok {
		return d.notFound(w, r)
	}
	if !confirmed(r) {
		q.Action, q.Back = r.URL.Path, back
		return d.show(w, r, http.StatusOK, "confirm", q.Button+"?", q)
	}
	var got struct{ UpdateCount int }
	if err := d.post(r, "/operator/quarantine/"+action, url.Values{"ticket": {ticket}}, &got); err != nil {
		return err
	}
	return done(w, r, back, "aside-"+action, -1)
}
