package integration

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	mathrand "math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// pollInterval is the pause between two polls, or between two attempts of one call.
const pollInterval = 10 * time.Millisecond

// callTimeout limits one call, so that clients don't wait for a node that hangs. After a timeout, a
// client avoids the node for avoidTime, like a load balancer.
const (
	callTimeout = 4 * time.Second
	avoidTime   = 20 * time.Second
)

// client calls the service as one caller.
type client struct {
	bases []string  // the nodes' addresses; each call goes to one of them
	token string    // empty: a different one for each store
	hung  *sync.Map // for each address, when a call there last timed out

	// lost, if set, is called with the error of each call that is repeated. Each call then uses
	// its own connection, because the service can close an idle one just as a call is written.
	lost func(error)
}

// caller returns a client of these nodes.
func caller(bases ...string) client {
	return client{bases: bases, hung: new(sync.Map)}
}

// tokenOf returns the token for a path below a store. Each store has its own, so that a 429 for
// one store doesn't hold back the others.
func (c client) tokenOf(path string) string {
	if c.token != "" {
		return c.token
	}
	store, _, _ := strings.Cut(path, "/")
	return "caller-of-" + store
}

// base returns the address of a node that isn't known to hang.
func (c client) base() string {
	answering := slices.DeleteFunc(slices.Clone(c.bases), func(base string) bool {
		when, hung := c.hung.Load(base)
		return hung && time.Since(when.(time.Time)) < avoidTime
	})
	if len(answering) == 0 {
		answering = c.bases
	}
	return answering[mathrand.N(len(answering))]
}

// request is a request of a batch.
type request struct {
	ID     string
	Method string
	Path   string
	Body   json.RawMessage // nil: none
}

// status is a batch as the service reports it.
type status struct {
	Status            string   `json:"status"`
	TotalRequests     int      `json:"totalRequests"`
	CompletedRequests int      `json:"completedRequests"`
	Responses         []result `json:"responses"`
}

// result is the result of one request.
type result struct {
	ID       string          `json:"id"`
	Status   string          `json:"status"`
	Body     json.RawMessage `json:"httpBody"`
	Escaped  *string         `json:"escapedHttpBody"`
	Encoding string          `json:"httpBodyEncoding"`
	Code     int             `json:"httpStatusCode"`
	Line     string          `json:"httpStatusLine"`
	Reason   string          `json:"reason"`
}

// refusal is an answer other than 200.
type refusal struct {
	code  int
	after string // Retry-After
	body  string
}

func (e *refusal) Error() string { return fmt.Sprintf("answered %d: %s", e.code, e.body) }

// newKey returns a random UUID.
func newKey() string {
	var b [16]byte
	rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// do makes one call to a store's batches and decodes the answer.
func (c client) do(ctx context.Context, method, store string, query url.Values, body []byte, answer any) error {
	return c.call(ctx, method, store+"/batch", query, body, answer)
}

// call makes one call to a path below /api/v3 and decodes the answer.
func (c client) call(ctx context.Context, method, path string, query url.Values, body []byte, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	base := c.base()
	r, err := http.NewRequestWithContext(ctx, method, base+"/api/v3/"+path+"?"+query.Encode(), bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Close = c.lost != nil
	r.Header.Set("Authorization", "Bearer "+c.tokenOf(path))
	r.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(r)
	if errors.Is(err, context.DeadlineExceeded) {
		c.hung.Store(base, time.Now())
	}
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return &refusal{resp.StatusCode, resp.Header.Get("Retry-After"), string(text)}
	}
	return json.Unmarshal(text, answer)
}

// create creates a batch and returns its ticket. A call that gets no answer is repeated with the
// same deduplication key (a new one if query has none) until ctx ends.
func (c client) create(ctx context.Context, store string, query url.Values, requests []request) (ticket string, err error) {
	keyed := maps.Clone(query)
	if keyed == nil {
		keyed = url.Values{}
	}
	if !keyed.Has("deduplicationKey") {
		keyed.Set("deduplicationKey", newKey())
	}
	err = c.retry(ctx, func() error {
		ticket, err = c.tryCreate(ctx, store, keyed, requests)
		return err
	})
	return ticket, err
}

// tryCreate makes one call to create a batch.
func (c client) tryCreate(ctx context.Context, store string, query url.Values, requests []request) (ticket string, err error) {
	var answer struct {
		Ticket string `json:"ticket"`
	}
	err = c.do(ctx, http.MethodPost, store, query, encode(requests), &answer)
	return answer.Ticket, err
}

// encode returns the body of a create. It copies the requests' bodies byte for byte; json.Marshal
// would compact them.
func encode(requests []request) []byte {
	out := []byte{'['}
	for i, r := range requests {
		if i > 0 {
			out = append(out, ',')
		}
		out = fmt.Appendf(out, `{"id":%q,"method":%q,"path":%q`, r.ID, r.Method, r.Path)
		if len(r.Body) > 0 {
			out = append(append(out, `,"body":`...), r.Body...)
		}
		out = append(out, '}')
	}
	return append(out, ']')
}

// awaitEnd waits until a batch is COMPLETED and returns it with its responses.
func (c client) awaitEnd(ctx context.Context, store, ticket string) (*status, error) {
	query := url.Values{"ticket": {ticket}, "responses": {"false"}}
	for {
		var s status
		if err := c.retry(ctx, func() error { return c.do(ctx, http.MethodGet, store, query, nil, &s) }); err != nil {
			return nil, fmt.Errorf("ticket %s of store %s: %w", ticket, store, err)
		}
		if s.Status == "COMPLETED" {
			return c.status(ctx, store, ticket)
		}
		if !pause(ctx) {
			return nil, fmt.Errorf("ticket %s of store %s is still %s, %d of %d: %w",
				ticket, store, s.Status, s.CompletedRequests, s.TotalRequests, ctx.Err())
		}
	}
}

// status returns a batch with its responses.
func (c client) status(ctx context.Context, store, ticket string, more ...string) (*status, error) {
	query := url.Values{"ticket": {ticket}}
	for _, name := range more {
		query.Set(name, "true")
	}
	var s status
	err := c.retry(ctx, func() error { return c.do(ctx, http.MethodGet, store, query, nil, &s) })
	return &s, err
}

// tickets returns the tickets of all COMPLETED batches of a store, oldest first.
func (c client) tickets(ctx context.Context, store string) (all []string, err error) {
	const page = 100
	for {
		var found struct {
			Items []struct {
				Ticket string `json:"ticket"`
			} `json:"items"`
		}
		query := url.Values{"status": {"COMPLETED"}, "limit": {fmt.Sprint(page)}, "offset": {fmt.Sprint(len(all))}}
		if err := c.retry(ctx, func() error { return c.do(ctx, http.MethodGet, store, query, nil, &found) }); err != nil {
			return nil, err
		}
		for _, item := range found.Items {
			all = append(all, item.Ticket)
		}
		if len(found.Items) < page {
			return all, nil
		}
	}
}

// stop stops a batch.
func (c client) stop(ctx context.Context, store, ticket string) error {
	return c.retry(ctx, func() error {
		var counts json.RawMessage
		return c.call(ctx, http.MethodPost, store+"/batch/cancel-group", url.Values{"ticket": {ticket}}, nil, &counts)
	})
}

// retry repeats a call until it is answered, because the service may be down. A refusal is final
// unless it is 503.
func (c client) retry(ctx context.Context, call func() error) error {
	for {
		err := call()
		r, refused := errors.AsType[*refusal](err)
		if err == nil || refused && r.code != http.StatusServiceUnavailable {
			return err
		}
		if c.lost != nil {
			c.lost(err)
		}
		if !pause(ctx) {
			return err
		}
	}
}

// pause waits for pollInterval. It reports false if ctx ended.
func pause(ctx context.Context) bool {
	select {
	case <-time.After(pollInterval):
		return true
	case <-ctx.Done():
		return false
	}
}
