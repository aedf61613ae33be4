package outbound

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/sheafapi/sheaf/internal/strictupstream"
)

// permit counts its calls and refuses after the first few.
type permit struct {
	lets  int32
	asked atomic.Int32
}

func (p *permit) ask() bool { return p.asked.Add(1) <= p.lets }

// permitted returns the call with a permit that allows the first n writes.
func permitted(c *Call, n int32) *permit {
	p := &permit{lets: n}
	c.Permit = p.ask
	return p
}

// overBoth runs a test with a raw upstream over plain TCP and one over TLS.
func overBoth(t *testing.T, test func(t *testing.T, start func(serve func(n int, c net.Conn, r *bufio.Reader)) (*rawUpstream, *Client))) {
	t.Run("plain", func(t *testing.T) {
		test(t, func(serve func(int, net.Conn, *bufio.Reader)) (*rawUpstream, *Client) {
			u := newRaw(t, serve)
			return u, newClient(t, u.addr())
		})
	})
	t.Run("TLS", func(t *testing.T) {
		test(t, func(serve func(int, net.Conn, *bufio.Reader)) (*rawUpstream, *Client) {
			s := httptest.NewTLSServer(nil)
			s.Close()
			l := tls.NewListener(newListener(t), &tls.Config{Certificates: s.TLS.Certificates})
			u := newRawOn(t, strictupstream.Watch(t, l).AllowPartial(), serve)
			c := newClient(t, "", func(o *Options) { o.Template = "https://" + u.addr() + "/api/v3/{storeId}" })
			c.tls.RootCAs = x509.NewCertPool()
			c.tls.RootCAs.AddCert(s.Certificate())
			return u, c
		})
	})
}

// A request that is refused before anything was written is not sent, on a new or a reused connection, and no
// other connection is tried.
func TestWithheld(t *testing.T) {
	overBoth(t, func(t *testing.T, start func(func(int, net.Conn, *bufio.Reader)) (*rawUpstream, *Client)) {
		for _, v := range []struct{ method, body string }{
			{"GET", ""}, {"GET", "[]"}, {"POST", ""}, {"POST", "{}"}, {"PUT", ""}, {"DELETE", ""}, {"POST", strings.Repeat("1", 1<<20)},
		} {
			for _, used := range []int{0, 1} {
				t.Run(fmt.Sprintf("%s %.9s on a connection used %d times", v.method, v.body, used), func(t *testing.T) {
					rest := make(chan string, 1)
					u, c := start(func(_ int, c net.Conn, r *bufio.Reader) {
						for range used {
							readRequest(r)
							io.WriteString(c, okAnswer)
						}
						b, _ := io.ReadAll(r)
						rest <- string(b)
					})
					for range used {
						expect(t, c.Do(t.Context(), newCall("GET", "/first", "")), Answered, 200)
					}
					call := newCall(v.method, "/second", v.body)
					p := permitted(call, 0)
					expect(t, c.Do(t.Context(), call), Withheld, 502, "Bad Gateway: ")
					if b := <-rest; b != "" {
						t.Errorf("the upstream got %.40q", b)
					}
					if conns, asked := u.conns.Load(), p.asked.Load(); conns != 1 || asked != 1 {
						t.Errorf("%d connections; the permit was called %d times", conns, asked)
					}
				})
			}
		}
	})
}

// A refusal doesn't affect other connections, and permitted requests use them.
func TestWithheldTakesOneConnection(t *testing.T) {
	var both sync.WaitGroup
	both.Add(2)
	var conns atomic.Int32
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/api/v3/123/together" {
			both.Done()
			both.Wait()
		}
	}))
	s.Listener = strictupstream.Watch(t, s.Listener)
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			conns.Add(1)
		}
	}
	s.Start()
	defer s.Close()
	c := newClient(t, s.Listener.Addr().String())
	answers := make(chan Answer)
	for range 2 {
		go func() { answers <- c.Do(t.Context(), newCall("GET", "/together", "")) }()
	}
	for range 2 {
		expect(t, <-answers, Answered, 200)
	}
	call := newCall("GET", "/a", "")
	permitted(call, 0)
	expect(t, c.Do(t.Context(), call), Withheld, 502)
	expect(t, c.Do(t.Context(), newCall("GET", "/a", "")), Answered, 200)
	if n := conns.Load(); n != 2 {
		t.Errorf("%d connections were made, want 2", n)
	}
}

// A request that is refused after a part was written is in doubt, and nothing more of it is written.
func TestRefusedMidway(t *testing.T) {
	overBoth(t, func(t *testing.T, start func(func(int, net.Conn, *bufio.Reader)) (*rawUpstream, *Client)) {
		got := make(chan int, 1)
		u, c := start(func(_ int, _ net.Conn, r *bufio.Reader) {
			b, _ := io.ReadAll(r)
			got <- len(b)
		})
		const size = 1 << 20
		call := newCall("POST", "/a", strings.Repeat("1", size))
		permitted(call, 2)
		expect(t, c.Do(t.Context(), call), Doubt, 502, "the service was interrupted", unknown)
		if n := <-got; n == 0 || n > size/2 {
			t.Errorf("the upstream got %d bytes, want two writes", n)
		}
		if n := u.conns.Load(); n != 1 {
			t.Errorf("%d connections", n)
		}
	})
}

// A connection calls the Permit of its current request, not of an earlier one.
func TestPermitIsTheRequests(t *testing.T) {
	overBoth(t, func(t *testing.T, start func(func(int, net.Conn, *bufio.Reader)) (*rawUpstream, *Client)) {
		u, c := start(func(_ int, c net.Conn, r *bufio.Reader) {
			for readRequest(r) != "" {
				io.WriteString(c, okAnswer)
			}
		})
		first := newCall("POST", "/a", "{}")
		p := permitted(first, 1)
		expect(t, c.Do(t.Context(), first), Answered, 200)
		expect(t, c.Do(t.Context(), newCall("POST", "/a", "{}")), Answered, 200)
		third := newCall("POST", "/a", "{}")
		q := permitted(third, 1)
		expect(t, c.Do(t.Context(), third), Answered, 200)
		if conns, first, third := u.conns.Load(), p.asked.Load(), q.asked.Load(); conns != 1 || first != 1 || third != 1 {
			t.Errorf("%d connections; the permits were called %d and %d times", conns, first, third)
		}
	})
}

// A request that fits into a buffer is written with one system call, also over TLS. So a process that is
// stopped in the meantime has sent all of it or nothing.
func TestOneWrite(t *testing.T) {
	overBoth(t, func(t *testing.T, start func(func(int, net.Conn, *bufio.Reader)) (*rawUpstream, *Client)) {
		_, c := start(func(_ int, c net.Conn, r *bufio.Reader) {
			for readRequest(r) != "" {
				io.WriteString(c, okAnswer)
			}
		})
		var writes atomic.Int32
		dial := func(ctx context.Context) (net.Conn, error) {
			raw, err := new(net.Dialer).DialContext(ctx, "tcp", c.to.address)
			return &writeCounter{raw, &writes}, err
		}
		if c.dial = dial; c.tls != nil {
			c.dial = func(ctx context.Context) (net.Conn, error) {
				raw, err := dial(ctx)
				config := c.tls.Clone()
				config.ServerName = "127.0.0.1"
				return tls.Client(raw, config), err
			}
		}
		call := newCall("POST", "/a", strings.Repeat("1", 15<<10))
		expect(t, c.Do(t.Context(), call), Answered, 200)
		writes.Store(0)
		expect(t, c.Do(t.Context(), call), Answered, 200)
		if n := writes.Load(); n != 1 {
			t.Errorf("%d writes", n)
		}
	})
}

// writeCounter counts the writes to a connection.
type writeCounter struct {
	net.Conn
	writes *atomic.Int32
}

func (c *writeCounter) Write(p []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(p)
}

// A refused handler is not called.
func TestHandlerWithheld(t *testing.T) {
	calls := 0
	c, _ := newServed(t, func(http.ResponseWriter, *http.Request) { calls++ })
	call := newCall("POST", "/a", "{}")
	p := permitted(call, 1)
	expect(t, c.Do(t.Context(), call), Answered, 200)
	expect(t, c.Do(t.Context(), call), Withheld, 502, "Bad Gateway: ")
	if asked := p.asked.Load(); calls != 1 || asked != 2 {
		t.Errorf("%d calls; the permit was called %d times", calls, asked)
	}
}
