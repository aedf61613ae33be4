// Package inbound limits the connections and requests of callers.
//
// Every connection is accepted at once, so no caller waits behind the connections of others. When too
// many are open, the one that has been idle longest is closed. A single address can hold at most half
// of what is free. If it opens more, its own connections are closed and not those of others.
// Connections from trusted proxies carry many callers and are exempt from that limit.
//
// The number of concurrent requests is limited and shared fairly among client addresses. Behind a
// trusted proxy, the client address is the forwarded one. Requests beyond an address's share get 429
// at once. Health probes have their own limit, so they are answered even when the service is full.
//
// If a request is refused before its body has arrived, the rest of the body is read first, within
// limits. Otherwise many clients could not read the answer.
package inbound

import (
	"container/list"
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"syscall"

	"github.com/sheafapi/sheaf/internal/gate"
)

const (
	// leastShare is the divisor for the part of all connections (1/32) that an address may always
	// hold, even if fewer are free.
	leastShare = 32
	// maxProbes is how many probes are answered at the same time.
	maxProbes = 256
)

// Options configure Connections. All fields except Trusted and Probes are required.
type Options struct {
	MaxConnections int
	MaxBody        int64                              // the size of the largest body that is served, in bytes
	MaxRequests    int                                // how many requests are answered at the same time; less than MaxConnections, so that one is always idle
	Trusted        []netip.Prefix                     // addresses of trusted proxies
	Network        func(netip.Addr) netip.Prefix      // the network that counts as one address
	From           func(r *http.Request) netip.Prefix // the network that a request came from
	Probes         []string                           // the paths of health probes
}

// Connections tracks the open connections of callers. It is safe for concurrent use.
type Connections struct {
	Options
	requests *gate.Gate[netip.Prefix]
	probes   *gate.Gate[netip.Prefix]
	drains   *drains

	mu        sync.Mutex
	open      int
	addresses map[netip.Prefix]*address
	idle      list.List // of *conn without requests, longest idle first
	proxies   list.List // likewise, for trusted proxies
}

// address is one client address. Guarded by Connections.mu, as is conn.
type address struct {
	open int
	idle list.List // of *conn, in the order of Connections.idle
}

// conn is one connection.
type conn struct {
	net.Conn
	all     *Connections
	network netip.Prefix
	trusted bool

	running    int           // the number of requests that are being answered
	closed     bool          // closed, and no longer counted
	idle, here *list.Element // its elements in the idle lists of Connections and of its address; nil: busy or closed
}

// New returns Connections without any connection.
func New(o Options) *Connections {
	return &Connections{
		Options:   o,
		requests:  gate.New[netip.Prefix](int64(o.MaxRequests), int64(o.MaxRequests)),
		probes:    gate.New[netip.Prefix](maxProbes, maxProbes),
		drains:    newDrains(o.MaxBody),
		addresses: map[netip.Prefix]*address{},
	}
}

// Serve applies the limits to a server and calls serve, which is the server's method, with a wrapped
// listener.
func (c *Connections) Serve(server *http.Server, on net.Listener, serve func(net.Listener) error) error {
	server.Handler = c.limit(server.Handler)
	server.ConnContext = withConn
	return serve(&listener{on, c})
}

// listener accepts connections, and closes idle ones when there are too many.
type listener struct {
	net.Listener
	all *Connections
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	for {
		raw, err := l.Listener.Accept()
		if err != nil {
			// Closing an idle connection frees a file descriptor.
			if (errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)) && l.all.evict() {
				continue
			}
			return nil, err
		}
		if conn := l.all.add(raw); conn != nil {
			return conn, nil
		}
		_ = raw.Close()
	}
}

// add counts a new connection and closes idle ones to make room for it. It returns nil if there is no
// room.
func (c *Connections) add(raw net.Conn) net.Conn {
	from := netip.Addr{}
	if at, err := netip.ParseAddrPort(raw.RemoteAddr().String()); err == nil {
		from = at.Addr().Unmap().WithZone("")
	}
	n := &conn{
		Conn: raw, all: c, network: c.Network(from),
		trusted: slices.ContainsFunc(c.Trusted, func(p netip.Prefix) bool { return p.Contains(from) }),
	}
	c.mu.Lock()
	var surplus []*conn
	room := true
	a := c.addresses[n.network]
	if most := max(c.MaxConnections-c.open, c.MaxConnections/leastShare, 1); !n.trusted && a != nil && a.open >= most {
		surplus, _ = c.removeIdle(surplus, &a.idle) // if all are busy, the limit on requests applies
	}
	if c.open >= c.MaxConnections {
		if surplus, room = c.removeIdle(surplus, &c.idle); !room {
			surplus, room = c.removeIdle(surplus, &c.proxies)
		}
	}
	if room {
		c.count(n)
	}
	c.mu.Unlock()
	for _, old := range surplus {
		_ = old.Conn.Close()
	}
	if !room {
		return nil
	}
	return n
}

// removeIdle removes the first connection of an idle list and appends it to surplus, which the caller
// must close. It reports whether there was one. mu is held.
func (c *Connections) removeIdle(surplus []*conn, idle *list.List) ([]*conn, bool) {
	first := idle.Front()
	if first == nil {
		return surplus, false
	}
	n := first.Value.(*conn) //nolint:forcetypeassert // the list holds nothing else
	c.forget(n)
	return append(surplus, n), true
}

// evict closes the connection that has been idle longest. It reports whether there was one.
func (c *Connections) evict() bool {
	c.mu.Lock()
	surplus, found := c.removeIdle(nil, &c.idle)
	if !found {
		surplus, found = c.removeIdle(nil, &c.proxies)
	}
	c.mu.Unlock()
	for _, old := range surplus {
		_ = old.Conn.Close()
	}
	return found
}

// count adds a connection, which is idle until its first request. mu is held.
func (c *Connections) count(n *conn) {
	a := c.addresses[n.network]
	if a == nil {
		a = &address{}
		c.addresses[n.network] = a
	}
	c.open++
	a.open++
	c.markIdle(n)
}

// markIdle adds a connection to the idle lists. mu is held.
func (c *Connections) markIdle(n *conn) {
	if n.trusted {
		n.idle = c.proxies.PushBack(n)
	} else {
		n.idle = c.idle.PushBack(n)
	}
	n.here = c.addresses[n.network].idle.PushBack(n)
}

// markBusy removes a connection from the idle lists. mu is held.
func (c *Connections) markBusy(n *conn) {
	if n.idle == nil {
		return
	}
	c.idle.Remove(n.idle) // has no effect on an element of another list
	c.proxies.Remove(n.idle)
	c.addresses[n.network].idle.Remove(n.here)
	n.idle, n.here = nil, nil
}

// forget stops counting a connection. mu is held.
func (c *Connections) forget(n *conn) {
	if n.closed {
		return
	}
	c.markBusy(n)
	n.closed = true
	c.open--
	if a := c.addresses[n.network]; a.open > 1 {
		a.open--
	} else {
		delete(c.addresses, n.network)
	}
}

// Close implements net.Conn.
func (n *conn) Close() error {
	n.all.mu.Lock()
	n.all.forget(n)
	n.all.mu.Unlock()
	return n.Conn.Close()
}

// begin and end mark the time when a request of the connection is being answered.
func (n *conn) begin() {
	n.all.mu.Lock()
	defer n.all.mu.Unlock()
	n.running++
	n.all.markBusy(n)
}

func (n *conn) end() {
	n.all.mu.Lock()
	defer n.all.mu.Unlock()
	if n.running--; n.running == 0 && !n.closed {
		n.all.markIdle(n)
	}
}

// connKey is the context key of a request's connection.
type connKey struct{}

// withConn stores a connection in the context of its requests.
func withConn(ctx context.Context, raw net.Conn) context.Context {
	if secure, ok := raw.(interface{ NetConn() net.Conn }); ok {
		raw = secure.NetConn()
	}
	if n, ok := raw.(*conn); ok {
		return context.WithValue(ctx, connKey{}, n)
	}
	return ctx
}

// limit returns a handler that refuses requests beyond the limits.
func (c *Connections) limit(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n, ok := r.Context().Value(connKey{}).(*conn); ok {
			n.begin()
			defer n.end()
		}
		requests := c.requests
		if slices.Contains(c.Probes, r.URL.Path) {
			requests = c.probes
		}
		from := c.From(r)
		w, r = c.drains.wrap(w, r, from)
		if !requests.Try(1, from) {
			refuse(w)
			return
		}
		defer requests.Leave(1, from)
		next.ServeHTTP(w, r)
	})
}

// refuse answers a request beyond its address's share, in the API's format.
func refuse(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("Retry-After", "1")
	w.WriteHeader(http.StatusTooManyRequests)
	_, _ = w.Write([]byte(`{"errorMessage":"Too many concurrent requests from your address. Retry in a second with fewer at the same time.","errorCode":"RATE_LIMITED"}`))
}
