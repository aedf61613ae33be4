package sheaf

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sheafapi/sheaf/internal/secret"
	"github.com/sheafapi/sheaf/internal/strictupstream"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	span "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// collector receives traces over OTLP.
type collector struct {
	*httptest.Server
	mu    sync.Mutex
	spans []*span.Span
}

func newCollector(t *testing.T) *collector {
	c := &collector{}
	c.Server = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var got collectorpb.ExportTraceServiceRequest
		if err == nil {
			err = proto.Unmarshal(body, &got)
		}
		if err != nil {
			t.Error(err)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, r := range got.ResourceSpans {
			for _, s := range r.ScopeSpans {
				c.spans = append(c.spans, s.Spans...)
			}
		}
	}))
	t.Cleanup(c.Close)
	return c
}

// provider returns a provider that sends spans to the collector when it is flushed.
func (c *collector) provider(t *testing.T, sampler sdktrace.Sampler) *sdktrace.TracerProvider {
	t.Helper()
	exporter, err := otlptracehttp.New(t.Context(), otlptracehttp.WithEndpointURL(c.URL+"/v1/traces"))
	if err != nil {
		t.Fatal(err)
	}
	p := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithSampler(sampler))
	t.Cleanup(func() { _ = p.Shutdown(context.Background()) })
	return p
}

// attributeOf returns an attribute of a span as text.
func attributeOf(s *span.Span, key string) string {
	for _, a := range s.Attributes {
		if a.Key != key {
			continue
		}
		switch v := a.Value.Value.(type) {
		case *common.AnyValue_StringValue:
			return v.StringValue
		case *common.AnyValue_IntValue:
			return strconv.FormatInt(v.IntValue, 10)
		}
	}
	return ""
}

// running runs a service until stop is called or the test ends. ask calls its API. Metrics and
// traces of a batch's end may be recorded after a caller has seen the end; they are complete after
// stop.
func running(t *testing.T, o Options) (s *Service, ask func(method, path string, headers http.Header, body string) string, stop func()) {
	t.Helper()
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan error, 1)
	go func() { over <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-over; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		stop()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s, func(method, path string, headers http.Header, body string) string {
		r := httptest.NewRequest(method, path, strings.NewReader(body)).WithContext(t.Context())
		if headers != nil {
			r.Header = headers.Clone()
		}
		r.Header.Set("Authorization", "Bearer token")
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		return w.Body.String()
	}, stop
}

// traced runs a batch within a caller's trace and returns the headers that the upstream got, by path.
func traced(t *testing.T, o Options, headers http.Header) map[string]http.Header {
	t.Helper()
	var mu sync.Mutex
	seen := map[string]http.Header{}
	upstream, _ := strictupstream.Start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		seen[r.URL.Path] = r.Header.Clone()
		if r.URL.Path == "/broken" {
			w.WriteHeader(http.StatusInternalServerError)
		}
	}))
	t.Cleanup(upstream.Close)
	o.Upstream.URL = upstream.URL
	s, ask, stop := running(t, o)
	refused := httptest.NewRequest("POST", "/api/v3/1003/batch", strings.NewReader("{")).WithContext(t.Context())
	refused.Header = headers.Clone()
	s.ServeHTTP(httptest.NewRecorder(), refused) // without a token
	var made struct{ Ticket string }
	text := ask("POST", "/api/v3/1003/batch?stopOnFirstFailure=false", headers, `[{"method":"GET","path":"/fine?secret=1"},{"method":"POST","path":"/broken","body":{}},{"method":"GET","path":"/own","headers":{"Traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"}}]`)
	if err := json.Unmarshal([]byte(text), &made); err != nil {
		t.Fatal(err)
	}
	for status := ""; !strings.Contains(status, `"COMPLETED"`); {
		status = ask("GET", "/api/v3/1003/batch?responses=false&wait=30&ticket="+made.Ticket, nil, "")
	}
	stop()
	mu.Lock()
	defer mu.Unlock()
	return seen
}

// keyFile creates a file with a secret key.
func keyFile(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "secret.key")
	if _, err := secret.Create(file); err != nil {
		t.Fatal(err)
	}
	return file
}

const callerTrace = "4bf92f3577b34da6a3ce929d0e0e4736"

// TestTraces: one trace leads from the caller through the queue to each request, on both databases. A
// request's own trace is kept.
func TestTraces(t *testing.T) {
	onEach(t, func(t *testing.T, o Options) {
		c := newCollector(t)
		provider := c.provider(t, sdktrace.ParentBased(sdktrace.NeverSample()))
		o.Observe.TracerProvider, o.Retries.Limit, o.Retries.Interval = provider, new(1), time.Millisecond
		seen := traced(t, o, http.Header{"Traceparent": {"00-" + callerTrace + "-00f067aa0ba902b7-01"}, "Tracestate": {"vendor=x"}})
		if err := provider.ForceFlush(t.Context()); err != nil {
			t.Fatal(err)
		}
		checkSpans(t, c)
		for path, h := range seen {
			if path != "/own" && (!strings.HasPrefix(h.Get("Traceparent"), "00-"+callerTrace+"-") || h.Get("Tracestate") != "vendor=x") {
				t.Errorf("%s got %q %q", path, h.Get("Traceparent"), h.Get("Tracestate"))
			}
		}
		if got := seen["/own"].Values("Traceparent"); len(got) != 1 || got[0] != "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00" {
			t.Errorf("a request's own trace became %q", got)
		}
	})
}

// checkSpans checks the tree of spans.
func checkSpans(t *testing.T, c *collector) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	byName := map[string][]*span.Span{}
	parents := map[string]*span.Span{}
	for _, s := range c.spans {
		byName[s.Name] = append(byName[s.Name], s)
		parents[string(s.SpanId)] = s
		if got := trace.TraceID(s.TraceId).String(); got != callerTrace {
			t.Errorf("%s is in the trace %s", s.Name, got)
		}
		for _, a := range s.Attributes {
			if strings.Contains(a.String(), "secret") {
				t.Errorf("%s contains a query: %s", s.Name, a)
			}
		}
	}
	create, queue, run := byName["POST /api/v3/{storeId}/batch"], byName["batch queue"], byName["batch run"]
	if len(create) != 2 || len(queue) != 1 || len(run) == 0 || len(byName["GET"]) != 2 || len(byName["POST"]) != 2 {
		t.Fatalf("spans: %v", byName)
	}
	slices.SortFunc(create, func(a, b *span.Span) int {
		return strings.Compare(attributeOf(a, "http.response.status_code"), attributeOf(b, "http.response.status_code"))
	})
	if attributeOf(create[1], "http.response.status_code") != "401" {
		t.Errorf("the refused create: %v", create[1])
	}
	if create[0].Kind != span.Span_SPAN_KIND_SERVER || attributeOf(create[0], "http.response.status_code") != "200" {
		t.Errorf("create: %v", create[0])
	}
	for _, s := range append(queue, run...) {
		if string(s.ParentSpanId) != string(create[0].SpanId) {
			t.Errorf("the parent of %s isn't the create", s.Name)
		}
	}
	if queue[0].StartTimeUnixNano > queue[0].EndTimeUnixNano {
		t.Errorf("the queue: %v", queue[0])
	}
	resent := 0
	for _, s := range append(byName["GET"], byName["POST"]...) {
		if p := parents[string(s.ParentSpanId)]; p == nil || p.Name != "batch run" || s.Kind != span.Span_SPAN_KIND_CLIENT {
			t.Errorf("the parent of %v is %v", s, p)
		}
		path := attributeOf(s, "url.path")
		if path == "/broken" && (s.Status.GetCode() != span.Status_STATUS_CODE_ERROR || attributeOf(s, "http.response.status_code") != "500") {
			t.Errorf("the failed attempt: %v", s)
		}
		if attributeOf(s, "http.request.resend_count") == "1" {
			resent++
		}
		if attributeOf(s, "server.address") != "127.0.0.1" {
			t.Errorf("where it was sent: %v", s)
		}
	}
	if resent != 1 {
		t.Errorf("%d attempts were repeated, want 1", resent)
	}
}

// TestTracesOff: without a provider nothing is recorded, but the caller's trace is passed on.
func TestTracesOff(t *testing.T) {
	const parent = "00-" + callerTrace + "-00f067aa0ba902b7-01"
	o := Options{Database: Database{URL: "sqlite:" + filepath.Join(t.TempDir(), "sheaf.db")}, Retries: Retries{Limit: new(0)}}
	for path, h := range traced(t, o, http.Header{"Traceparent": {parent}}) {
		if path != "/own" && h.Get("Traceparent") != parent {
			t.Errorf("%s got %q", path, h.Get("Traceparent"))
		}
	}
	o.Database.URL = "sqlite:" + filepath.Join(t.TempDir(), "sheaf.db")
	for path, h := range traced(t, o, http.Header{}) {
		if path != "/own" && h.Get("Traceparent") != "" {
			t.Errorf("without a trace %s got %q", path, h.Get("Traceparent"))
		}
	}
}

// TestTracesSampled: a caller's trace that isn't sampled is passed on but not recorded.
func TestTracesSampled(t *testing.T) {
	c := newCollector(t)
	provider := c.provider(t, sdktrace.ParentBased(sdktrace.AlwaysSample()))
	o := Options{Database: Database{URL: "sqlite:" + filepath.Join(t.TempDir(), "sheaf.db")}, Observe: Observe{TracerProvider: provider}, Retries: Retries{Limit: new(0)}}
	seen := traced(t, o, http.Header{"Traceparent": {"00-" + callerTrace + "-00f067aa0ba902b7-00"}})
	if err := provider.ForceFlush(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.spans {
		if trace.TraceID(s.TraceId).String() == callerTrace {
			t.Errorf("recorded: %s", s.Name)
		}
	}
	if got := seen["/fine"].Get("Traceparent"); !strings.HasPrefix(got, "00-"+callerTrace) || !strings.HasSuffix(got, "-00") {
		t.Errorf("passed on: %q", got)
	}
}

// metricsOf reads the metrics by name and labels.
func metricsOf(t *testing.T, s *Service) map[string]string {
	t.Helper()
	w := httptest.NewRecorder()
	s.Metrics().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	out := map[string]string{}
	for line := range strings.Lines(w.Body.String()) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && !strings.HasPrefix(line, "#") {
			out[name] = value
		}
	}
	return out
}

// TestMetrics: each event is counted once, on both databases. No label names a store.
func TestMetrics(t *testing.T) {
	onEach(t, func(t *testing.T, o Options) {
		var limited, broken atomic.Int32
		limited.Store(2)
		broken.Store(1)
		upstream, _ := strictupstream.Start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			switch {
			case r.URL.Path == "/limited" && limited.Add(-1) >= 0:
				w.Header().Set("Retry-After", "0")
				w.WriteHeader(http.StatusTooManyRequests)
			case r.URL.Path == "/broken" && broken.Add(-1) >= 0:
				w.WriteHeader(http.StatusInternalServerError)
			case r.URL.Path == "/doubt":
				panic(http.ErrAbortHandler)
			case r.URL.Path == "/missing":
				w.WriteHeader(http.StatusNotFound)
			}
		}))
		t.Cleanup(upstream.Close)
		o.Upstream.URL, o.Retries.Interval, o.Logger = upstream.URL, time.Millisecond, slog.New(slog.DiscardHandler)
		s, ask, stop := running(t, o)
		var made struct{ Ticket string }
		end := func(query, body string) {
			t.Helper()
			if err := json.Unmarshal([]byte(ask("POST", "/api/v3/1003/batch"+query, nil, body)), &made); err != nil {
				t.Fatal(err)
			}
			for status := ""; !strings.Contains(status, `"COMPLETED"`); {
				status = ask("GET", "/api/v3/1003/batch?responses=false&wait=30&ticket="+made.Ticket, nil, "")
			}
		}
		end("?stopOnFirstFailure=false", `[{"method":"GET","path":"/fine"},{"method":"GET","path":"/limited"},{"method":"GET","path":"/broken"},{"method":"POST","path":"/doubt","body":{}},{"method":"GET","path":"/missing"}]`)
		end("", `[{"method":"GET","path":"/missing"},{"method":"GET","path":"/fine"}]`)
		end("", `[{"method":"GET","path":"/fine"}]`)
		ask("GET", "/nowhere", nil, "")

		stop()
		got := metricsOf(t, s)
		for metric, want := range map[string]string{
			`sheaf_batches_created_total{store_class="all"}`:                      "3",
			`sheaf_batches_finished_total{outcome="completed",store_class="all"}`: "1",
			`sheaf_batches_finished_total{outcome="failed",store_class="all"}`:    "2",
			`sheaf_requests_total{outcome="completed",store_class="all"}`:         "4",
			`sheaf_requests_total{outcome="failed",store_class="all"}`:            "2",
			`sheaf_requests_total{outcome="in_doubt",store_class="all"}`:          "1",
			`sheaf_requests_total{outcome="not_executed",store_class="all"}`:      "1",
			`sheaf_retries_total`:   "1",
			`sheaf_throttles_total`: "2",
			`sheaf_upstream_request_duration_seconds_count{code="2xx"}`:          "4",
			`sheaf_upstream_request_duration_seconds_count{code="throttled"}`:    "2",
			`sheaf_upstream_request_duration_seconds_count{code="5xx"}`:          "1",
			`sheaf_upstream_request_duration_seconds_count{code="4xx"}`:          "2",
			`sheaf_upstream_request_duration_seconds_count{code="none"}`:         "1",
			`sheaf_batch_queue_wait_seconds_count{store_class="all"}`:            "3",
			`sheaf_batch_duration_seconds_count{store_class="all"}`:              "3",
			`sheaf_batches_unfinished{store_class="all"}`:                        "0",
			`sheaf_requests_in_flight`:                                           "0",
			`sheaf_nodes`:                                                        "1",
			`sheaf_storage_operation_duration_seconds_count{operation="create"}`: "3",
			`sheaf_ownership_losses_total`:                                       "0",
			`http_server_request_duration_seconds_count{http_request_method="POST",http_response_status_code="200",http_route="/api/v3/{storeId}/batch"}`: "3",
			`http_server_request_duration_seconds_count{http_request_method="GET",http_response_status_code="404",http_route="none"}`:                     "1",
		} {
			if got[metric] != want {
				t.Errorf("%s is %q, want %s", metric, got[metric], want)
			}
		}
		if v, err := strconv.ParseFloat(got["sheaf_throttled_seconds_total"], 64); err != nil || v <= 0 {
			t.Errorf("throttled for %q s", got["sheaf_throttled_seconds_total"])
		}
		for metric := range got {
			if strings.Contains(metric, "1003") || strings.Contains(metric, "token") {
				t.Errorf("a label names a store or a token: %s", metric)
			}
		}
	})
}
