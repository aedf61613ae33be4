package outbound

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

const unknown = "; it is not known whether the upstream carried the request out"

// The upstream reads a whole request on a reused connection and closes it without an answer. In this case,
// net/http may send the request again.
func TestNeverSentTwice(t *testing.T) {
	for _, v := range []struct{ method, body string }{
		{"POST", `{"a":1}`},
		{"POST", ""},
		{"PATCH", `{"a":1}`},
		{"PATCH", ""},
		{"PUT", `{"a":1}`},
		{"PUT", ""},
		{"DELETE", ""},
		{"GET", `{"a":1}`},
		{"POST", strings.Repeat("1", 1<<20)},
	} {
		t.Run(v.method+" "+v.body[:min(9, len(v.body))], func(t *testing.T) {
			for name, last := range map[string]string{
				"nothing":     "",
				"half a head": "HTTP/1.1 200 OK\r\nX: y\r\n",
				"half a body": "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345",
				"half chunk":  "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n",
			} {
				var received atomic.Int32
				u := newRaw(t, func(_ int, c net.Conn, r *bufio.Reader) {
					if readRequest(r) == "" {
						return
					}
					io.WriteString(c, okAnswer)
					if readRequest(r) == "" {
						return
					}
					received.Add(1)
					io.WriteString(c, last)
				})
				c := newClient(t, u.addr())
				expect(t, c.Do(t.Context(), newCall("GET", "/first", "")), Answered, 200)
				a := c.Do(t.Context(), newCall(v.method, "/second", v.body))
				if last != "" {
					expect(t, a, Answered, 200, "OK; the answer is incomplete: the connection broke")
				} else {
					expect(t, a, Doubt, 502, "Bad Gateway: the connection broke before the answer was complete")
				}
				if a.Incomplete != (last != "") || strings.HasSuffix(a.Line, unknown) != (last == "" && (v.method == "POST" || v.method == "PATCH")) {
					t.Errorf("%s: the line is %q", name, a.Line)
				}
				if conns, n := u.conns.Load(), received.Load(); conns != 1 || n != 1 {
					t.Errorf("%s: %d connections, %d deliveries", name, conns, n)
				}
			}
		})
	}
}

// The same is true if the upstream resets the connection after it has the request.
func TestNeverSentTwiceAfterReset(t *testing.T) {
	var received atomic.Int32
	u := newRaw(t, func(_ int, c net.Conn, r *bufio.Reader) {
		readRequest(r)
		io.WriteString(c, okAnswer)
		if readRequest(r) != "" {
			received.Add(1)
			c.(interface{ SetLinger(int) error }).SetLinger(0)
		}
	})
	c := newClient(t, u.addr())
	expect(t, c.Do(t.Context(), newCall("GET", "/first", "")), Answered, 200)
	expect(t, c.Do(t.Context(), newCall("POST", "/second", "{}")), Doubt, 502, "broke", unknown)
	if conns, n := u.conns.Load(), received.Load(); conns != 1 || n != 1 {
		t.Errorf("%d connections, %d deliveries", conns, n)
	}
}

// A connection that is found closed before anything is written is replaced by another.
func TestDeadConnectionIsReplaced(t *testing.T) {
	for _, body := range []string{"", `{"a":1}`} {
		u := newRaw(t, func(_ int, c net.Conn, r *bufio.Reader) {
			for readRequest(r) != "" {
				io.WriteString(c, okAnswer)
			}
		})
		c := newClient(t, u.addr())
		var last *mortalConn
		dial := c.dial
		c.dial = func(ctx context.Context) (net.Conn, error) {
			raw, err := dial(ctx)
			last = &mortalConn{Conn: raw}
			return last, err
		}
		expect(t, c.Do(t.Context(), newCall("GET", "/first", "")), Answered, 200)
		last.dead.Store(true)
		expect(t, c.Do(t.Context(), newCall("POST", "/second", body)), Answered, 200)
		if n := u.conns.Load(); n != 2 {
			t.Errorf("%d connections were made", n)
		}
	}
}

// mortalConn is a connection whose writes fail once it is dead.
type mortalConn struct {
	net.Conn
	dead atomic.Bool
}

func (f *mortalConn) Write(p []byte) (int, error) {
	if f.dead.Load() {
		return 0, net.ErrClosed
	}
	return f.Conn.Write(p)
}

// A request counts as sent if the connection wrote even one byte before it broke.
func TestWrittenInPart(t *testing.T) {
	for _, v := range []struct {
		written int
		outcome Outcome
	}{{0, NotSent}, {1, Doubt}} {
		c := newClient(t, "upstream.invalid")
		c.dial = func(context.Context) (net.Conn, error) {
			here, there := net.Pipe()
			there.Close()
			return &partial{here, v.written}, nil
		}
		expect(t, c.Do(t.Context(), newCall("POST", "/a", "{}")), v.outcome, 502)
	}
}

// partial is a connection that breaks after some bytes.
type partial struct {
	net.Conn
	written int
}

func (p *partial) Write([]byte) (int, error) { return p.written, syscall.EPIPE }

func TestConnectionRefused(t *testing.T) {
	u := newRaw(t, func(int, net.Conn, *bufio.Reader) {})
	u.Close()
	a := newClient(t, u.addr()).Do(t.Context(), newCall("POST", "/a", "{}"))
	expect(t, a, NotSent, 502, "Bad Gateway: the connection could not be made (connection refused)")
}

func TestFirstConnectionClosed(t *testing.T) {
	u := newRaw(t, func(_ int, c net.Conn, r *bufio.Reader) { readRequest(r) })
	a := newClient(t, u.addr()).Do(t.Context(), newCall("POST", "/a", "{}"))
	expect(t, a, Doubt, 502, "broke", unknown)
}

func TestNoHTTP(t *testing.T) {
	for name, raw := range map[string]string{
		"other protocol": "SSH-2.0-OpenSSH_9.6\r\n",
		"half a line":    "HTTP/1.1 200 OK",
		"no code":        "HTTP/1.1 OK\r\nContent-Length: 0\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			u := newRaw(t, func(_ int, c net.Conn, r *bufio.Reader) {
				readRequest(r)
				io.WriteString(c, raw)
			})
			a := newClient(t, u.addr()).Do(t.Context(), newCall("POST", "/a", "{}"))
			expect(t, a, Doubt, 502, "Bad Gateway: ", unknown)
		})
	}
}

func TestTimeout(t *testing.T) {
	for name, says := range map[string]string{
		"no answer":      "",
		"half a line":    "HTTP/1.1 200 O",
		"hints for ever": "HTTP/1.1 103 Early Hints\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newClient(t, "upstream.invalid", timeout(30*time.Second))
				c.dial = stalling(says)
				start := time.Now()
				expect(t, c.Do(t.Context(), newCall("POST", "/a", "{}")), Doubt, 504,
					"Gateway Timeout: no complete answer within 30s"+unknown)
				if d := time.Since(start); d != 30*time.Second {
					t.Errorf("Do took %v", d)
				}
				a := c.Do(t.Context(), newCall("PUT", "/a", "{}"))
				expect(t, a, Doubt, 504)
				if a.Line != "Gateway Timeout: no complete answer within 30s" {
					t.Errorf("the line is %q", a.Line)
				}
			})
		})
	}
}

// stalling returns a dial function to an upstream in memory, which reads a request, sends the given text,
// and then waits until the other side closes the connection.
func stalling(says string) func(context.Context) (net.Conn, error) {
	return func(context.Context) (net.Conn, error) {
		here, there := net.Pipe()
		go func() {
			defer there.Close()
			readRequest(bufio.NewReader(there))
			io.WriteString(there, says)
			io.Copy(io.Discard, there)
		}()
		return here, nil
	}
}

// The upstream stops reading in the middle of a request.
func TestTimeoutWhileSending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClient(t, "upstream.invalid", timeout(30*time.Second))
		c.dial = func(context.Context) (net.Conn, error) {
			here, there := net.Pipe()
			go there.Read(make([]byte, 1))
			return here, nil
		}
		expect(t, c.Do(t.Context(), newCall("POST", "/a", strings.Repeat("1", 1<<20))), Doubt, 504, unknown)
	})
}

func TestTimeoutOfDial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClient(t, "upstream.invalid", timeout(5*time.Second))
		c.dial = func(ctx context.Context) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		expect(t, c.Do(t.Context(), newCall("POST", "/a", "{}")), NotSent, 504,
			"Gateway Timeout: no connection within 5s; the request was not sent")
	})
}

func TestTimeoutOfNetwork(t *testing.T) {
	c := newClient(t, "upstream.invalid")
	c.dial = func(context.Context) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Err: context.DeadlineExceeded}
	}
	expect(t, c.Do(t.Context(), newCall("POST", "/a", "{}")), NotSent, 504,
		"Gateway Timeout: no connection within 10s; the request was not sent")
}

func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	u := newRaw(t, func(_ int, c net.Conn, r *bufio.Reader) {
		readRequest(r)
		io.WriteString(c, "HTTP/1.1 200 O")
		cancel()
		r.ReadByte() // until the client gives up
	})
	c := newClient(t, u.addr())
	expect(t, c.Do(ctx, newCall("POST", "/a", "{}")), Doubt, 502,
		"Bad Gateway: the service was interrupted before the answer was complete"+unknown)
	expect(t, c.Do(ctx, newCall("POST", "/a", "{}")), NotSent, 502,
		"Bad Gateway: the service was interrupted before the request was sent")
	if n := u.conns.Load(); n != 1 {
		t.Errorf("%d connections were made", n)
	}
}

func TestTooLarge(t *testing.T) {
	over := strings.Repeat("x", testLimit+1)
	for name, raw := range map[string]string{
		"by its length": "HTTP/1.1 200 OK\r\nContent-Length: 1048577\r\n\r\n",
		"chunked":       "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n200000\r\n" + over,
		"endless":       "HTTP/1.1 200 OK\r\n\r\n" + over,
	} {
		t.Run(name, func(t *testing.T) {
			closed := make(chan struct{})
			u := newRaw(t, func(_ int, c net.Conn, r *bufio.Reader) {
				readRequest(r)
				io.WriteString(c, raw)
				r.ReadByte() // until the client gives up
				close(closed)
			})
			a := newClient(t, u.addr()).Do(t.Context(), newCall("POST", "/a", "{}"))
			expect(t, a, TooLarge, 502, "and the answer is larger than the limit of 1 MiB")
			<-closed
		})
	}
}

func TestAsLargeAsTheLimit(t *testing.T) {
	for name, head := range map[string]string{
		"by its length": "Content-Length: 1048576\r\n\r\n",
		"to the end":    "\r\n",
	} {
		u := newRaw(t, func(_ int, c net.Conn, r *bufio.Reader) {
			readRequest(r)
			io.WriteString(c, "HTTP/1.1 200 OK\r\n"+head+strings.Repeat("x", testLimit))
		})
		a := newClient(t, u.addr()).Do(t.Context(), newCall("GET", "/a", ""))
		if expect(t, a, Answered, 200); len(a.Body) != testLimit {
			t.Errorf("%s: the body has %d bytes", name, len(a.Body))
		}
	}
}

func TestSize(t *testing.T) {
	for n, want := range map[int64]string{5 << 20: "5 MiB", 1536: "1536 bytes", 3 << 10: "3 KiB", 1: "1 bytes"} {
		if got := size(n); got != want {
			t.Errorf("size(%d) is %q, want %q", n, got, want)
		}
	}
}

// newTLS starts an HTTPS upstream and a client for it. trusted says whether the client trusts the
// upstream's certificate.
func newTLS(t *testing.T, trusted bool, h http.HandlerFunc) *Client {
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	c := newClient(t, "", func(o *Options) { o.Template = s.URL + "/api/v3/{storeId}" })
	if trusted {
		pool := x509.NewCertPool()
		pool.AddCert(s.Certificate())
		c.tls.RootCAs = pool
	}
	return c
}

func TestTLS(t *testing.T) {
	c := newTLS(t, true, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/api/v3/123/break":
			panic(http.ErrAbortHandler)
		default:
			io.WriteString(w, r.Proto)
		}
	})
	for range 2 {
		a := c.Do(t.Context(), newCall("POST", "/a", "{}"))
		if expect(t, a, Answered, 200); string(a.Body) != "HTTP/1.1" {
			t.Errorf("the protocol was %s", a.Body)
		}
	}
	expect(t, c.Do(t.Context(), newCall("POST", "/break", "{}")), Doubt, 502, "broke", unknown)
}

func TestTLSDeadConnectionIsReplaced(t *testing.T) {
	c := newTLS(t, true, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") })
	var last *mortalConn
	dial := c.dial
	c.dial = func(ctx context.Context) (net.Conn, error) {
		raw, err := dial(ctx)
		last = &mortalConn{Conn: raw}
		return last, err
	}
	expect(t, c.Do(t.Context(), newCall("GET", "/a", "")), Answered, 200)
	first := last
	first.dead.Store(true)
	expect(t, c.Do(t.Context(), newCall("POST", "/a", "{}")), Answered, 200)
	if first == last {
		t.Error("the connection was not replaced")
	}
}

// A write to a closed TLS connection returns net.ErrClosed itself, which conn relies on.
func TestTLSWriteAfterClose(t *testing.T) {
	here, there := net.Pipe()
	defer there.Close()
	c := tls.Client(here, &tls.Config{})
	c.Close()
	if _, err := c.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the error is %v", err)
	}
}

func TestTLSNotTrusted(t *testing.T) {
	called := false
	c := newTLS(t, false, func(http.ResponseWriter, *http.Request) { called = true })
	a := c.Do(t.Context(), newCall("POST", "/a", "{}"))
	expect(t, a, NotSent, 502, "Bad Gateway: the connection could not be made (TLS certificate not trusted)")
	if called {
		t.Error("the request was sent")
	}
}

func TestTLSToPlainServer(t *testing.T) {
	u := newRawOn(t, newListener(t), func(_ int, c net.Conn, r *bufio.Reader) {
		r.ReadByte()
		io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n")
	})
	c := newClient(t, "", func(o *Options) { o.Template = "https://" + u.addr() })
	a := c.Do(t.Context(), newCall("POST", "/a", "{}"))
	expect(t, a, NotSent, 502, "Bad Gateway: the connection could not be made (TLS handshake failed)")
}

// A connection that the upstream closed while it was idle, or on which it sent unrequested data, is not
// used, because the outcome of a request on it would be uncertain.
func TestIdleConnectionIsLookedAt(t *testing.T) {
	overBoth(t, func(t *testing.T, start func(func(int, net.Conn, *bufio.Reader)) (*rawUpstream, *Client)) {
		for name, says := range map[string]string{"closed": "", "unasked": okAnswer} {
			done := make(chan struct{})
			u, c := start(func(n int, c net.Conn, r *bufio.Reader) {
				readRequest(r)
				io.WriteString(c, okAnswer)
				if n == 1 && says != "" {
					io.WriteString(c, says)
					close(done)
					r.ReadByte() // until the client has closed it
				}
			})
			expect(t, c.Do(t.Context(), newCall("GET", "/first", "")), Answered, 200)
			if says != "" {
				<-done
			}
			eventually(t, func() bool { // the connection's end has arrived
				c.idle.mu.Lock()
				defer c.idle.mu.Unlock()
				for _, s := range c.idle.idle {
					return !s.top.alive(time.Now())
				}
				return true
			})
			expect(t, c.Do(t.Context(), newCall("POST", "/second", "{}")), Answered, 200)
			if n := u.conns.Load(); n != 2 {
				t.Errorf("%s: %d connections", name, n)
			}
		}
	})
}

// eventually waits until a condition is true.
func eventually(t *testing.T, so func() bool) {
	t.Helper()
	for limit := time.Now().Add(10 * time.Second); !so(); {
		if time.Now().After(limit) {
			t.Fatal("the condition never became true")
		}
		runtime.Gosched()
	}
}

// Idle connections that the upstream has closed are closed in the background.
func TestIdleConnectionsAreSwept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClient(t, "upstream.invalid")
		var there net.Conn
		c.dial = func(context.Context) (net.Conn, error) {
			here, other := net.Pipe()
			there = other
			go func() {
				readRequest(bufio.NewReader(other))
				io.WriteString(other, okAnswer)
			}()
			return here, nil
		}
		expect(t, c.Do(t.Context(), newCall("GET", "/a", "")), Answered, 200)
		start := time.Now()
		there.Read(make([]byte, 1)) // until the client closes it
		if d := time.Since(start); d < idleTimeout || d > idleTimeout+sweepInterval {
			t.Errorf("the connection was closed after %v", d)
		}
	})
}

// If an upstream answers before it has read the request, the answer is used.
func TestEarlyAnswer(t *testing.T) {
	overBoth(t, func(t *testing.T, start func(func(int, net.Conn, *bufio.Reader)) (*rawUpstream, *Client)) {
		_, c := start(func(_ int, c net.Conn, r *bufio.Reader) {
			http.ReadRequest(r)
			io.WriteString(c, "HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n")
			io.Copy(io.Discard, r) // until the client gives up
		})
		a := c.Do(t.Context(), newCall("POST", "/a", strings.Repeat("1", 64<<20)))
		expect(t, a, Answered, 413)
	})
}
