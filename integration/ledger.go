// Package integration tests the service from outside. It kills, stops and restarts the real binary
// under load, and compares its reports with the ledger of the upstream. docs/reliability.md lists
// the promises and the measurements.
package integration

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Ledger is an upstream that records every request that it receives completely. Except for Down, Up
// and Close, its methods are safe for concurrent use.
type Ledger struct {
	URL    string
	server *httptest.Server // nil while it is down
	reply  func(Arrival) Reply
	wrap   func(net.Listener) net.Listener

	mu       sync.Mutex
	arrivals []*Arrival
	calls    map[string]*call // by Idempotency-Key
	watches  []watch
}

// Arrival is one request that reached the upstream.
type Arrival struct {
	Seq    int    // position among all arrivals, from 1
	Nth    int    // 1 for the first arrival with its Idempotency-Key
	Key    string // the Idempotency-Key
	Node   string // the node that sent it (see For); empty if there is only one
	Method string
	Path   string
	Body   string

	Status   int       // of the answer
	Executed bool      // it was carried out: its status is 200
	Answered bool      // its answer was written completely
	At       time.Time // when it had arrived completely
	End      time.Time // just before its answer was written, or when it was cut off; zero: not yet
}

// Reply is the upstream's reaction to a request.
type Reply struct {
	Status     int             // 0 means 200
	RetryAfter string          // of a 429; empty: "0"
	Delay      time.Duration   // before the answer
	Until      <-chan struct{} // no answer before it is closed; nil: don't wait
	HangUp     bool            // break the connection halfway through the answer
}

// call is what the ledger knows about one Idempotency-Key.
type call struct {
	arrivals int
	done     bool
}

// watch waits for a number of arrivals. Then reached receives the time.
type watch struct {
	arrivals int
	reached  chan time.Time
}

// NewLedger starts an upstream that calls reply for one request at a time and sends the Reply. If a
// DELETE with the same Idempotency-Key was executed before, 404 replaces the status 200. wrap must
// not be nil; it may return the listener unchanged. The caller must close the ledger.
func NewLedger(reply func(Arrival) Reply, wrap func(net.Listener) net.Listener) (*Ledger, error) {
	listener, err := listen()
	if err != nil {
		return nil, err
	}
	l := &Ledger{reply: reply, wrap: wrap, calls: map[string]*call{}, URL: "http://" + listener.Addr().String()}
	l.serve(listener)
	return l, nil
}

// listen listens on a port below the range of outgoing connections, so that none of them takes the
// port while nobody listens on it.
func listen() (listener net.Listener, err error) {
	for range 100 {
		port := 20000 + rand.N(12000) //nolint:gosec // a port isn't a secret
		if listener, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			return listener, nil
		}
	}
	return nil, err
}

func (l *Ledger) serve(listener net.Listener) {
	l.server = &httptest.Server{Listener: l.wrap(listener), Config: &http.Server{Handler: l, ReadHeaderTimeout: time.Minute}}
	l.server.Start()
}

// Down stops the upstream like a crash: requests in flight are cut off, and connections are refused.
// The ledger keeps its arrivals.
func (l *Ledger) Down() {
	l.server.Listener.Close()
	l.server.CloseClientConnections()
	l.server.Close()
	l.server = nil
}

// Up starts the upstream again at the same address.
func (l *Ledger) Up() error {
	listener, err := net.Listen("tcp", strings.TrimPrefix(l.URL, "http://"))
	if err == nil {
		l.serve(listener)
	}
	return err
}

// Close ends the upstream for good.
func (l *Ledger) Close() {
	if l.server != nil {
		l.Down()
	}
}

// For returns the upstream's address for one of several nodes. The ledger records the node and
// removes its part of the path.
func (l *Ledger) For(node string) string { return l.URL + nodePrefix + node }

const nodePrefix = "/from-"

// splitNode splits a request URI into the node and the path.
func splitNode(uri string) (node, path string) {
	rest, ours := strings.CutPrefix(uri, nodePrefix)
	if !ours {
		return "", uri
	}
	node, path, _ = strings.Cut(rest, "/")
	return node, "/" + path
}

// Arrivals returns what has reached the upstream so far, in order.
func (l *Ledger) Arrivals() []Arrival { return l.Since(0) }

// Since returns the arrivals after the first n.
func (l *Ledger) Since(n int) []Arrival {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make([]Arrival, len(l.arrivals)-n)
	for i, a := range l.arrivals[n:] {
		all[i] = *a
	}
	return all
}

// Before returns how many requests had arrived before a moment.
func (l *Ledger) Before(moment time.Time) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, _ := slices.BinarySearchFunc(l.arrivals, moment, func(a *Arrival, t time.Time) int { return a.At.Compare(t) })
	return n
}

// Count returns how many requests have arrived.
func (l *Ledger) Count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.arrivals)
}

// After returns a channel that receives the time when n more requests have arrived.
func (l *Ledger) After(n int) <-chan time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := watch{len(l.arrivals) + n, make(chan time.Time, 1)}
	l.watches = append(l.watches, w)
	return w.reached
}

// ServeHTTP records a request and answers it. The answer contains the arrival's Seq, so that a test
// can find the answer in the ledger.
func (l *Ledger) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // it never arrived completely
	}
	a, reply := l.arrive(r, string(body))
	held := hold(r, reply)
	l.mu.Lock()
	a.End = time.Now()
	l.mu.Unlock()
	if !held {
		return
	}
	answer, _ := json.Marshal(map[string]any{"arrival": a.Seq, "path": a.Path})
	if reply.HangUp {
		hangUp(w, answer)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(answer)))
	if reply.Status == http.StatusTooManyRequests {
		h.Set("Retry-After", cmp.Or(reply.RetryAfter, "0"))
	}
	w.WriteHeader(reply.Status)
	if r.Method != http.MethodHead {
		_, err = w.Write(answer)
	}
	if err == nil && http.NewResponseController(w).Flush() == nil {
		l.mu.Lock()
		a.Answered = true
		l.mu.Unlock()
	}
}

// arrive records a request and decides its outcome.
func (l *Ledger) arrive(r *http.Request, body string) (*Arrival, Reply) {
	l.mu.Lock()
	defer l.mu.Unlock()
	key := r.Header.Get("Idempotency-Key")
	c := l.calls[key]
	if c == nil {
		c = &call{}
		l.calls[key] = c
	}
	c.arrivals++
	node, path := splitNode(r.RequestURI)
	a := &Arrival{
		Seq: len(l.arrivals) + 1, Nth: c.arrivals, At: time.Now(),
		Key: key, Node: node, Method: r.Method, Path: path, Body: body,
	}
	reply := l.reply(*a)
	if reply.Status == 0 {
		reply.Status = http.StatusOK
	}
	if r.Method == http.MethodDelete && c.done && reply.Status == http.StatusOK {
		reply.Status = http.StatusNotFound // it is gone already
	}
	a.Status, a.Executed = reply.Status, reply.Status == http.StatusOK
	c.done = c.done || a.Executed
	l.arrivals = append(l.arrivals, a)
	l.watches = slices.DeleteFunc(l.watches, func(w watch) bool {
		if len(l.arrivals) < w.arrivals {
			return false
		}
		w.reached <- time.Now()
		return true
	})
	return a, reply
}

// hold waits as long as the reply says. It reports false if the client went away.
func hold(r *http.Request, reply Reply) bool {
	if reply.Until != nil {
		select {
		case <-reply.Until:
		case <-r.Context().Done():
			return false
		}
	}
	if reply.Delay > 0 {
		select {
		case <-time.After(reply.Delay):
		case <-r.Context().Done():
			return false
		}
	}
	return true
}

// hangUp breaks the connection in the middle of an answer.
func hangUp(w http.ResponseWriter, answer []byte) {
	conn, out, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	fmt.Fprintf(out, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(answer), answer[:len(answer)/2])
	out.Flush()
}
