package api

import (
	"slices"
	"strings"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
	"github.com/sheafapi/sheaf/internal/telemetry"
)

const (
	// overviewLoads is how many queues are read: those with the most unfinished batches.
	// overviewQueues is how many of these each list shows.
	overviewLoads  = 1000
	overviewQueues = 20
)

// These types are the JSON of the answer to GET /operator.
type (
	overviewJSON struct {
		At       string       `json:"at"`
		Nodes    []nodeJSON   `json:"nodes"`
		Stores   storesJSON   `json:"stores"`
		Database databaseJSON `json:"database"`
		Node     stateJSON    `json:"node"`
	}
	nodeJSON struct {
		Name      string `json:"name"`
		Self      bool   `json:"self"`
		StartedAt string `json:"startedAt"`
		RenewedAt string `json:"renewedAt,omitempty"`
		Stores    int    `json:"stores"`
	}
	storesJSON struct {
		WithWork    int         `json:"withWork"`
		AtWork      int         `json:"atWork"`
		Unfinished  int         `json:"unfinishedBatches"`
		Quarantined int         `json:"quarantinedBatches"`
		Deepest     []storeJSON `json:"deepest"`
		Slowest     []storeJSON `json:"slowest"`
	}
	storeJSON struct {
		Store      string `json:"store"`
		Caller     string `json:"caller,omitempty"`
		Unfinished int    `json:"unfinishedBatches"`
		Oldest     string `json:"oldestCreatedAt"`
		AtWork     bool   `json:"atWork"`
		Paused     bool   `json:"paused"`
		waitJSON
	}
	databaseJSON struct {
		Bytes int64 `json:"bytes"`
	}
	stateJSON struct {
		Version  string       `json:"version"`
		Running  int          `json:"storesAtWork"`
		Places   int          `json:"storesAtOnce"`
		InFlight int          `json:"requestsUnderWay"`
		Upstream upstreamJSON `json:"upstream"`
	}
	upstreamJSON struct {
		WindowSeconds int            `json:"windowSeconds"`
		Requests      int            `json:"requests"`
		Codes         map[string]int `json:"codes"`
		MedianMs      float64        `json:"medianMs"`
		P99Ms         float64        `json:"p99Ms"`
		Held          int            `json:"credentialsHeld"`
		HeldUntil     string         `json:"heldUntil,omitempty"`
		OutageSince   string         `json:"outageSince,omitempty"`
		Parked        int            `json:"storesParked"`
	}
)

// operator answers with the state of the whole service: what storage knows about all nodes, and what
// this node knows about itself.
func (s *API) operator(c *call) error {
	o, err := s.Operations.Overview(c.R.Context(), overviewLoads)
	if err != nil {
		return s.storageFailed(c, "overview", batch.Ticket{}, err)
	}
	now := time.Now()
	out := overviewJSON{
		At: jsonTime(now), Database: databaseJSON{o.Bytes},
		Stores: storesJSON{WithWork: o.Queues, AtWork: o.Owned, Unfinished: o.Open, Quarantined: o.Quarantined, Deepest: storesOf(o.Loads, now)},
		Node:   stateOf(s.Node()),
	}
	for _, n := range o.Nodes {
		out.Nodes = append(out.Nodes, nodeJSON{n.Name, n.Self, jsonTime(n.StartedAt), jsonTime(n.RenewedAt), n.Queues})
	}
	slices.SortFunc(o.Loads, func(a, b storage.Load) int { return a.Oldest.Compare(b.Oldest) })
	out.Stores.Slowest = storesOf(o.Loads, now)
	return c.JSON(out)
}

func stateOf(n telemetry.Node) stateJSON {
	return stateJSON{
		Version: n.Version, Running: n.Running, Places: n.Places, InFlight: n.InFlight,
		Upstream: upstreamJSON{
			WindowSeconds: int(telemetry.Window.Seconds()), Requests: n.Upstream.Requests, Codes: n.Upstream.Codes,
			MedianMs: millis(n.Upstream.Median), P99Ms: millis(n.Upstream.P99),
			Held: n.Held, HeldUntil: jsonTime(n.HeldUntil), OutageSince: jsonTime(n.Outage), Parked: n.Parked,
		},
	}
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// storesOf returns the JSON of the first queues in a list. A queue's name is that of its store, or
// the store and the SHA-256 of the queue's token. Only the beginning of the SHA-256 is shown.
func storesOf(all []storage.Load, now time.Time) []storeJSON {
	var out []storeJSON
	for _, l := range all[:min(len(all), overviewQueues)] {
		store, caller, _ := strings.Cut(l.Queue, "/")
		j := storeJSON{
			Store: store, Caller: caller[:min(len(caller), 8)], Unfinished: l.Open, Oldest: jsonTime(l.Oldest), AtWork: l.Owned, Paused: l.Paused,
			waitJSON: waitOf(l.Wait, l.NotBefore, now),
		}
		out = append(out, j)
	}
	return out
}
