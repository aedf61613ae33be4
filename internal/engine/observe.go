package engine

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/outbound"
	"github.com/sheafapi/sheaf/internal/storage"
	"github.com/sheafapi/sheaf/internal/tracing"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// Observer is told what happens. Its methods are called from many goroutines, and must not
// block.
type Observer interface {
	// Attempted: an attempt was made, and what came of it.
	Attempted(outcome outbound.Outcome, code int, took time.Duration)
	// Waits: a request is put off, after an answer 429 or another failure.
	Waits(throttled bool, pause time.Duration)
	// Ended: a request ran to an end. It may be in doubt whether the upstream carried it out.
	Ended(store string, status batch.ResultStatus, inDoubt bool)
	// BatchEnded: so many requests failed, and so many were not executed.
	BatchEnded(c *storage.Claim, failed, notExecuted int, now time.Time)
	// Quarantined: a batch was set aside.
	Quarantined(c *storage.Claim)
	// Claimed: a queue was taken over. Lost: a batch is not run any more, as the node was taken for dead.
	Claimed()
	Lost()
}

// nobody is told nothing.
type nobody struct{}

func (nobody) Attempted(outbound.Outcome, int, time.Duration)       {}
func (nobody) Waits(bool, time.Duration)                            {}
func (nobody) Ended(string, batch.ResultStatus, bool)               {}
func (nobody) BatchEnded(c *storage.Claim, _, _ int, now time.Time) {}
func (nobody) Quarantined(*storage.Claim)                           {}
func (nobody) Claimed()                                             {}
func (nobody) Lost()                                                {}

// State is what an engine knows of itself at one moment.
type State struct {
	Running  int // queues that hold a place
	InFlight int // attempts under way
	Held     int // credentials that have to wait
	Until    time.Time
}

// State returns how things stand.
func (e *Engine) State() State {
	e.mu.Lock()
	running := e.running
	e.mu.Unlock()
	held, until := e.governor.Held(time.Now())
	return State{Running: running, InFlight: int(e.inFlight.Load()), Held: held, Until: until}
}

// observe tells what an attempt's mark means.
func (r *run) observe(m *storage.Mark, a *outbound.Answer, now time.Time) {
	o := r.e.Observer
	if m.State == storage.Waiting {
		o.Waits(a.Outcome == outbound.Answered && m.Result.Code == http.StatusTooManyRequests, m.NotBefore.Sub(now))
		return
	}
	o.Ended(r.c.Store, m.Result.Status, m.InDoubt())
}

// traced is what is traced of a run; the zero value traces nothing.
type traced struct {
	ctx     context.Context // nil: there is no trace
	whole   trace.Span      // nil: the trace is the caller's alone, and only passed on
	headers []batch.Header  // what passes the trace on where nothing is recorded
}

// trace begins to trace a run, where its batch was created within a trace.
func (r *run) trace() {
	if r.c.Trace == "" {
		return
	}
	ctx := tracing.Continue(context.Background(), r.c.Trace)
	if r.e.Tracer == nil {
		r.traced.headers = traceHeaders(ctx)
		return
	}
	r.traced.ctx, r.traced.whole = r.e.Tracer.Start(ctx, "batch run", trace.WithSpanKind(trace.SpanKindConsumer), trace.WithAttributes(
		attribute.String("sheaf.ticket", r.c.Ticket.String()), attribute.String("sheaf.store", r.c.Store), attribute.Int("sheaf.requests", len(r.requests))))
}

// traceHeaders returns the headers that pass the context's trace on.
func traceHeaders(ctx context.Context) []batch.Header {
	text := tracing.Text(ctx)
	if text == "" {
		return nil
	}
	parent, state, ok := strings.Cut(text, " ")
	out := []batch.Header{{Name: tracing.Parent, Value: parent}}
	if ok {
		out = append(out, batch.Header{Name: tracing.State, Value: state})
	}
	return slices.Clip(out) // attempts append to it
}

// isTraceHeader reports whether a request brings a trace of its own.
func isTraceHeader(h batch.Header) bool {
	return strings.EqualFold(h.Name, tracing.Parent) || strings.EqualFold(h.Name, tracing.State)
}

// queued traces the time that the batch had to wait for its start: once, at its end.
func (s *traced) queued(e *Engine, c *storage.Claim) {
	if s.whole == nil || c.StartedAt.Before(c.CreatedAt) {
		return
	}
	_, waited := e.Tracer.Start(tracing.Continue(context.Background(), c.Trace), "batch queue",
		trace.WithTimestamp(c.CreatedAt), trace.WithAttributes(attribute.String("sheaf.ticket", c.Ticket.String())))
	waited.End(trace.WithTimestamp(c.StartedAt))
}

// attempt traces one attempt; headers pass the trace on. end takes what came of it.
func (s *traced) attempt(e *Engine, req *batch.Request, index, resends int) (headers []batch.Header, end func(*outbound.Answer)) {
	if s.whole == nil {
		return s.headers, nil
	}
	// By the semantic conventions of OpenTelemetry for HTTP clients; of the address only what is
	// no secret: queries are not told.
	ctx, one := e.Tracer.Start(s.ctx, req.Method, trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(e.TraceAttributes...), trace.WithAttributes(
		attribute.String("http.request.method", req.Method), attribute.String("url.path", pathOf(req.Path)), attribute.Int("sheaf.index", index)))
	if resends > 0 {
		one.SetAttributes(attribute.Int("http.request.resend_count", resends))
	}
	return traceHeaders(ctx), func(a *outbound.Answer) {
		switch {
		case a.Outcome == outbound.Withheld:
			one.AddEvent("not sent: another node may have taken over")
		case a.Outcome != outbound.Answered:
			kind := map[outbound.Outcome]string{outbound.NotSent: "not_sent", outbound.Refused: "refused", outbound.Doubt: "in_doubt", outbound.TooLarge: "too_large"}[a.Outcome]
			one.SetAttributes(attribute.String("error.type", kind))
			one.SetStatus(codes.Error, a.Line)
		default:
			one.SetAttributes(attribute.Int("http.response.status_code", a.Code))
			if a.Code >= 400 {
				one.SetAttributes(attribute.String("error.type", strconv.Itoa(a.Code)))
				one.SetStatus(codes.Error, "")
			}
		}
		one.End()
	}
}

// end ends what is traced of the run.
func (s *traced) end() {
	if s.whole != nil {
		s.whole.End()
	}
}

// pathOf is a path without its query.
func pathOf(path string) string {
	path, _, _ = strings.Cut(path, "?")
	return path
}

// repeatedInterval is how often a failure that goes on is told.
const repeatedInterval = time.Minute

// repeated tells the first of failures that repeat, and then how many there were, once a
// minute. The zero value has told none.
type repeated struct {
	mu    sync.Mutex
	told  time.Time
	since int
}

// count counts a failure, and reports whether it is to be told, with how many there were since
// one was told last.
func (r *repeated) count(now time.Time) (since int, tell bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.since++
	since = r.since
	if tell = now.Sub(r.told) >= repeatedInterval; tell {
		r.told, r.since = now, 0
	}
	return since, tell
}
