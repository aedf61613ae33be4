package api

import (
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/sheafapi/sheaf/internal/api/reply"
	"github.com/sheafapi/sheaf/internal/batch"
)

// ServeHTTP answers one request.
func (s *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h["Cache-Control"], h["X-Content-Type-Options"] = noStore, noSniff
	if hasUnclearEnd(r) {
		h.Set("Connection", "close")
	}
	c := &call{Call: reply.Call{W: w, R: r}, id: identify(r.Header)}
	h[requestIDHeader] = []string{c.id}
	if s.Observe != nil {
		began := time.Now()
		defer func() { s.count(c, began) }()
	}
	defer func() {
		if c.traced != nil {
			c.traced()
		}
	}()
	if s.Audit != nil {
		defer s.audit(c) // runs after survive
	}
	defer s.survive(c)
	if err := s.serve(c); err != nil {
		c.fail(err)
	}
	c.End()
}

// serve finds the endpoint, or forwards the call to the upstream.
func (s *API) serve(c *call) error {
	path := segments(c.R.URL.EscapedPath())
	for i := range routes {
		rt := &routes[i]
		if store, ok := rt.match(path); ok {
			return s.serveRoute(c, rt, store)
		}
	}
	if isTunnel(c.R.Method) {
		c.W.Header().Set("Allow", forwardable)
		return fail(methodNotAllowed, "%s is not forwarded. Send one of %s.", c.R.Method, forwardable)
	}
	if s.Forward != nil && len(path) > 4 && path[1] == "api" && path[2] == "v3" {
		c.template = "/api/v3/{storeId}/*"
		return s.forward(c, path)
	}
	return fail(notFound, "Nothing is served at this path. Batches are at /api/v3/{storeId}/batch.")
}

// serveRoute checks what all calls have in common, in the order method, token, store, right,
// parameters, and then serves the call.
func (s *API) serveRoute(c *call, rt *route, store string) error {
	c.template = rt.template
	s.trace(c)
	op, found := rt.operation(c.R.Method)
	if !found {
		c.W.Header().Set("Allow", rt.allow)
		return fail(methodNotAllowed, "This endpoint supports only %s.", rt.allow)
	}
	if rt.open {
		return op.serve(s, c)
	}
	c.action = op.action
	if err := s.admit(c, rt, op, store); err != nil {
		return err
	}
	if c.R.Method == http.MethodPost && !op.hasBody {
		if err := s.readForm(c); err != nil {
			return err
		}
	}
	if err := c.query.refuse(knownParams, op.params, "this call"); err != nil {
		return err
	}
	if c.R.Method != http.MethodPost && c.R.Method != http.MethodDelete {
		c.W.Header()["Vary"] = byCoding // even if this answer isn't compressed
		c.Coding = reply.Negotiate(c.R.Header)
	}
	return op.serve(s, c)
}

// admit checks the token, the store and the form of the query.
func (s *API) admit(c *call, rt *route, op operation, store string) (err error) {
	if rt.operates {
		if err := s.authorizeOperator(c); err != nil {
			return err
		}
		c.query, err = parseParams(c.R.URL.RawQuery)
		return err
	}
	if c.token, err = bearer(c.R.Header); err != nil {
		return err
	}
	if !batch.ValidStoreID(store) {
		return fail(wrongParameter, "The store id in the path must be 1 to %d of the characters A-Z a-z 0-9 _ -.", batch.MaxStoreID)
	}
	c.Store = store
	if c.query, err = parseParams(c.R.URL.RawQuery); err != nil {
		return err
	}
	if err := s.authorize(c, op.right); err != nil {
		return err
	}
	c.setNames(c.Owner, s.network(c.R))
	return nil
}

// survive turns a panic into a 500 answer, or breaks the connection if a part of an answer has been
// sent. It logs the panic's value only if the value can't contain a caller's data.
func (s *API) survive(c *call) {
	v := recover()
	if v == nil {
		return
	}
	err, _ := v.(error)
	if errors.Is(err, http.ErrAbortHandler) {
		c.Status = 0
		reply.Abort()
	}
	what := fmt.Sprintf("%T", v)
	var fault runtime.Error
	if errors.As(err, &fault) {
		what = fault.Error()
	}
	s.Logger.Error("a request caused a panic; please report this", "panic", what, "store", c.Store, "request_id", c.id, "stack", string(debug.Stack()))
	if c.Started {
		c.Status = 0
		reply.Abort()
	}
	c.fail(fail(internalError, "The service failed to answer this request. See its log."))
}
