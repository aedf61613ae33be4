package engine

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/outbound"
	"github.com/sheafapi/sheaf/internal/storage"
	"github.com/sheafapi/sheaf/internal/tracing"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// runTrace traces one run. The zero value traces nothing.
type runTrace struct {
	ctx     context.Context // the context with span
	span    trace.Span      // nil: this node records no traces and only forwards the caller's trace
	headers []batch.Header  // the headers that forward the caller's trace if span is nil
}

// startTrace begins the trace of a run if its batch was created within a trace.
func (e *Engine) startTrace(c *storage.Claim) (t runTrace) {
	if c.Trace == "" {
		return t
	}
	ctx := tracing.Continue(context.Background(), c.Trace)
	if e.Tracer == nil {
		t.headers = traceHeaders(ctx)
		return t
	}
	t.ctx, t.span = e.Tracer.Start(ctx, "batch run", trace.WithSpanKind(trace.SpanKindConsumer), trace.WithAttributes(
		attribute.String("sheaf.ticket", c.Ticket.String()), attribute.String("sheaf.store", c.Store), attribute.Int("sheaf.requests", len(c.Requests))))
	return t
}

// traceHeaders returns the headers that forward the context's trace.
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
	return slices.Clip(out) // so that attempts can append to it concurrently
}

// isTraceHeader reports whether a header sets the trace of a request.
func isTraceHeader(h batch.Header) bool {
	return strings.EqualFold(h.Name, tracing.Parent) || strings.EqualFold(h.Name, tracing.State)
}

// recordWait traces how long the batch waited before it started. It is called when the batch ends.
func (t *runTrace) recordWait(e *Engine, c *storage.Claim) {
	if t.span == nil || c.StartedAt.Before(c.CreatedAt) {
		return
	}
	_, waited := e.Tracer.Start(tracing.Continue(context.Background(), c.Trace), "batch queue",
		trace.WithTimestamp(c.CreatedAt), trace.WithAttributes(attribute.String("sheaf.ticket", c.Ticket.String())))
	waited.End(trace.WithTimestamp(c.StartedAt))
}

// attempt begins the trace of one attempt. It returns the headers that forward the trace. Unless end is
// nil, the caller must call end with the outcome.
func (t *runTrace) attempt(e *Engine, req *batch.Request, index, resends int) (headers []batch.Header, end func(*outbound.Answer)) {
	if t.span == nil {
		return t.headers, nil
	}
	// The attributes follow OpenTelemetry's semantic conventions for HTTP clients. Queries are left out,
	// because they may contain secrets.
	ctx, span := e.Tracer.Start(t.ctx, req.Method, trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(e.TraceAttributes...), trace.WithAttributes(
		attribute.String("http.request.method", req.Method), attribute.String("url.path", pathOf(req.Path)), attribute.Int("sheaf.index", index)))
	if resends > 0 {
		span.SetAttributes(attribute.Int("http.request.resend_count", resends))
	}
	return traceHeaders(ctx), func(a *outbound.Answer) {
		switch {
		case a.Outcome == outbound.Withheld:
			span.AddEvent("not sent: another node may have taken over")
		case a.Outcome != outbound.Answered:
			kind := map[outbound.Outcome]string{outbound.NotSent: "not_sent", outbound.Refused: "refused", outbound.Doubt: "in_doubt", outbound.TooLarge: "too_large"}[a.Outcome]
			span.SetAttributes(attribute.String("error.type", kind))
			span.SetStatus(codes.Error, a.Line)
		default:
			span.SetAttributes(attribute.Int("http.response.status_code", a.Code))
			if a.Code >= 400 {
				span.SetAttributes(attribute.String("error.type", strconv.Itoa(a.Code)))
				span.SetStatus(codes.Error, "")
			}
		}
		span.End()
	}
}

// end ends the run's trace.
func (t *runTrace) end() {
	if t.span != nil {
		t.span.End()
	}
}

// pathOf returns a path without its query.
func pathOf(path string) string {
	path, _, _ = strings.Cut(path, "?")
	return path
}
