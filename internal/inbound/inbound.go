// Package inbound bounds what callers' connections and requests take from the service.
//
// Connections are accepted at once, always: nobody waits in a queue behind other people's
// connections. When too many are open, the one that has been idle longest is closed. One
// address holds half of what is free at most, so it closes its own connections, not those
// of others. Connections of trusted proxies carry many callers and have no such bound.
//
// Requests are bounded in total and shared fairly by the address that they come from, which
// behind a trusted proxy is the forwarded one. A request beyond its address's share is answered
// 429 at once. Probes have places of their own, so they are answered when all others are taken.
//
// If a request is refused before its body has arrived, the answer is sent once the body has arrived,
// within limits, so that clients can read the answer.
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
	// leastShare is the part of all connections (1/32) that an address may hold even where
	// little is free.
	leastShare = 32
	// maxProbes bounds the probes that are answered at the same time.
	maxProbes = 256
)

// Options configure Connections. All must be set but Trusted and Probes.
type Options struct {
	MaxConnections int
	MaxBody        int64                              // bytes of the largest body that is served
	MaxRequests    int                                // being answered at the same time; fewer than connections, so that one is always idle
	Trusted        []netip.Prefix                     // proxies
	Network        func(netip.Addr) netip.Prefix      // what counts as one address
	From           func(r *http.Request) netip.Prefix // where a request came from
	Probes         []string                           // paths that never wait for other requests
}

// Connections are the open connections of callers. It may be used by many goroutines.
type Connections struct {
	Options
	requests *gate.Gate[netip.Prefix]
	probes   *gate.Gate[netip.Prefix]
	drains   *drains

	mu        sync.Mutex
	open      int
	addresses map[netip.Prefix]*address
	idle      list.List // of *conn that answer nothing, the one that has been idle longest first
	proxies   list.List // likewise, of trusted proxies
}

// address is where connections come from. Guarded by Connections.mu, as is conn.
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

	running    int           // requests that are being answered
	closed     bool          // and not counted any more
	idle, here *list.Element // in Connections' list and in its address's; nil: busy or closed
}

// New returns Connections without any.
func New(o Options) *Connections {
	return &Connections{
		Options:   o,
		requests:  gate.New[netip.Prefix](int64(o.MaxRequests), int64(o.MaxRequests)),
		probes:    gate.New[netip.Prefix](maxProbes, maxProbes),
		drains:    newDrains(o.MaxBody),
		addresses: map[netip.Prefix]*address{},
	}
}

// Serve makes a server's connections and requests count, and serves on the listener. serve
// is the server's method for that.
func (c *Connections) Serve(server *http.Server, on net.Listener, serve func(net.Listener) error) error {
	server.Handler = c.bound(server.Handler)
	server.ConnContext = remember
	return serve(&listener{on, c})
}

// listener accepts connections and closes others where there are too many.
type listener struct {
	net.Listener
	all *Connections
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	for {
		raw, err := l.Listener.Accept()
		if err != nil {
			// Without a file for the new connection, an idle one has to give up its own.
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

// add counts a new connection, and closes what must make room for it. It returns nil if
// nothing can.
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
		surplus, _ = c.take(surplus, &a.idle) // if all are busy, the bound on requests holds for them
	}
	if c.open >= c.MaxConnections {
		if surplus, room = c.take(surplus, &c.idle); !room {
			surplus, room = c.take(surplus, &c.proxies)
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

// take removes the first connection of a list of idle ones, if there is any, and appends it
// to those that have to be closed. mu is held.
func (c *Connections) take(surplus []*conn, idle *list.List) ([]*conn, bool) {
	first := idle.Front()
	if first == nil {
		return surplus, false
	}
	n := first.Value.(*conn) //nolint:forcetypeassert // nothing else is in it
	c.forget(n)
	return append(surplus, n), true
}

// evict closes the connection that has been idle longest. It reports false if there is none.
func (c *Connections) evict() bool {
	c.mu.Lock()
	surplus, found := c.take(nil, &c.idle)
	if !found {
		surplus, found = c.take(nil, &c.proxies)
	}
	c.mu.Unlock()
	for _, old := range surplus {
		_ = old.Conn.Close()
	}
	return found
}

// count adds a connection, which is idle until its first request has come. mu is held.
func (c *Connections) count(n *conn) {
	a := c.addresses[n.network]
	if a == nil {
		a = &address{}
		c.addresses[n.network] = a
	}
	c.open++
	a.open++
	c.rest(n)
}

// rest puts a connection among the idle ones. mu is held.
func (c *Connections) rest(n *conn) {
	if n.trusted {
		n.idle = c.proxies.PushBack(n)
	} else {
		n.idle = c.idle.PushBack(n)
	}
	n.here = c.addresses[n.network].idle.PushBack(n)
}

// rouse removes a connection from the idle ones. mu is held.
func (c *Connections) rouse(n *conn) {
	if n.idle == nil {
		return
	}
	c.idle.Remove(n.idle) // does nothing with an element of another list
	c.proxies.Remove(n.idle)
	c.addresses[n.network].idle.Remove(n.here)
	n.idle, n.here = nil, nil
}

// forget counts a connection no more. mu is held.
func (c *Connections) forget(n *conn) {
	if n.closed {
		return
	}
	c.rouse(n)
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

// begin and end tell that a request of the connection is being answered.
func (n *conn) begin() {
	n.all.mu.Lock()
	defer n.all.mu.Unlock()
	n.running++
	n.all.rouse(n)
}

func (n *conn) end() {
	n.all.mu.Lock()
	defer n.all.mu.Unlock()
	if n.running--; n.running == 0 && !n.closed {
		n.all.rest(n)
	}
}

// connKey is the key of a request's connection in its context.
type connKey struct{}

// remember keeps a connection for its requests.
func remember(ctx context.Context, raw net.Conn) context.Context {
	if secure, ok := raw.(interface{ NetConn() net.Conn }); ok {
		raw = secure.NetConn()
	}
	if n, ok := raw.(*conn); ok {
		return context.WithValue(ctx, connKey{}, n)
	}
	return ctx
}

// bound answers requests that are too many.
func (c *Connections) bound(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n, ok := r.Context().Value(connKey{}).(*conn); ok {
			n.begin()
			defer n.end()
		}
		places := c.requests
		if slices.Contains(c.Probes, r.URL.Path) {
			places = c.probes
		}
		from := c.From(r)
		w, r = c.drains.wrap(w, r, from)
		if !places.Try(1, from) {
			refuse(w)
			return
		}
		defer places.Leave(1, from)
		next.ServeHTTP(w, r)
	})
}

// refuse answers a request that its address makes beyond its share, in the API's form.
func refuse(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("Retry-After", "1")
	w.WriteHeader(http.StatusTooManyRequests)
	_, _ = w.Write([]byte(`{"errorMessage":"Too many requests from your address are being answered at the moment. Retry in a second, with fewer at the same time.","errorCode":"RATE_LIMITED"}`))
}
