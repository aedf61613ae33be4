// Package tracing carries a trace from the call that creates a batch, through storage, to the
// requests that the batch sends. It uses W3C Trace Context. It does so even if this service records
// no traces, so that the caller's trace continues in the upstream.
package tracing

import (
	"context"
	"net"
	"net/http"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// The headers of W3C Trace Context.
const (
	Parent = "Traceparent"
	State  = "Tracestate"
)

// maxState is the longest Tracestate that is stored with a batch, in bytes. A longer one is left out.
// Trace Context, section 3.3.1.5, requires at least 512.
const maxState = 512

var w3c propagation.TraceContext

// Server returns the attributes of requests to a server at a host and port.
func Server(address string) []attribute.KeyValue {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return nil
	}
	return []attribute.KeyValue{attribute.String("server.address", host), attribute.Int("server.port", n)}
}

// From returns a context with the trace that a request's headers name, if any.
func From(ctx context.Context, h http.Header) context.Context {
	return w3c.Extract(ctx, propagation.HeaderCarrier(h))
}

// Text returns the context's trace in the form in which it is stored: the parent and, if there is a
// state, a space and the state. It returns "" if the context has no trace.
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

// Continue returns a context with the trace that an earlier call of Text returned.
func Continue(ctx context.Context, text string) context.Context {
	if text == "" {
		return ctx
	}
	parent, state, _ := strings.Cut(text, " ")
	return w3c.Extract(ctx, propagation.MapCarrier{"traceparent": parent, "tracestate": state})
}
