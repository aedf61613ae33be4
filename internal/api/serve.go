package api

import (
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
)

// ServeHTTP answers one request.
func (s *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h["Cache-Control"], h["X-Content-Type-Options"] = noStore, noSniff
	if hasUnclearEnd(r) {
		h.Set("Connection", "close")
	}
	c := &call{w: w, r: r, id: identify(r.Header)}
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
		defer s.audit(c) // after survive
	}
	defer s.survive(c)
	if err := s.serve(c); err != nil {
		c.fail(err)
	}
	c.pace.end(w)
}

// serve finds the endpoint and checks what all calls have in common, in the order
// route, method, token, store, query (wire contract, "Base").
func (s *API) serve(c *call) error {
	path := segments(c.r.URL.EscapedPath())
	for i := range routes {
		rt := &routes[i]
		store, ok := rt.match(path)
		if !ok {
			continue
		}
		c.route = rt.template
		s.trace(c)
		method := c.r.Method
		if method == http.MethodHead {
			method = http.MethodGet
		}
		op, found := rt.methods[method]
		if !found {
			c.w.Header().Set("Allow", rt.allow)
			return fail(methodNotAllowed, "This address can be asked with %s only.", rt.allow)
		}
		if rt.operates {
			c.action = strings.TrimPrefix(rt.template, "/")
			err := s.admitOperator(c)
			if err == nil {
				c.query, err = parseParams(c.r.URL.RawQuery)
			}
			if err != nil {
				return err
			}
		} else if !rt.open {
			c.action = rt.action(method)
			if err := c.admit(store); err != nil {
				return err
			}
			if err := s.authorize(c, rt.right(method)); err != nil {
				return err
			}
			s.recognize(c)
		}
		if !rt.open {
			if err := s.readParams(c, op); err != nil {
				return err
			}
		}
		if method == http.MethodGet && !rt.open {
			c.w.Header()["Vary"] = byCoding // whether this one is compressed or not
			c.coding = negotiate(c.r.Header["Accept-Encoding"])
		}
		return op.serve(s, c)
	}
	if isTunnel(c.r.Method) {
		c.w.Header().Set("Allow", forwardable)
		return fail(methodNotAllowed, "%s is not forwarded. Send one of %s.", c.r.Method, forwardable)
	}
	if s.Forward != nil && len(path) > 4 && path[1] == "api" && path[2] == "v3" {
		c.route = "/api/v3/{storeId}/*"
		return s.forward(c, path)
	}
	return fail(notFound, "There is nothing at this address; batches are at /api/v3/{storeId}/batch.")
}

// admit checks the token, the store and the query's form.
func (c *call) admit(store string) (err error) {
	if c.token, err = bearer(c.r.Header); err != nil {
		return err
	}
	if !batch.ValidStoreID(store) {
		return fail(wrongParameter, "The store id in the path must be 1 to %d of the characters A-Z a-z 0-9 _ -.", batch.MaxStoreID)
	}
	c.store = store
	c.query, err = parseParams(c.r.URL.RawQuery)
	return err
}

// readParams reads the parameters of a POST whose body is not a batch, including those of a form in
// the body. It refuses parameters that only other calls have.
func (s *API) readParams(c *call, op operation) error {
	if c.r.Method == http.MethodPost && !op.hasBody {
		if err := s.readForm(c); err != nil {
			return err
		}
	}
	return c.query.refuse(knownParams, op.params, "this call")
}

// survive turns a panic into an answer 500, or breaks the connection if an answer is
// on its way. Of the panic's value only what can't hold a caller's data is logged.
func (s *API) survive(c *call) {
	v := recover()
	if v == nil {
		return
	}
	err, _ := v.(error)
	if errors.Is(err, http.ErrAbortHandler) {
		c.status = 0
		abort()
	}
	what := fmt.Sprintf("%T", v)
	var fault runtime.Error
	if errors.As(err, &fault) {
		what = fault.Error()
	}
	s.Logger.Error("a request made the service panic; please report this", "panic", what, "store", c.store, "request_id", c.id, "stack", string(debug.Stack()))
	if c.started {
		c.status = 0
		abort()
	}
	c.fail(fail(internalError, "The service failed to answer this request. Its log says more."))
}
