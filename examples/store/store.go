// Package store is a small store API to try Sheaf with. It has products with variations, and orders, for
// any number of stores. It keeps everything in memory. It validates requests, and you can read what they
// create.
//
// Requests need a Bearer token. A POST with an Idempotency-Key takes effect once: the same key gets the
// same answer. GET /api/v3/{storeId}/ledger lists every authorized POST as it arrived, including refused
// and repeated ones, so that you can check what a client promises.
package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

const maxBody = 1 << 20 // the maximum size of a request's body, in bytes

// Options configure an API. The zero value works.
type Options struct {
	// Latency is how long a request takes. Default: 0. A request is carried out even if the client
	// disconnects in the meantime.
	Latency time.Duration
	// RequestsPerSecond is how many requests each store accepts in a second of the clock. Further requests
	// get 429 with Retry-After. Default: no limit.
	RequestsPerSecond int
	// Token is the only valid token. Others get 403. Default: all tokens are valid.
	Token string
}

// API is the store API, an http.Handler. It is safe for concurrent use.
type API struct {
	options Options
	mux     *http.ServeMux

	mu     sync.Mutex
	stores map[string]*shop
}

// New returns an API without data. A store is created by the first request for it.
func New(o Options) *API {
	a := &API{options: o, mux: http.NewServeMux(), stores: map[string]*shop{}}
	for path, methods := range map[string]operations{
		"/ledger":                               {"GET": (*call).ledger},
		"/products":                             {"GET": (*call).listProducts, "POST": (*call).createProduct},
		"/products/{id}":                        {"GET": (*call).product, "PUT": (*call).replaceProduct, "PATCH": (*call).patchProduct, "DELETE": (*call).deleteProduct},
		"/products/{id}/combinations":           {"GET": (*call).listVariations, "POST": (*call).createVariation},
		"/products/{id}/combinations/{variant}": {"GET": (*call).variation, "PUT": (*call).replaceVariation, "DELETE": (*call).deleteVariation},
		"/orders":                               {"GET": (*call).listOrders, "POST": (*call).createOrder},
		"/orders/{id}":                          {"GET": (*call).order, "PUT": (*call).updateOrder},
	} {
		a.mux.HandleFunc("/api/v3/{storeId}"+path, func(w http.ResponseWriter, r *http.Request) { a.serve(w, r, methods) })
	}
	a.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		write(w, answerOf(nil, notFound("There is nothing at %s", r.URL.Path)))
	})
	return a
}

// ServeHTTP serves paths below /api/v3/{storeId}/.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) { a.mux.ServeHTTP(w, r) }

// operations are the operations of a resource, by method.
type operations map[string]func(*call) (any, error)

// call is one request to one store. The store is locked while the request is carried out.
type call struct {
	*shop
	*http.Request
	body []byte
}

// The answers of operations that make changes.
type (
	created struct { // sent as 201
		ID int64 `json:"id"`
	}
	updated struct {
		Count int `json:"updateCount"`
	}
	deleted struct {
		Count int `json:"deleteCount"`
	}
)

// serve validates a request and carries it out.
func (a *API) serve(w http.ResponseWriter, r *http.Request, methods operations) {
	if err := a.authorize(r); err != nil {
		w.Header().Set("WWW-Authenticate", "Bearer")
		write(w, answerOf(nil, err))
		return
	}
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	operation, ok := methods[method]
	if !ok {
		allowed := strings.Join(slices.Sorted(maps.Keys(methods)), ", ")
		w.Header().Set("Allow", allowed)
		write(w, answerOf(nil, refuse(http.StatusMethodNotAllowed, "METHOD_NOT_ALLOWED", "Use one of %s here", allowed)))
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		write(w, answerOf(nil, refuse(http.StatusBadRequest, "BAD_BODY", "The body can't be read, or has more than %d bytes", maxBody)))
		return
	}
	s := a.shop(r.PathValue("storeId"))
	c := &call{shop: s, Request: r, body: body}
	c.note()
	if a.options.Latency > 0 {
		time.Sleep(a.options.Latency)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if wait := s.throttle(a.options.RequestsPerSecond, time.Now()); wait {
		w.Header().Set("Retry-After", "1")
		write(w, answerOf(nil, refuse(http.StatusTooManyRequests, "RATE_LIMITED", "More than %d requests in a second", a.options.RequestsPerSecond)))
		return
	}
	write(w, c.once(operation))
}

// authorize checks the Bearer token.
func (a *API) authorize(r *http.Request) error {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	switch {
	case !strings.EqualFold(scheme, "Bearer") || token == "":
		return refuse(http.StatusUnauthorized, "MISSING_API_TOKEN", "Send a token: Authorization: Bearer TOKEN")
	case a.options.Token != "" && token != a.options.Token:
		return refuse(http.StatusForbidden, "INVALID_API_TOKEN", "This token is not known")
	}
	return nil
}

// shop returns a store. It creates the store if it doesn't exist.
func (a *API) shop(id string) *shop {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.stores[id]
	if s == nil {
		s = newShop()
		a.stores[id] = s
	}
	return s
}

// problem is an error answer.
type problem struct {
	code int
	Text string `json:"errorMessage"`
	Name string `json:"errorCode"`
}

func (p *problem) Error() string { return p.Text }

func refuse(code int, name, format string, args ...any) error {
	return &problem{code, fmt.Sprintf(format, args...), name}
}

func notFound(format string, args ...any) error {
	return refuse(http.StatusNotFound, "NOT_FOUND", format, args...)
}

func invalid(format string, args ...any) error {
	return refuse(http.StatusBadRequest, "WRONG_PARAMETER", format, args...)
}

func conflict(name, format string, args ...any) error {
	return refuse(http.StatusConflict, name, format, args...)
}

// answer is a status code and a body in JSON.
type answer struct {
	code int
	body []byte
}

// answerOf returns the answer for the result of an operation.
func answerOf(v any, err error) answer {
	code := http.StatusOK
	var p *problem
	switch _, made := v.(created); {
	case errors.As(err, &p):
		code, v = p.code, p
	case err != nil:
		code, v = http.StatusInternalServerError, &problem{Text: err.Error(), Name: "INTERNAL_ERROR"}
	case made:
		code = http.StatusCreated
	}
	body, err := json.Marshal(v)
	if err != nil {
		return answer{http.StatusInternalServerError, []byte(`{"errorMessage":"The answer can't be written","errorCode":"INTERNAL_ERROR"}`)}
	}
	return answer{code, body}
}

func write(w http.ResponseWriter, a answer) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(a.code)
	w.Write(a.body)
}
