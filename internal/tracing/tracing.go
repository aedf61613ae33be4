// Package tracing carries a trace from the call that creates a batch, through storage, to the
// requests that the batch sends: in the form of W3C Trace Context, whether anything is traced
// here or not, so that a caller's own trace goes on in the upstream.
package tracing

import (
	"context"
	"net/http"
	"strings"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// The headers of W3C Trace Context.
const (
	Parent = "Traceparent"
	State  = "Tracestate"
)

// maxState bounds the state that is kept with a batch, in bytes: what is longer is left out
// (Trace Context, section 3.3.1.5, asks for at least 512).
const maxState = 512

var w3c propagation.TraceContext

// From returns the context with the trace that a request belongs to, if it says so.
func From(ctx context.Context, h http.Header) context.Context {
	return w3c.Extract(ctx, propagation.HeaderCarrier(h))
}

// Text returns what is to be kept of the context's trace: the parent and, behind a space, the
// state; empty if there is none.
func Text(ctx context.Context) string {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return ""
	}
	carrier := propagation.MapCarrier{}
	w3c.Inject(ctx, carrier)
	out := carrier.Get("traceparent")
	if state := carrier.Get("tracestate"); state != "" && len(state) <= maxState {
		out += " " + state
	}
	return out
}

// Continue returns the context with the trace that Text has kept.
func Continue(ctx context.Context, text string) context.Context {
	if text == "" {
		return ctx
	}
	parent, state, _ := strings.Cut(text, " ")
	return w3c.Extract(ctx, propagation.MapCarrier{"traceparent": parent, "tracestate": state})
}
