package telemetry

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/sheafapi/sheaf/internal/engine"
	"github.com/sheafapi/sheaf/internal/storage"
)

const (
	// overviewAge is how long an overview is reused, so that frequent scrapes don't read the database.
	overviewAge = 5 * time.Second
	// overviewTimeout is how long a scrape waits for storage.
	overviewTimeout = 5 * time.Second
	// overviewLoads is how many queues are counted in their store's class: those with the most
	// unfinished batches.
	overviewLoads = 1000
)

// The names of the classes that exist even if the operator chooses none.
const (
	EveryStore  = "all"
	OtherStores = "other"
)

// Sources return the current state of the service. All must be set.
type Sources struct {
	Engine   func() engine.State
	Room     func() (used, limit int64) // bytes of the database; a limit of 0: no limit
	Overview func(ctx context.Context, loads int) (storage.Overview, error)
}

// Node is the state of one node.
type Node struct {
	Version string
	engine.State
	Upstream Health
}

// Reporter shows the state of the service and the counts of Metrics, to Prometheus as an HTTP
// handler and to operators through Node. It is safe for concurrent use.
type Reporter struct {
	http.Handler // answers with all metrics, in the format that the client requests

	metrics *Metrics
	sources Sources
}

// NewReporter returns a Reporter. Metrics can have only one.
func NewReporter(m *Metrics, s Sources) *Reporter {
	m.registry.MustRegister(newGauges(m, s))
	return &Reporter{
		Handler: promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{ErrorLog: slog.NewLogLogger(m.options.Logger.Handler(), slog.LevelWarn), EnableOpenMetrics: true}),
		metrics: m, sources: s,
	}
}

// Node returns the state of this node.
func (r *Reporter) Node() Node {
	return Node{Version: r.metrics.options.Version, State: r.sources.Engine(), Upstream: r.metrics.recent.health(time.Now())}
}

// gauges are the metrics that are read when Prometheus asks for them.
type gauges struct {
	m       *Metrics
	sources Sources

	unfinished, quarantined, withWork, atWork, nodes, bytes, log     *prometheus.Desc // of the whole database
	running, places, inFlight, maxInFlight, heldBack, outage, parked *prometheus.Desc // of this node
	used, limit                                                      *prometheus.Desc // of a database with a limit

	mu   sync.Mutex
	last storage.Overview
	at   time.Time // when last was read
}

func newGauges(m *Metrics, sources Sources) *gauges {
	gauge := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	const all = " In the whole database: every node reports the same value."
	return &gauges{
		m: m, sources: sources,
		unfinished:  gauge("sheaf_batches_unfinished", "Batches that have not ended. Stores beyond the 1,000 with the most batches count as class other."+all, "store_class"),
		quarantined: gauge("sheaf_batches_quarantined", "Quarantined batches, which wait for an operator."+all),
		withWork:    gauge("sheaf_stores_with_work", "Queues that have unfinished batches."+all),
		atWork:      gauge("sheaf_stores_owned", "Queues with unfinished batches that a live node owns."+all),
		nodes:       gauge("sheaf_nodes", "Live nodes."+all),
		bytes:       gauge("sheaf_database_bytes", "Size of the database."+all),
		log:         gauge("sheaf_database_log_bytes", "Size of an SQLite database's write-ahead log on disk."),
		running:     gauge("sheaf_stores_running", "Queues that run on this node."),
		places:      gauge("sheaf_stores_running_limit", "Queues that may run on this node at the same time."),
		inFlight:    gauge("sheaf_requests_in_flight", "Requests in flight from this node."),
		maxInFlight: gauge("sheaf_requests_in_flight_limit", "Requests that may be in flight from this node at the same time."),
		used:        gauge("sheaf_database_used_bytes", "Bytes of the database that count toward --max-database, as last measured."),
		limit:       gauge("sheaf_database_limit_bytes", "Limit on the size of the database: --max-database."),
		heldBack:    gauge("sheaf_credentials_held", "Credentials in use on this node whose requests all wait because the API asked for a pause."),
		outage:      gauge("sheaf_upstream_outage", "1 while the upstream is unavailable and receives only probes from this node; otherwise 0."),
		parked:      gauge("sheaf_queues_parked", "Queues that wait on this node until the upstream is available again."),
	}
}

// Describe implements prometheus.Collector.
func (g *gauges) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{g.unfinished, g.quarantined, g.withWork, g.atWork, g.nodes, g.bytes, g.log, g.running, g.places, g.inFlight, g.maxInFlight, g.heldBack, g.outage, g.parked, g.used, g.limit} {
		ch <- d
	}
}

// Collect implements prometheus.Collector. If storage doesn't answer, its gauges are left out.
func (g *gauges) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	n := g.sources.Engine()
	gauge(g.running, float64(n.Running))
	gauge(g.places, float64(n.Places))
	gauge(g.inFlight, float64(n.InFlight))
	gauge(g.maxInFlight, float64(n.MaxInFlight))
	gauge(g.heldBack, float64(n.Held))
	outage := 0.
	if !n.Outage.IsZero() {
		outage = 1
	}
	gauge(g.outage, outage)
	gauge(g.parked, float64(n.Parked))
	if used, limit := g.sources.Room(); limit > 0 {
		gauge(g.used, float64(used))
		gauge(g.limit, float64(limit))
	}
	o, err := g.overview()
	if err != nil {
		return
	}
	gauge(g.quarantined, float64(o.Quarantined))
	gauge(g.withWork, float64(o.Queues))
	gauge(g.atWork, float64(o.Owned))
	gauge(g.nodes, float64(len(o.Nodes)))
	gauge(g.bytes, float64(o.Bytes))
	if o.LogBytes > 0 {
		gauge(g.log, float64(o.LogBytes))
	}
	for class, open := range g.byClass(&o) {
		gauge(g.unfinished, float64(open), class)
	}
}

// byClass counts unfinished batches by the class of their store.
func (g *gauges) byClass(o *storage.Overview) map[string]int {
	out, rest := map[string]int{}, o.Open
	g.m.classes.Range(func(name, _ any) bool {
		out[name.(string)] = 0 // so that a class without work is shown
		return true
	})
	for _, l := range o.Loads {
		store, _, _ := strings.Cut(l.Queue, "/")
		out[g.m.options.Class(store)] += l.Open
		rest -= l.Open
	}
	all := OtherStores
	if g.m.options.Class("") == EveryStore {
		all = EveryStore
	}
	out[all] += max(rest, 0)
	return out
}

// overview reads the overview, or returns the last one if that is recent.
func (g *gauges) overview() (storage.Overview, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if time.Since(g.at) < overviewAge {
		return g.last, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), overviewTimeout)
	defer cancel()
	o, err := g.sources.Overview(ctx, overviewLoads)
	if err == nil {
		g.last, g.at = o, time.Now()
	}
	return o, err
}
