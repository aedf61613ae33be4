// Package telemetry counts what the service does, for Prometheus and for operators. Names and units
// follow Prometheus's conventions (https://prometheus.io/docs/practices/naming/).
//
// Stores are counted by class. No label names a store unless the operator chose a class for each
// store.
package telemetry

import (
	"log/slog"
	"runtime"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/engine"
	"github.com/sheafapi/sheaf/internal/outbound"
	"github.com/sheafapi/sheaf/internal/storage"
)

// Options configure Metrics. All must be set.
type Options struct {
	Version string
	Class   func(store string) string // returns a store's class; the operator decides how many there are
	Logger  *slog.Logger
}

// Metrics counts events. Create it with New. Its methods don't block and are safe for concurrent
// use.
type Metrics struct {
	options  Options
	registry *prometheus.Registry
	recent   recent // the upstream's answers

	created     *prometheus.CounterVec // by class
	finished    *prometheus.CounterVec // by class and outcome
	requests    *prometheus.CounterVec // by class and outcome
	waited      *prometheus.HistogramVec
	took        *prometheus.HistogramVec
	stopped     prometheus.Counter
	retries     prometheus.Counter
	throttles   prometheus.Counter
	throttled   prometheus.Counter
	quarantined prometheus.Counter
	claims      prometheus.Counter
	lost        prometheus.Counter
	upstream    *prometheus.HistogramVec // by code
	operation   *prometheus.HistogramVec
	failures    *prometheus.CounterVec // of storage, by operation
	calls       *prometheus.HistogramVec
	delivered   *prometheus.CounterVec

	codes      [codes]prometheus.Observer // of upstream
	operations sync.Map                   // name → prometheus.Observer
	classes    sync.Map                   // store class → *class
}

var _ engine.Observer = (*Metrics)(nil)

// class holds the counters of a class of stores.
type class struct {
	created                              prometheus.Counter
	completed, failed, skipped, doubtful prometheus.Counter // requests
	ended                                [3]prometheus.Counter
	waited, took                         prometheus.Observer
}

// The outcomes of a batch.
const (
	succeeded = iota // every request was COMPLETED
	withFailures
	unexecuted // no request failed, but some were not executed, for example because the batch was stopped
)

var outcomes = [3]string{succeeded: "completed", withFailures: "failed", unexecuted: "not_executed"}

// Buckets, in seconds.
var (
	callBuckets    = []float64{.001, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}
	storageBuckets = []float64{.0002, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1, 5}
	batchBuckets   = []float64{.01, .05, .1, .5, 1, 5, 15, 60, 300, 900, 3600, 6 * 3600, 24 * 3600}
)

// New returns Metrics with their own registry.
func New(o Options) *Metrics {
	r := prometheus.NewRegistry()
	m := &Metrics{options: o, registry: r}
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
		r.MustRegister(c)
		return c
	}
	counters := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
		r.MustRegister(c)
		return c
	}
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		h := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
		r.MustRegister(h)
		return h
	}
	m.created = counters("sheaf_batches_created_total", "Batches created through this node.", "store_class")
	m.finished = counters("sheaf_batches_finished_total", "Batches that ended on this node: completed (every request succeeded), failed (some requests failed), not_executed (no request failed, some were not executed).", "store_class", "outcome")
	m.stopped = counter("sheaf_batches_stopped_total", "Batches stopped through this node before they ended.")
	m.requests = counters("sheaf_requests_total", "Requests that ended on this node: completed, failed, in_doubt (failed, and it is unknown whether the API carried them out), not_executed.", "store_class", "outcome")
	m.waited = histogram("sheaf_batch_queue_wait_seconds", "Time from a batch's creation to its start.", batchBuckets, "store_class")
	m.took = histogram("sheaf_batch_duration_seconds", "Time from a batch's start to its end.", batchBuckets, "store_class")
	m.upstream = histogram("sheaf_upstream_request_duration_seconds", "Duration of attempts, by the class of the answer's status code (throttled: 429; none: no answer).", callBuckets, "code")
	m.retries = counter("sheaf_retries_total", "Failed attempts that will be retried.")
	m.throttles = counter("sheaf_throttles_total", "Attempts that the upstream refused because of a rate limit and that will be retried.")
	m.throttled = counter("sheaf_throttled_seconds_total", "Time that requests had to wait because of a rate limit.")
	m.quarantined = counter("sheaf_batches_set_aside_total", "Batches that this node could not run and quarantined.")
	m.claims = counter("sheaf_ownership_claims_total", "Queues that this node claimed in order to run their batches.")
	m.lost = counter("sheaf_ownership_losses_total", "Batches that this node stopped running because other nodes presumed it dead.")
	m.operation = histogram("sheaf_storage_operation_duration_seconds", "Duration of storage operations, until the change was durable or the data was read.", storageBuckets, "operation")
	m.failures = counters("sheaf_storage_failures_total", "Storage operations that failed.", "operation")
	m.calls = histogram("http_server_request_duration_seconds", "Duration of calls to the API, until the answer was sent.", callBuckets, "http_request_method", "http_route", "http_response_status_code")
	m.delivered = counters("sheaf_webhook_deliveries_total", "Attempts to deliver a callback: delivered, failed (will be retried), given_up.", "outcome")
	for i := range m.codes {
		m.codes[i] = m.upstream.WithLabelValues(codeNames[i])
	}
	// Counters that have not counted anything yet are shown as 0. Otherwise, a rate would miss the
	// first event.
	for _, name := range []string{"create", "status", "claim", "load", "record", "finish", "release", "results", "quarantine", "runnable", "purge"} {
		m.failures.WithLabelValues(name)
	}
	for _, outcome := range []string{"delivered", "failed", "given_up"} {
		m.delivered.WithLabelValues(outcome)
	}
	if name := o.Class(""); name == EveryStore {
		m.of("")
	}
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "sheaf_build_info", Help: "The running version; always 1."}, []string{"version", "go_version"})
	build.WithLabelValues(o.Version, runtime.Version()).Set(1)
	r.MustRegister(build, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// of returns the counters of a store's class.
func (m *Metrics) of(store string) *class {
	name := m.options.Class(store)
	if c, ok := m.classes.Load(name); ok {
		return c.(*class)
	}
	c := &class{
		created:   m.created.WithLabelValues(name),
		completed: m.requests.WithLabelValues(name, "completed"), failed: m.requests.WithLabelValues(name, "failed"),
		skipped: m.requests.WithLabelValues(name, "not_executed"), doubtful: m.requests.WithLabelValues(name, "in_doubt"),
		waited: m.waited.WithLabelValues(name), took: m.took.WithLabelValues(name),
	}
	for i, outcome := range outcomes {
		c.ended[i] = m.finished.WithLabelValues(name, outcome)
	}
	kept, _ := m.classes.LoadOrStore(name, c)
	return kept.(*class)
}

// Attempted implements engine.Observer.
func (m *Metrics) Attempted(outcome outbound.Outcome, code int, took time.Duration) {
	c := codeOf(outcome, code)
	m.codes[c].Observe(took.Seconds())
	m.recent.add(c, took, time.Now())
}

// Ended implements engine.Observer.
func (m *Metrics) Ended(store string, status batch.ResultStatus, inDoubt bool) {
	switch c := m.of(store); {
	case inDoubt:
		c.doubtful.Inc()
	case status == batch.Succeeded:
		c.completed.Inc()
	case status == batch.Failed:
		c.failed.Inc()
	}
}

// Waits implements engine.Observer.
func (m *Metrics) Waits(throttled bool, pause time.Duration) {
	if !throttled {
		m.retries.Inc()
		return
	}
	m.throttles.Inc()
	m.throttled.Add(max(pause.Seconds(), 0))
}

// BatchEnded implements engine.Observer.
func (m *Metrics) BatchEnded(c *storage.Claim, failed, notExecuted int, now time.Time) {
	k := m.of(c.Store)
	outcome := succeeded
	switch {
	case failed > 0:
		outcome = withFailures
	case notExecuted > 0:
		outcome = unexecuted
	}
	k.ended[outcome].Inc()
	k.skipped.Add(float64(notExecuted))
	k.waited.Observe(max(c.StartedAt.Sub(c.CreatedAt).Seconds(), 0))
	k.took.Observe(max(now.Sub(c.StartedAt).Seconds(), 0))
}

// Quarantined implements engine.Observer.
func (m *Metrics) Quarantined(*storage.Claim) { m.quarantined.Inc() }

// Claimed implements engine.Observer.
func (m *Metrics) Claimed() { m.claims.Inc() }

// Lost implements engine.Observer.
func (m *Metrics) Lost() { m.lost.Inc() }

// Created counts a created batch.
func (m *Metrics) Created(store string) { m.of(store).created.Inc() }

// countStopped counts stopped batches.
func (m *Metrics) countStopped(n int) { m.stopped.Add(float64(n)) }

// storageCall counts a call of storage.
func (m *Metrics) storageCall(name string, took time.Duration, failed bool) {
	o, ok := m.operations.Load(name)
	if !ok {
		o, _ = m.operations.LoadOrStore(name, m.operation.WithLabelValues(name))
	}
	o.(prometheus.Observer).Observe(took.Seconds())
	if failed {
		m.failures.WithLabelValues(name).Inc()
	}
}

// Call counts a call to the API. The route is a template and never a path.
func (m *Metrics) Call(method, route string, status int, took time.Duration) {
	m.calls.WithLabelValues(method, route, strconv.Itoa(status)).Observe(took.Seconds())
}

// Delivered counts an attempt to deliver a callback.
func (m *Metrics) Delivered(d *storage.Delivery) {
	switch d.State {
	case storage.Delivered:
		m.delivered.WithLabelValues("delivered").Inc()
	case storage.GivenUp:
		m.delivered.WithLabelValues("given_up").Inc()
	case storage.Pending:
		m.delivered.WithLabelValues("failed").Inc()
	}
}
