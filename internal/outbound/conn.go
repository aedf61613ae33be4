package outbound

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"syscall"
	"time"
)

// conn is a connection to the upstream. One exchange at a time uses it, and only those of
// one owner.
type conn struct {
	net.Conn
	owner  owner
	socket syscall.RawConn // below TLS; nil: it can't be looked at
	secure bool
	made   time.Time
	used   bool // carried an exchange before this one
	reader *bufio.Reader
	// pending is what reader reads before the connection, after a head that was read line by line.
	pending *bytes.Reader
	room    int64 // bytes that may be read before the end of the header

	since        time.Time     // idle: since when
	keep         time.Duration // idle: for how long at most
	above, below *conn         // idle: its neighbours in the owner's stack
}

const readBuffer = 4 << 10 // bytes; what is larger is read past it

func newConn(raw net.Conn, of owner) *conn {
	c := &conn{Conn: raw, owner: of, made: time.Now(), keep: idleTimeout}
	below := raw
	if t, ok := raw.(interface{ NetConn() net.Conn }); ok { // *tls.Conn
		below, c.secure = t.NetConn(), true
	}
	if s, ok := below.(syscall.Conn); ok {
		c.socket, _ = s.SyscallConn() // nil where it fails
	}
	c.reader = bufio.NewReaderSize((*bounded)(c), readBuffer)
	return c
}

// bounded is a conn as its reader sees it.
type bounded conn

// errHead is the error of an answer whose header has no end.
var errHead = errors.New("the answer's header is too large")

func (b *bounded) Read(p []byte) (int, error) {
	if b.room <= 0 {
		return 0, errHead
	}
	n, err := b.Conn.Read(p[:min(int64(len(p)), b.room)])
	b.room -= int64(n)
	return n, err
}

// alive reports whether an idle connection can carry another exchange.
func (c *conn) alive(now time.Time) bool { return c.young(now) && c.quiet() }

// young reports whether an idle connection is not too old.
func (c *conn) young(now time.Time) bool {
	return now.Sub(c.since) < c.keep && now.Sub(c.made) < maxAge
}

// quiet reports whether the upstream has neither closed an idle connection nor sent anything
// that nobody asked for. Afterwards the connection's deadline may have passed.
func (c *conn) quiet() bool {
	return c.isConsumed() && (c.socket == nil || silent(c.socket)) && (!c.secure || c.nothingDecrypted())
}

// nothingDecrypted reports whether TLS holds nothing that it has read and nobody asked
// for. It reads no more: the deadline has passed.
func (c *conn) nothingDecrypted() bool {
	_ = c.SetReadDeadline(longAgo)
	c.room = 1
	_, err := c.reader.Peek(1)
	return isTimeout(err)
}

// nothingWritten reports whether a write that failed has certainly written nothing. A
// TLS write may have sent a part of its record, except on a connection that was closed
// before: that one returns the bare error. A writer that reports neither bytes nor an error
// may have done anything.
func (c *conn) nothingWritten(n int, err error) bool {
	return n == 0 && !errors.Is(err, io.ErrShortWrite) &&
		(!c.secure || err == net.ErrClosed) //nolint:errorlint // a wrapped one may come after a part was sent
}

// longAgo is a deadline that has passed.
var longAgo = time.Unix(1, 0)

// interrupt ends the exchange that is under way.
func (c *conn) interrupt() { _ = c.SetDeadline(longAgo) }
