package sheaf

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/sheafapi/sheaf/internal/api"
	"github.com/sheafapi/sheaf/internal/engine"
	"github.com/sheafapi/sheaf/internal/storage"
	"github.com/sheafapi/sheaf/internal/telemetry"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
)

// scope names what traces come from.
const scope = "github.com/sheafapi/sheaf"

// tracer returns what traces; nil: nothing is.
func (o *Options) tracer() trace.Tracer {
	if o.Observe.TracerProvider == nil {
		return nil
	}
	return o.Observe.TracerProvider.Tracer(scope, trace.WithInstrumentationVersion(Version))
}

// upstreamAttributes are where attempts go, as far as that is the same for all stores.
func (o *Options) upstreamAttributes() []attribute.KeyValue {
	u, err := url.Parse(strings.ReplaceAll(o.Upstream.URL, "{storeId}", "store"))
	if err != nil || strings.Contains(strings.SplitN(o.Upstream.URL, "/", 4)[2], "{") {
		return nil
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return nil
	}
	return []attribute.KeyValue{attribute.String("server.address", u.Hostname()), attribute.Int("server.port", n)}
}

// newMetrics returns what counts what the service does.
func (s *Service) newMetrics(o *Options) *telemetry.Metrics {
	return telemetry.New(telemetry.Options{
		Version: Version, Class: o.Observe.StoreClass, Logger: o.Logger,
		Overview: func(ctx context.Context) (storage.Overview, error) { return s.storage.Overview(ctx, countedLoads) },
		Node: func() telemetry.Node {
			n := s.engine.State()
			used, limit := s.room.usage()
			return telemetry.Node{Used: used, Limit: limit, Running: n.Running, Places: o.Limits.StoresAtOnce, InFlight: n.InFlight, MaxInFlight: o.Limits.MaxOutbound, Held: n.Held}
		},
	})
}

// told is who is told of what happens; nil: nobody.
type told struct {
	observer  engine.Observer
	call      func(method, route string, status int, took time.Duration)
	created   func(store string)
	delivered func(*storage.Delivery)
}

// counted returns the storage that API and engine use, and who is told of what happens.
func (s *Service) counted() (storage.Storage, told) {
	return &measured{s.storage, s.metrics}, told{s.metrics, s.metrics.Call, s.metrics.Created, s.metrics.Delivered}
}

// countedLoads is of how many queues, those with the most work, the classes are counted.
const countedLoads = 1000

// nodeState is what an operator is told of this node.
func (s *Service) nodeState(o *Options) api.NodeState {
	n, seen := s.engine.State(), s.metrics.Health.Seen(time.Now())
	return api.NodeState{
		Version: Version, Running: n.Running, Places: o.Limits.StoresAtOnce, InFlight: n.InFlight,
		Upstream: api.UpstreamState{
			Window: telemetry.Window, Requests: seen.Requests, Codes: seen.Codes, Median: seen.Median, P99: seen.P99, Held: n.Held, HeldUntil: n.Until,
		},
	}
}

// Metrics answers with the service's metrics, in the text format of Prometheus or OpenMetrics.
// It asks for no token: serve it where only those can ask who may know.
func (s *Service) Metrics() http.Handler { return s.metrics }

// measured is storage whose operations are counted, and timed.
type measured struct {
	storage.Storage
	metrics *telemetry.Metrics
}

// time counts an operation when it is over. What storage says for certain is no failure.
func (m *measured) time(name string, began time.Time, err *error) {
	_, damaged := errors.AsType[*storage.DamagedError](*err)
	failed := *err != nil && (damaged || !storage.Certain(*err)) && !errors.Is(*err, context.Canceled)
	m.metrics.Operation(name, time.Since(began), failed)
}

// Create implements storage.Storage.
func (m *measured) Create(ctx context.Context, b *storage.NewBatch) (c storage.CreateResult, err error) {
	defer m.time("create", time.Now(), &err)
	return m.Storage.Create(ctx, b)
}

// Status implements storage.Storage.
func (m *measured) Status(ctx context.Context, key storage.Key, maxBytes int) (s *storage.Status, err error) {
	defer m.time("status", time.Now(), &err)
	return m.Storage.Status(ctx, key, maxBytes)
}

// Stop implements storage.Storage.
func (m *measured) Stop(ctx context.Context, sel storage.Selection) (s storage.StopResult, err error) {
	s, err = m.Storage.Stop(ctx, sel)
	m.metrics.Stopped(s.Count)
	return s, err
}

// Claim implements storage.Storage.
func (m *measured) Claim(ctx context.Context, q storage.QueueID) (c *storage.Claim, err error) {
	defer m.time("claim", time.Now(), &err)
	return m.Storage.Claim(ctx, q)
}

// Load implements storage.Storage.
func (m *measured) Load(ctx context.Context, c *storage.Claim) (err error) {
	defer m.time("load", time.Now(), &err)
	return m.Storage.Load(ctx, c)
}

// Record implements storage.Storage.
func (m *measured) Record(ctx context.Context, c *storage.Claim, marks []storage.Mark) (s storage.Signals, err error) {
	if len(marks) > 0 {
		defer m.time("record", time.Now(), &err)
	}
	return m.Storage.Record(ctx, c, marks)
}

// Finish implements storage.Storage.
func (m *measured) Finish(ctx context.Context, c *storage.Claim, marks []storage.Mark, reason string, release bool) (next *storage.Claim, err error) {
	defer m.time("finish", time.Now(), &err)
	return m.Storage.Finish(ctx, c, marks, reason, release)
}

// Release implements storage.Storage.
func (m *measured) Release(ctx context.Context, c *storage.Claim, marks []storage.Mark, notBefore time.Time) (err error) {
	defer m.time("release", time.Now(), &err)
	return m.Storage.Release(ctx, c, marks, notBefore)
}

// Results implements storage.Storage.
func (m *measured) Results(ctx context.Context, id storage.BatchID, from, maxBytes int) (page []storage.IndexedResult, err error) {
	defer m.time("results", time.Now(), &err)
	return m.Storage.Results(ctx, id, from, maxBytes)
}

// Quarantine implements storage.Storage.
func (m *measured) Quarantine(ctx context.Context, c *storage.Claim, reason string) (err error) {
	defer m.time("quarantine", time.Now(), &err)
	return m.Storage.Quarantine(ctx, c, reason)
}

// Runnable implements storage.Storage.
func (m *measured) Runnable(ctx context.Context, after storage.QueueID, limit int) (page []storage.Runnable, err error) {
	defer m.time("runnable", time.Now(), &err)
	return m.Storage.Runnable(ctx, after, limit)
}

// Purge implements storage.Storage.
func (m *measured) Purge(ctx context.Context, retention time.Duration) (more bool, err error) {
	defer m.time("purge", time.Now(), &err)
	return m.Storage.Purge(ctx, retention)
}

var _ engine.Observer = (*telemetry.Metrics)(nil)
