package inbound

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"
)

// world is a server with limits. Its handler blocks requests for /hold until they are released.
type world struct {
	t       *testing.T
	address string
	all     *Connections
	held    chan struct{} // a value for each request that is being held
	release func()
}

func newWorld(t *testing.T, configure func(*Options)) *world {
	w := &world{t: t, held: make(chan struct{}, 100)}
	gate := make(chan struct{})
	w.release = sync.OnceFunc(func() { close(gate) })
	network := func(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
	o := Options{
		MaxConnections: 8, MaxRequests: 8, Network: network, Probes: []string{"/healthz"},
		From: func(r *http.Request) netip.Prefix {
			if forwarded := r.Header.Get("X-Forwarded-For"); forwarded != "" {
				return network(netip.MustParseAddr(forwarded))
			}
			return network(netip.MustParseAddrPort(r.RemoteAddr).Addr())
		},
	}
	if configure != nil {
		configure(&o)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.address, w.all = l.Addr().String(), New(o)
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/refuse":
			rw.WriteHeader(http.StatusUnauthorized)
		case "/hold":
			w.held <- struct{}{}
			<-gate
		}
	})}
	ended := make(chan error, 1)
	go func() { ended <- w.all.Serve(server, l, server.Serve) }()
	t.Cleanup(func() {
		w.release()
		server.Close()
		<-ended
	})
	return w
}

// client is a connection from an address of this machine.
type client struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
}

func (w *world) dial(from string) *client {
	w.t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	conn, err := d.DialContext(w.t.Context(), "tcp", w.address)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(time.Minute)) // so that a test fails instead of hanging
	return &client{w.t, conn, bufio.NewReader(conn)}
}

func (c *client) send(path string, header ...string) {
	c.t.Helper()
	if _, err := fmt.Fprintf(c.conn, "GET %s HTTP/1.1\r\nHost: x\r\n%s\r\n", path, strings.Join(append(header, ""), "\r\n")); err != nil {
		c.t.Fatal(err)
	}
}

// status returns the status of the next answer; 0: the connection was closed instead.
func (c *client) status() int {
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return 0
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	return resp.StatusCode
}

func (c *client) ask(path string, header ...string) int {
	c.t.Helper()
	c.send(path, header...)
	return c.status()
}

// closed waits until the server has closed the connection.
func (c *client) closed() bool {
	_, err := c.in.ReadByte()
	return err != nil && !strings.Contains(err.Error(), "timeout")
}

// An address that keeps opening connections loses its own oldest ones. Others don't wait or lose
// connections.
func TestAddressCantHoldAllConnections(t *testing.T) {
	w := newWorld(t, nil)
	neighbor := w.dial("127.0.0.2")
	if code := neighbor.ask("/"); code != 200 {
		t.Fatalf("the neighbor got %d", code)
	}
	var greedy []*client
	for range 50 {
		greedy = append(greedy, w.dial("127.0.0.1"))
	}
	for i := range 40 {
		if !greedy[i].closed() {
			t.Fatalf("connection %d of 50 was kept", i)
		}
	}
	if code := neighbor.ask("/"); code != 200 {
		t.Errorf("the neighbor's connection: %d", code)
	}
	for i := range 3 {
		if code := w.dial(fmt.Sprint("127.0.0.", 3+i)).ask("/"); code != 200 {
			t.Errorf("newcomer %d: %d", i, code)
		}
	}
	if code := greedy[49].ask("/"); code != 200 {
		t.Errorf("the greedy address's newest connection: %d", code)
	}
}

// If many addresses together hold all connections, the one that has been idle longest is closed. A busy
// connection is never closed.
func TestOldestIdleConnectionMakesRoom(t *testing.T) {
	w := newWorld(t, nil)
	busy := w.dial("127.0.0.9")
	busy.send("/hold")
	<-w.held
	var idle []*client
	for i := range 7 {
		idle = append(idle, w.dial(fmt.Sprint("127.0.1.", 1+i)))
		if code := idle[i].ask("/"); code != 200 {
			t.Fatalf("connection %d: %d", i, code)
		}
	}
	if code := idle[0].ask("/"); code != 200 { // now 1 is the oldest
		t.Fatal(code)
	}
	if code := w.dial("127.0.0.2").ask("/"); code != 200 {
		t.Errorf("the newcomer: %d", code)
	}
	if !idle[1].closed() {
		t.Error("the oldest idle connection is open")
	}
	if code := idle[0].ask("/"); code != 200 {
		t.Errorf("a newer connection: %d", code)
	}
	w.release()
	if code := busy.status(); code != 200 {
		t.Errorf("the busy connection: %d", code)
	}
}

// A trusted proxy may open all connections, and its requests count for the forwarded address.
func TestTrustedProxyIsNoAddress(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.Trusted = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")} })
	var proxied []*client
	for range 8 {
		proxied = append(proxied, w.dial("127.0.0.1"))
		if code := proxied[len(proxied)-1].ask("/"); code != 200 {
			t.Fatal(code)
		}
	}
	for i := range 4 {
		proxied[i].send("/hold", "X-Forwarded-For: 192.0.2.1")
		<-w.held
	}
	if code := proxied[4].ask("/", "X-Forwarded-For: 192.0.2.1"); code != 429 {
		t.Errorf("a fifth request of one address: %d", code)
	}
	if code := proxied[4].ask("/", "X-Forwarded-For: 192.0.2.2"); code != 200 {
		t.Errorf("a neighbor's: %d", code)
	}
	w.release()
	for i := range 4 {
		if code := proxied[i].status(); code != 200 {
			t.Errorf("held request %d: %d", i, code)
		}
	}
}

// The limit on requests applies across all connections of an address. Probes are always answered.
func TestRequestsAreSharedByAddress(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.MaxConnections = 100 })
	for range 4 {
		w.dial("127.0.0.1").send("/hold")
		<-w.held
	}
	greedy := w.dial("127.0.0.1")
	greedy.send("/")
	resp, err := http.ReadResponse(greedy.in, nil)
	if err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if resp.StatusCode != 429 || resp.Header.Get("Retry-After") == "" || !strings.Contains(string(text), `"errorCode":"RATE_LIMITED"`) {
		t.Errorf("one beyond the address's share: %d %v %s", resp.StatusCode, resp.Header, text)
	}
	if code := greedy.ask("/healthz"); code != 200 {
		t.Errorf("a probe from there: %d", code)
	}
	for i := range 2 { // a second address gets half of the rest
		w.dial("127.0.0.2").send("/hold")
		if <-w.held; i == 1 {
			if code := w.dial("127.0.0.2").ask("/"); code != 429 {
				t.Errorf("a third one of the second address: %d", code)
			}
		}
	}
	if code := w.dial("127.0.0.3").ask("/"); code != 200 {
		t.Errorf("a third address: %d", code)
	}
}

// An address whose connections are all busy can open another one, for a probe or to get a 429.
func TestBusyAddressIsAnswered(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.MaxRequests = 6 })
	for i := range 10 {
		c := w.dial("127.0.0.1")
		if c.send("/hold"); i < 3 {
			<-w.held
		} else if code := c.status(); code != 429 {
			t.Errorf("request %d: %d", i, code)
		}
	}
	for _, from := range []string{"127.0.0.1", "127.0.0.2"} {
		if code := w.dial(from).ask("/healthz"); code != 200 {
			t.Errorf("a probe from %s: %d", from, code)
		}
	}
	if code := w.dial("127.0.0.2").ask("/"); code != 200 {
		t.Errorf("a neighbor: %d", code)
	}
}

// Only open connections are counted, whatever happens.
func TestConnectionsAreCountedToTheEnd(t *testing.T) {
	w := newWorld(t, nil)
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			for j := range 50 {
				c := w.dial(fmt.Sprint("127.0.0.", 1+i%4))
				if j%3 > 0 {
					_, _ = fmt.Fprint(c.conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
					c.status()
				}
				c.conn.Close()
			}
		})
	}
	all.Wait()
	for end := time.Now().Add(time.Minute); ; {
		w.all.mu.Lock()
		open, addresses, idle := w.all.open, len(w.all.addresses), w.all.idle.Len()
		w.all.mu.Unlock()
		if open == 0 && addresses == 0 && idle == 0 && w.all.requests.Taken() == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d connections, %d addresses, %d idle", open, addresses, idle)
		}
		<-time.After(time.Millisecond)
	}
}
