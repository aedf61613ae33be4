package dashboard

import (
	"net/http"
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
}

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
	if p, ok := asProblem(err); ok && p.status == http.StatusUnauthorized && tokenOf(r) != "" {
		// Operators' keys are a list of their own: at a store the token may be as good as before.
		return &problem{http.StatusForbidden, p.text + " All stores are for keys with the right to operate."}
	}
	if err != nil {
		return err
	}
	for name, n := range v.Node.Upstream.Codes {
		v.Codes = append(v.Codes, codeCount{name, n, 100 * float64(n) / float64(max(v.Node.Upstream.Requests, 1))})
	}
	slices.SortFunc(v.Codes, func(a, b codeCount) int { return strings.Compare(a.Name, b.Name) })
	remember(w, r, "", true)
	return d.show(w, r, http.StatusOK, "operator", "All stores", v)
}
