package outbound

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sheafapi/sheaf/internal/strictupstream"
)

// fault is what a connection does with one write and all later ones.
type fault struct {
	name  string
	sent  bool // bytes may have been sent
	write func(c net.Conn, p []byte) (int, error)
}

const (
	unclear = "neither bytes nor an error"
	reset   = "a reset after all is written"
)

var faults = []fault{
	{"none", true, net.Conn.Write},
	{"nothing is written", false, func(net.Conn, []byte) (int, error) { return 0, syscall.EPIPE }},
	{"closed before", false, func(net.Conn, []byte) (int, error) { return 0, net.ErrClosed }},
	{"a part is written", true, func(c net.Conn, p []byte) (int, error) {
		n, _ := c.Write(p[:len(p)/2])
		return n, syscall.ECONNRESET
	}},
	{"a part is written without an error", true, func(c net.Conn, p []byte) (int, error) { return c.Write(p[:len(p)/2]) }},
	{"all but a byte is written", true, func(c net.Conn, p []byte) (int, error) {
		n, _ := c.Write(p[:len(p)-1])
		return n, syscall.EPIPE
	}},
	{unclear, true, func(net.Conn, []byte) (int, error) { return 0, nil }},
	{reset, true, func(c net.Conn, p []byte) (int, error) {
		n, err := c.Write(p)
		_ = c.(*net.TCPConn).SetLinger(0)
		_ = c.Close()
		return n, err
	}},
}

// faultConn is a connection that has a fault once it is armed.
type faultConn struct {
	net.Conn
	mu     sync.Mutex
	fault  *fault
	writes int // how many more writes succeed
	failed bool
}

func (i *faultConn) Write(p []byte) (int, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	switch {
	case i.failed:
		return 0, syscall.EPIPE
	case i.fault == nil || i.fault.name == "none" || i.writes > 0:
		i.writes--
		return i.Conn.Write(p)
	}
	i.failed = true
	return i.fault.write(i.Conn, p)
}

// injector makes connections and arms the last one.
type injector struct {
	mu    sync.Mutex
	last  *faultConn
	arm   func(*faultConn) // arms the next connection; nil: not armed
	conns int
}

func (i *injector) dial(ctx context.Context, address string) (net.Conn, error) {
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.conns++
	i.last = &faultConn{Conn: raw}
	if i.arm != nil {
		i.arm(i.last)
		i.arm = nil
	}
	return i.last, nil
}

// sender sends a request with one of the two transports and reports whether an answer came.
type sender func(method, path, body string) (answered bool)

// ours returns the sender of this package, and the outcome of its last answer.
func ours(t *testing.T, address string, in *injector) (sender, *Outcome) {
	c := newClient(t, address)
	c.dial = func(ctx context.Context) (net.Conn, error) { return in.dial(ctx, address) }
	outcome := new(Outcome)
	return func(method, path, body string) bool {
		*outcome = c.Do(t.Context(), newCall(method, path, body)).Outcome
		return *outcome == Answered
	}, outcome
}

// theirs returns the sender of net/http.
func theirs(t *testing.T, address string, in *injector) sender {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return in.dial(ctx, address) }}
	t.Cleanup(transport.CloseIdleConnections)
	client := &http.Client{Transport: transport, Timeout: time.Minute}
	return func(method, path, body string) bool {
		r, err := http.NewRequestWithContext(t.Context(), method, "http://"+address+"/api/v3/123"+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(r)
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		_, err = io.Copy(io.Discard, resp.Body)
		return err == nil
	}
}

// Whatever happens to a write, this transport gets an answer when net/http does, sends nothing twice, and
// knows whether it sent anything. net/http may repeat a GET; this transport leaves that to its caller.
func TestDifferentialWrites(t *testing.T) {
	for _, f := range faults {
		for _, request := range []struct {
			method string
			size   int
		}{{"GET", 0}, {"POST", 0}, {"POST", 2}, {"PUT", 2}, {"DELETE", 0}, {"PATCH", 3 * bufferSize}} {
			for _, before := range []int{0, 1, 2} { // earlier exchanges on the connection
				for _, writes := range []int{0, 1} { // writes that succeed first
					if writes > 0 && request.size <= bufferSize {
						continue
					}
					t.Run(fmt.Sprintf("%s, %s of %d bytes, %d exchanges before, %d writes", f.name, request.method, request.size, before, writes), func(t *testing.T) {
						t.Parallel()
						testWrites(t, &f, request.method, strings.Repeat("b", request.size), before, writes)
					})
				}
			}
		}
	}
}

func testWrites(t *testing.T, f *fault, method, body string, before, writes int) {
	type seen struct {
		answered bool
		arrived  int // complete requests
	}
	run := func(start func(address string, in *injector) sender) (result seen, stream string) {
		var mu sync.Mutex
		arrived := 0
		s, watcher := strictupstream.Start(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			got, err := io.ReadAll(r.Body)
			if r.URL.Path != "/api/v3/123/second" || err != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if arrived++; string(got) != body {
				t.Errorf("the body arrived as %d bytes", len(got))
			}
		}))
		watcher.AllowPartial()
		in := &injector{}
		send := start(s.Listener.Addr().String(), in)
		for range before {
			if !send("GET", "/first", "") {
				t.Fatal("no answer to the first request")
			}
		}
		arm := func(c *faultConn) { c.fault, c.writes = f, writes }
		if before == 0 {
			in.arm = arm
		} else {
			in.last.mu.Lock()
			arm(in.last)
			in.last.mu.Unlock()
		}
		result.answered = send(method, "/second", body)
		in.last.Close()
		s.Close()
		mu.Lock()
		defer mu.Unlock()
		result.arrived = arrived
		return result, strings.Join(watcher.Streams(), "")
	}
	var outcome *Outcome
	mine, stream := run(func(address string, in *injector) (send sender) {
		send, outcome = ours(t, address, in)
		return send
	})
	other, _ := run(func(address string, in *injector) sender { return theirs(t, address, in) })

	if mine.arrived > 1 || mine.answered && mine.arrived != 1 {
		t.Errorf("answered: %v; it arrived %d times", mine.answered, mine.arrived)
	}
	touched := strings.Contains(stream, " /api/v3/123/second")
	if *outcome == NotSent && touched || *outcome == NotSent && f.sent && writes > 0 {
		t.Error("a request that was reported as not sent reached the upstream")
	}
	if *outcome == Doubt && !f.sent && writes == 0 {
		t.Error("a request is in doubt although nothing was written")
	}
	// The caller repeats a GET, which net/http may repeat itself. After a reset, and after a write that
	// doesn't report what it did, nothing is certain.
	certain := (method != "GET" || !f.sent) && f.name != unclear && f.name != reset
	if certain && other.answered && !mine.answered {
		t.Error("net/http got an answer")
	}
}
