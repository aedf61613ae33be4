package outbound

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
)

// conn is a connection to the upstream that knows whether anything of the request
// it carries may have been written. Over TLS it lies above the encryption, so that a
// handshake or an alert does not count.
type conn struct {
	net.Conn
	secure bool
	state  atomic.Uint32
	of     *attempt // whose request it carries
}

// The states of a conn. A write goes from clean to dirty and back if it certainly
// wrote nothing; who wants to know bars a clean connection, so that the answer "no
// byte was written" stays true whatever net/http's goroutines still do.
const (
	clean  uint32 = iota // no byte of the request was written
	dirty                // a write is under way, or has written something
	barred               // no byte was written and none will be
)

// watched makes a dial function return conns.
func watched(dial func(context.Context, string, string) (net.Conn, error), secure bool) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &conn{Conn: c, secure: secure}, nil
	}
}

// errWithheld is what a write gets that the request's permit refuses.
var errWithheld = errors.New("the permission to send was withdrawn")

// Write writes p, or nothing once the connection is barred or the request's permit
// refuses. The system call follows at once: a process that is stopped between the two,
// and goes on later, writes this one piece too late and nothing more.
func (c *conn) Write(p []byte) (int, error) {
	if c.state.Load() != barred && c.of.permit != nil && !c.of.permit() {
		c.withhold()
		return 0, errWithheld
	}
	first := c.state.CompareAndSwap(clean, dirty)
	if !first && c.state.Load() == barred {
		return 0, net.ErrClosed
	}
	n, err := c.Conn.Write(p)
	// A TLS write that failed may have sent a part of its record, except on a
	// connection that was closed before: that one returns the bare error.
	if first && n == 0 && (!c.secure || err == net.ErrClosed) { //nolint:errorlint // a wrapped one may come after a part was sent
		c.state.Store(clean)
	}
	return n, err
}

// begin is called when the connection is given to a request.
func (c *conn) begin(a *attempt) {
	c.of = a
	c.state.Store(clean)
}

// withhold ends the connection, and the attempt with it: net/http would try the next
// connection otherwise, and the one after that.
func (c *conn) withhold() {
	if c.state.CompareAndSwap(clean, barred) {
		c.of.withheld.Store(true)
	} else if c.state.Load() == barred {
		return // the attempt has left this connection
	}
	c.of.cancel()
	_ = c.Conn.Close()
}

// bar reports whether no byte of the request was written, and then ends the
// connection.
func (c *conn) bar() bool {
	if !c.state.CompareAndSwap(clean, barred) {
		return c.state.Load() == barred
	}
	_ = c.Conn.Close() // net/http has most likely closed it
	return true
}
