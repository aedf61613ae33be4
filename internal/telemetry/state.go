package telemetry

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sheafapi/sheaf/internal/storage"
)

const (
	// overviewFor is how long what storage said is told again, however many ask.
	overviewFor = 5 * time.Second
	// overviewTimeout bounds how long a scrape waits for storage.
	overviewTimeout = 5 * time.Second
)

// state is what is asked for when metrics are read: how things stand now.
type state struct {
	m *Metrics

	unfinished, quarantined, withWork, atWork, nodes, bytes, log *prometheus.Desc // of the whole database
	running, places, inFlight, maxInFlight, heldBack             *prometheus.Desc // of this node
	used, limit                                                  *prometheus.Desc // of the database, where it is bounded

	mu   sync.Mutex
	last storage.Overview
	at   time.Time
}

func newState(m *Metrics) *state {
	gauge := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	const all = " In the whole database: every node tells the same."
	return &state{
		m:           m,
		unfinished:  gauge("sheaf_batches_unfinished", "Batches that have not ended; those beyond the 1,000 stores with the most are of the class other."+all, "store_class"),
		quarantined: gauge("sheaf_batches_quarantined", "Batches that were set aside and wait for an operator."+all),
		withWork:    gauge("sheaf_stores_with_work", "Queues that have unfinished batches."+all),
		atWork:      gauge("sheaf_stores_owned", "Queues with unfinished batches that a live node has."+all),
		nodes:       gauge("sheaf_nodes", "Nodes that are alive."+all),
		bytes:       gauge("sheaf_database_bytes", "What the database takes."+all),
		log:         gauge("sheaf_database_log_bytes", "The write-ahead log of an SQLite database, on disk."),
		running:     gauge("sheaf_stores_running", "Queues that hold one of this node's places."),
		places:      gauge("sheaf_stores_running_limit", "This node's places for queues."),
		inFlight:    gauge("sheaf_requests_in_flight", "Requests that are under way from this node."),
		maxInFlight: gauge("sheaf_requests_in_flight_limit", "How many may be under way from this node."),
		used:        gauge("sheaf_database_used_bytes", "What counts of the database towards --max-database, as measured last."),
		limit:       gauge("sheaf_database_limit_bytes", "What the database may take: --max-database."),
		heldBack:    gauge("sheaf_credentials_held", "Credentials in use on this node for which everything waits because the API asked for patience."),
	}
}

// Describe implements prometheus.Collector.
func (s *state) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{s.unfinished, s.quarantined, s.withWork, s.atWork, s.nodes, s.bytes, s.log, s.running, s.places, s.inFlight, s.maxInFlight, s.heldBack, s.used, s.limit} {
		ch <- d
	}
}

// Collect implements prometheus.Collector. When storage does not answer, what it knows is
// left out, and the rest is told.
func (s *state) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	n := s.m.options.Node()
	gauge(s.running, float64(n.Running))
	gauge(s.places, float64(n.Places))
	gauge(s.inFlight, float64(n.InFlight))
	gauge(s.maxInFlight, float64(n.MaxInFlight))
	gauge(s.heldBack, float64(n.Held))
	if n.Limit > 0 {
		gauge(s.used, float64(n.Used))
		gauge(s.limit, float64(n.Limit))
	}
	o, err := s.overview()
	if err != nil {
		return
	}
	gauge(s.quarantined, float64(o.Quarantined))
	gauge(s.withWork, float64(o.Queues))
	gauge(s.atWork, float64(o.Owned))
	gauge(s.nodes, float64(len(o.Nodes)))
	gauge(s.bytes, float64(o.Bytes))
	if o.LogBytes > 0 {
		gauge(s.log, float64(o.LogBytes))
	}
	for class, open := range s.byClass(&o) {
		gauge(s.unfinished, float64(open), class)
	}
}

// byClass counts unfinished batches by the class of their store.
func (s *state) byClass(o *storage.Overview) map[string]int {
	out, rest := map[string]int{}, o.Open
	s.m.classes.Range(func(name, _ any) bool {
		out[name.(string)] = 0 // one that has work no more is told so
		return true
	})
	for _, l := range o.Loads {
		store, _, _ := strings.Cut(l.Queue, "/")
		out[s.m.options.Class(store)] += l.Open
		rest -= l.Open
	}
	all := OtherStores
	if s.m.options.Class("") == EveryStore {
		all = EveryStore
	}
	out[all] += max(rest, 0)
	return out
}

// overview asks storage, or repeats what it said a moment ago.
func (s *state) overview() (storage.Overview, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.at) < overviewFor {
		return s.last, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), overviewTimeout)
	defer cancel()
	o, err := s.m.options.Overview(ctx)
	if err == nil {
		s.last, s.at = o, time.Now()
	}
	return o, err
}

// The names of classes that nobody has chosen.
const (
	EveryStore  = "all"
	OtherStores = "other"
)
