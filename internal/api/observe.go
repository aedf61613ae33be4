package api

import (
	"encoding/hex"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"github.com/sheafapi/sheaf/internal/tracing"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// requestIDHeader is the header with the id of a call, which is also in the log. The caller may
// choose the id.
const requestIDHeader = "X-Request-Id"

// maxRequestID is the maximum length of an id that a caller chooses, in bytes.
const maxRequestID = 128

// identify returns the id of a call: the one that the caller chose, if it can be logged, or a new one.
func identify(h http.Header) string {
	if id := h.Get(requestIDHeader); id != "" && len(id) <= maxRequestID && !strings.ContainsFunc(id, unfit) {
		return id
	}
	n := rand.Uint64() //nolint:gosec // not a secret
	var b [8]byte
	for i := range b {
		b[i] = byte(n >> (8 * i))
	}
	return hex.EncodeToString(b[:])
}

// unfit reports whether a character isn't allowed in an id.
func unfit(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("-._", r)
}

// trace begins the span of a call with a known path, within the caller's trace if there is one, and sets
// the trace that a batch continues.
func (s *API) trace(c *call) {
	_, traced := c.R.Header[tracing.Parent]
	if s.Tracer == nil && !traced {
		return
	}
	ctx := c.R.Context()
	if traced {
		ctx = tracing.From(ctx, c.R.Header)
	}
	if s.Tracer == nil {
		c.trace = tracing.Text(ctx)
		return
	}
	// These names follow OpenTelemetry's semantic conventions for HTTP servers.
	ctx, span := s.Tracer.Start(ctx, c.R.Method+" "+c.template, trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(
		attribute.String("http.request.method", c.R.Method), attribute.String("http.route", c.template), attribute.String("sheaf.request_id", c.id)))
	c.R = c.R.WithContext(ctx)
	c.trace = tracing.Text(ctx)
	c.traced = func() {
		span.SetAttributes(attribute.Int("http.response.status_code", c.Status))
		if c.Status >= http.StatusInternalServerError {
			span.SetStatus(codes.Error, "")
		}
		span.End()
	}
}

// count reports a call to Observe after its answer.
func (s *API) count(c *call, began time.Time) {
	template := c.template
	if template == "" {
		template = "none"
	}
	method := c.R.Method
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodDelete, http.MethodPut, http.MethodPatch, http.MethodOptions:
	default:
		method = "_OTHER" // as in the semantic conventions, so that callers can't create labels
	}
	s.Observe(method, template, c.Status, time.Since(began))
}
