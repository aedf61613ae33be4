package integration

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/sheafapi/sheaf/internal/strictupstream"
)

// closer is an upstream that answers the first request of each connection, keeps the
// connection alive, reads the next request completely and then closes silently. To a client it
// looks exactly like a server that has just closed an idle connection, after which many transports
// send the request again.
type closer struct {
	net.Listener

	mu     sync.Mutex
	counts map[string]int // arrivals by method and path
	bodies map[string]string
	keys   map[string]string
}

func newCloser(t *testing.T) *closer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &closer{Listener: strictupstream.Watch(t, l), counts: map[string]int{}, bodies: map[string]string{}, keys: map[string]string{}}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := c.Accept()
			if err != nil {
				return
			}
			go c.serve(conn)
		}
	}()
	return c
}

func (c *closer) serve(conn net.Conn) {
	defer conn.Close()
	in := bufio.NewReader(conn)
	if c.read(in) && answerOK(conn) {
		c.read(in)
	}
}

// read reads a complete request and counts it.
func (c *closer) read(in *bufio.Reader) bool {
	r, err := http.ReadRequest(in)
	if err != nil {
		return false
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	name := r.Method + " " + r.URL.Path
	c.counts[name]++
	c.bodies[name] = string(body)
	c.keys[name] = r.Header.Get("Idempotency-Key")
	return true
}

func answerOK(conn net.Conn) bool {
	_, err := io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\n{}")
	return err == nil
}

// closerCase is a request that runs into a closing connection.
type closerCase struct {
	name     string
	method   string
	body     string
	stop     string // stopOnFirstFailure
	arrivals int
	status   string
}

// TestTransportNeverSendsAgain sends requests on connections that are closing.
func TestTransportNeverSendsAgain(t *testing.T) {
	const body = `{"n":1}`
	for _, test := range []closerCase{
		{"POST without a body", "POST", "", "true", 1, "FAILED"},
		{"POST without a body, failures allowed", "POST", "", "false", 1, "FAILED"},
		{"POST with a body", "POST", body, "true", 1, "FAILED"},
		{"POST with a body, failures allowed", "POST", body, "false", 1, "FAILED"},
		{"PATCH with a body", "PATCH", body, "true", 1, "FAILED"},
		{"PATCH with a body, failures allowed", "PATCH", body, "false", 1, "FAILED"},
		{"PATCH without a body, failures allowed", "PATCH", "", "false", 1, "FAILED"},
		{"PUT stops the batch", "PUT", body, "true", 1, "FAILED"},
		{"DELETE stops the batch", "DELETE", "", "true", 1, "FAILED"},
		// Retried on a new connection, where it is the first request.
		{"PUT, failures allowed", "PUT", body, "false", 2, "COMPLETED"},
		{"DELETE, failures allowed", "DELETE", "", "false", 2, "COMPLETED"},
		{"GET, failures allowed", "GET", "", "false", 2, "COMPLETED"},
	} {
		t.Run(test.name, func(t *testing.T) { onEach(t, test.run) })
	}
}

func (test closerCase) run(t *testing.T, database string) {
	parallel(t)
	ctx := t.Context()
	upstream := newCloser(t)
	s := start(t, "http://"+upstream.Addr().String(), database, "--outage-limit", "0") // as the contract's letter says
	defer s.term(t)
	c := caller(s.base)
	ticket, err := c.create(ctx, "1", map[string][]string{"stopOnFirstFailure": {test.stop}}, []request{
		{Method: "GET", Path: "first"}, // opens the connection
		{Method: test.method, Path: "second", Body: []byte(test.body)},
	})
	if err != nil {
		t.Fatal(err)
	}
	got, err := c.awaitEnd(ctx, "1", ticket)
	if err != nil {
		t.Fatal(err)
	}
	r := got.Responses[1]
	if r.Status != test.status {
		t.Errorf("the result is %+v, want %s", r, test.status)
	}
	once := test.method == "POST" || test.method == "PATCH"
	if r.Status == "FAILED" && (r.Code != 502 || once != strings.Contains(r.Line, "not known")) {
		t.Errorf("the result is %+v, want 502, and \"not known\" for POST and PATCH only", r)
	}
	upstream.mu.Lock()
	defer upstream.mu.Unlock()
	name := test.method + " /second"
	if n := upstream.counts[name]; n != test.arrivals {
		t.Errorf("it arrived %d times, want %d", n, test.arrivals)
	}
	if upstream.bodies[name] != test.body || upstream.keys[name] == "" {
		t.Errorf("it arrived with the body %q and the key %q", upstream.bodies[name], upstream.keys[name])
	}
}
