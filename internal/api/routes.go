package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// call is one HTTP request and the answer to it.
type call struct {
	w       http.ResponseWriter
	r       *http.Request
	started bool // the answer's head may have been sent

	// Set for resources that belong to a store.
	token string
	owner batch.Owner
	store string
	query params

	names    []name  // of the caller, whose shares are taken
	nameRoom [2]name // where names are

	coding coding // of an answer that is worth it
	pace   pace   // of an answer that holds memory

	id    string // what the call is named in the log and in its answer
	route string // the template of its path; empty: none
	trace string // what a batch's trace goes on from; empty: nothing

	traced func() // ends the call's span, once its answer is sent; nil: there is none

	// For an audit:
	action  string // empty: there is nothing to tell
	who     string // the caller's name; empty: it has none
	created batch.Ticket
	status  int // of the answer
}

// endpoint answers a call, or returns the error to answer with, having sent nothing.
type endpoint func(*API, *call) error

// route is what can be done with one path. HEAD is served as GET.
type route struct {
	template string   // its path; {storeId} stands for any segment
	path     []string // the segments of that
	open     bool     // needs no token and has no store
	creates  bool     // a POST creates a batch
	operates bool     // is for operators, and has no store
	methods  map[string]operation
	allow    string // the Allow header
}

// operation describes one method of a path.
type operation struct {
	serve   endpoint
	params  []string // those that it reads
	hasBody bool     // its body is a batch; other bodies are forms with parameters
}

var routes = cut([]route{
	{template: "/api/v3/{storeId}/batch", allow: "GET, HEAD, POST, DELETE", creates: true, methods: map[string]operation{
		"GET":    {serve: (*API).statusOrSearch, params: slices.Concat(statusParams, searchParams)},
		"POST":   {serve: (*API).create, params: createParams, hasBody: true},
		"DELETE": {serve: (*API).delete, params: ticketParams},
	}},
	{template: "/api/v3/{storeId}/batch/cancel-group", allow: "POST", methods: post((*API).cancelGroup, "ticket", "ticketId", "groupId", "escapedJson")},
	{template: "/api/v3/{storeId}/batch/pause", allow: "POST", methods: post((*API).pause, ticketParams...)},
	{template: "/api/v3/{storeId}/batch/resume", allow: "POST", methods: post((*API).resume, ticketParams...)},
	{template: "/api/v3/{storeId}/batch/retry", allow: "POST", creates: true, methods: post((*API).retry, "ticket", "ticketId", "inDoubt", "callbackUrl", "dryRun")},
	{template: "/api/v3/{storeId}/batch/group", allow: "GET, HEAD", methods: get((*API).group, "groupId")},
	{template: "/api/v3/{storeId}/batch/search", allow: "GET, HEAD", methods: get((*API).find, filterParams("limit", "after")...)},
	{template: "/api/v3/{storeId}/batch/cancel-matching", allow: "POST", methods: post((*API).cancelMatching, filterParams("dryRun")...)},
	{template: "/api/v3/{storeId}/batch/retry-matching", allow: "POST", creates: true, methods: post((*API).retryMatching, filterParams("dryRun", "repeatInDoubt", "callbackUrl")...)},
	{template: "/api/v3/{storeId}/batch/requests", allow: "GET, HEAD", methods: get((*API).requests, "ticket", "ticketId", "after", "limit", "bodyBytes")},
	{template: "/api/v3/{storeId}/batch/body", allow: "GET, HEAD", methods: get((*API).body, "ticket", "ticketId", "index", "of")},
	{template: "/api/v3/{storeId}/batch/timeline", allow: "GET, HEAD", methods: get((*API).timeline, ticketParams...)},
	{template: "/api/v3/{storeId}/batch/queue", allow: "GET, HEAD", methods: get((*API).queueState)},
	{template: "/api/v3/{storeId}/batch/activity", allow: "GET, HEAD", methods: get((*API).activity)},
	{template: "/api/v3/{storeId}/batch/webhooks", allow: "GET, HEAD", methods: get((*API).deliveries, "ticket", "ticketId", "limit", "offset", "after")},
	{template: "/api/v3/{storeId}/batch/webhooks/resend", allow: "POST", creates: true, methods: post((*API).resend, ticketParams...)},
	{template: "/operator", operates: true, allow: "GET, HEAD", methods: get((*API).operator)},
	{template: "/operator/quarantine", operates: true, allow: "GET, HEAD", methods: get((*API).quarantine, "after")},
	{template: "/operator/quarantine/release", operates: true, allow: "POST", methods: post((*API).releaseQuarantined, ticketParams...)},
	{template: "/operator/quarantine/end", operates: true, allow: "POST", methods: post((*API).endQuarantined, ticketParams...)},
	{template: "/healthz", open: true, allow: "GET, HEAD", methods: get((*API).healthz)},
	{template: "/readyz", open: true, allow: "GET, HEAD", methods: get((*API).readyz)},
})

// The parameters of several calls.
var (
	ticketParams = []string{"ticket", "ticketId"}
	createParams = []string{"allowParallelMode", "stopOnFirstFailure", "deduplicationKey", "groupId", "callbackUrl", "dryRun"}
	statusParams = []string{"ticket", "ticketId", "escapedJson", "bodyBytes", "responses", "details", "after", "limit", "only", "wait"}
	searchParams = []string{"status", "limit", "offset"}
)

// filterParams returns the parameters of a filter and the given others.
func filterParams(others ...string) []string {
	return append([]string{"status", "groupId", "createdFrom", "createdTo", "failed", "inDoubt", "code", "path"}, others...)
}

// get and post return the methods of a path that has only this one.
func get(serve endpoint, params ...string) map[string]operation {
	return map[string]operation{http.MethodGet: {serve: serve, params: params}}
}

func post(serve endpoint, params ...string) map[string]operation {
	return map[string]operation{http.MethodPost: {serve: serve, params: params}}
}

// knownParams are the parameters of all calls.
var knownParams = func() (all []string) {
	for i := range routes {
		for _, op := range routes[i].methods {
			all = append(all, op.params...)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}()

// cut cuts the templates into segments.
func cut(routes []route) []route {
	for i := range routes {
		routes[i].path = segments(routes[i].template)
	}
	return routes
}

func segments(path string) []string { return strings.Split(path, "/") }

// match compares a path segment by segment, before any decoding, so that an encoded
// slash is part of a segment. The store is returned decoded, and not judged yet.
func (rt *route) match(got []string) (store string, ok bool) {
	want := rt.path
	if len(want) != len(got) {
		return "", false
	}
	for i := range want {
		segment, err := url.PathUnescape(got[i])
		switch {
		case err != nil:
			return "", false
		case want[i] == "{storeId}":
			store = segment
		case want[i] != segment:
			return "", false
		}
	}
	return store, true
}

// right returns what a caller has to have the right to.
func (rt *route) right(method string) string {
	switch {
	case method == http.MethodGet:
		return rightRead
	case method == http.MethodPost && rt.creates:
		return rightCreate
	}
	return rightCancel
}

// action is what an audit calls it.
func (rt *route) action(method string) string {
	switch {
	case method == http.MethodGet:
		return "status" // or a search
	case method == http.MethodDelete:
		return "delete"
	case rt.right(method) == rightCreate && len(rt.path) > createDepth:
		return rt.path[len(rt.path)-1] // retry, resend
	case rt.right(method) == rightCreate:
		return "create"
	}
	if last := rt.path[len(rt.path)-1]; last == "pause" || last == "resume" {
		return last
	}
	return "stop"
}

// createDepth is how many segments the path of create has.
const createDepth = 5

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

// key names a batch of the caller.
func (c *call) key(ticket batch.Ticket) storage.Key {
	return storage.Key{Store: c.store, Owner: c.owner, Ticket: ticket}
}

// ctx is the call's context for what storage reads without being given the caller.
func (c *call) ctx() context.Context {
	return storage.WithCaller(c.r.Context(), storage.Caller{Store: c.store, Owner: c.owner})
}

// Values of headers that many answers have. They are shared, and never changed.
var (
	noStore  = []string{"no-store"}
	noSniff  = []string{"nosniff"}
	isJSON   = []string{"application/json"}
	byCoding = []string{"Accept-Encoding"}

	byTypeAndCoding = []string{"Accept, Accept-Encoding"}
)

// send sends a whole answer.
func (c *call) send(status int, body []byte) {
	if c.coding != identity && status == http.StatusOK && len(body) >= worthCompressing {
		c.w.Header().Set("Content-Encoding", string(c.coding))
		newCompressor(c.coding).piece(body, true, func(body []byte) { c.sendAs(status, body) })
		return
	}
	c.sendAs(status, body)
}

// typed sets the type of what is sent, unless it is another one than JSON.
func (c *call) typed() {
	if h := c.w.Header(); h["Content-Type"] == nil {
		h["Content-Type"] = isJSON
	}
}

// sendAs sends a whole answer as it is.
func (c *call) sendAs(status int, body []byte) {
	h := c.w.Header()
	c.typed()
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	c.started, c.status = true, status
	c.w.WriteHeader(status)
	c.write(body)
}

// write sends a part of the answer's body. A client that is gone is no error: what
// was asked for has been done.
func (c *call) write(body []byte) {
	c.started = true
	if c.r.Method != http.MethodHead {
		_, _ = c.w.Write(body)
	}
}

// abort breaks the connection, so that the client can't take what it has got for an
// answer.
func abort() { panic(http.ErrAbortHandler) } //nolint:forbidigo // the one way to break a connection

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
