package dashboard

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// load is a store with work.
type load struct {
	Store, Caller     string
	UnfinishedBatches int
	OldestCreatedAt   time.Time
	AtWork, Paused    bool
	WaitsUntil        time.Time
}

// operatorView is how the whole service does.
type operatorView struct {
	Nodes []struct {
		Name                 string
		Self                 bool
		StartedAt, RenewedAt time.Time
		Stores               int
	}
	Stores struct {
		WithWork, AtWork, UnfinishedBatches, QuarantinedBatches int
		Deepest, Slowest                                        []load
	}
	Database struct{ Bytes int64 }
	Node     struct {
		Version                                      string
		StoresAtWork, StoresAtOnce, RequestsUnderWay int
		Upstream                                     struct {
			WindowSeconds, Requests, CredentialsHeld int
			Codes                                    map[string]int
			MedianMs, P99Ms                          float64
			HeldUntil                                time.Time
		}
	}
	Codes []codeCount `json:"-"`
	Aside []aside     `json:"-"`
}

// aside is a quarantined batch.
type aside struct {
	Ticket, StoreID, Reason  string
	TotalRequests            int
	CreatedAt, QuarantinedAt time.Time
}

// Short is enough of a ticket to tell batches apart.
func (a aside) Short() string { return a.Ticket[:min(8, len(a.Ticket))] }

func (operatorView) every() int { return 2000 }

// codeCount is how often a class of answers came.
type codeCount struct {
	Name    string
	Count   int
	Percent float64
}

// operator shows how the whole service does, to keys that may see it.
func (d *Dashboard) operator(w http.ResponseWriter, r *http.Request) error {
	var v operatorView
	err := d.get(r, "/operator", nil, &v)
	if p, ok := asProblem(err); ok && p.status == http.StatusUnauthorized && d.tokenOf(r) != "" {
		// Operators' keys are a separate list, so the token may still be valid for a store.
		return &problem{http.StatusForbidden, p.text + " Only keys with the right to operate can see all stores."}
	}
	if err != nil {
		return err
	}
	for name, n := range v.Node.Upstream.Codes {
		v.Codes = append(v.Codes, codeCount{name, n, 100 * float64(n) / float64(max(v.Node.Upstream.Requests, 1))})
	}
	slices.SortFunc(v.Codes, func(a, b codeCount) int { return strings.Compare(a.Name, b.Name) })
	if v.Stores.QuarantinedBatches > 0 {
		var got struct{ Batches []aside }
		if err := d.get(r, "/operator/quarantine", nil, &got); err != nil {
			return err
		}
		v.Aside = got.Batches
	}
	remember(w, r, "", true)
	return d.show(w, r, http.StatusOK, "operator", "All stores", v)
}

// actAside releases a batch that was set aside, or ends it. Only operators' tokens can.
func (d *Dashboard) actAside(w http.ResponseWriter, r *http.Request) error {
	if err := form(w, r); err != nil {
		return err
	}
	const back = prefix + "operator"
	ticket, action := r.PathValue("ticket"), r.PathValue("action")
	ask := map[string]confirmView{
		"release": {Question: "Run batch " + ticket + " again as the next one of its store, from where it stopped? If the cause is still there, Sheaf sets it aside again.", Button: "Release the batch"},
		"end":     {Question: "End batch " + ticket + "? Recorded results stay. A request that was in flight is in doubt, and the rest is not executed. This can't be undone.", Button: "End the batch", Danger: true},
	}
	q, ok := ask[action]
	if !ok {
		return d.nothing(w, r)
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
