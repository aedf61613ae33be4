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

// conn is a connection to the upstream. Only the exchanges of one owner use it, one at a time.
type conn struct {
	net.Conn
	owner  owner
	socket syscall.RawConn // the socket below TLS; nil: not accessible
	secure bool
	made   time.Time
	used   bool // has carried an earlier exchange
	reader *bufio.Reader
	// pending has the bytes that came with a head that was read line by line. reader returns them
	// before it reads from the connection again.
	pending bytes.Reader
	room    int64 // how many more bytes may be read

	// For idle connections:
	since        time.Time     // when the connection became idle
	keep         time.Duration // how long it may be idle
	promised     bool          // the upstream has named that time
	above, below *conn         // its neighbors in the owner's stack
}

const readBuffer = 4 << 10 // in bytes; larger reads bypass the buffer

func newConn(raw net.Conn, of owner) *conn {
	c := &conn{Conn: raw, owner: of, made: time.Now(), keep: idleTimeout}
	below := raw
	if t, ok := raw.(interface{ NetConn() net.Conn }); ok { // *tls.Conn
		below, c.secure = t.NetConn(), true
	}
	if s, ok := below.(syscall.Conn); ok {
		c.socket, _ = s.SyscallConn() // nil on error
	}
	c.reader = bufio.NewReaderSize((*limitedReader)(c), readBuffer)
	return c
}

// limitedReader reads at most conn.room bytes from a connection.
type limitedReader conn

// errHead means that an answer's header exceeds the limit.
var errHead = errors.New("the answer's header is too large")

func (r *limitedReader) Read(p []byte) (int, error) {
	if r.room <= 0 {
		return 0, errHead
	}
	n, err := r.Conn.Read(p[:min(int64(len(p)), r.room)])
	r.room -= int64(n)
	return n, err
}

// alive reports whether an idle connection can carry another exchange.
func (c *conn) alive(now time.Time) bool { return c.young(now) && c.quiet() }

// young reports whether an idle connection is not too old.
func (c *conn) young(now time.Time) bool {
	return now.Sub(c.since) < c.keep && now.Sub(c.made) < maxAge
}

// quiet reports whether the upstream has neither closed an idle connection nor sent anything on it.
// It may set the connection's deadline to a time in the past.
func (c *conn) quiet() bool {
	return c.isConsumed() && (c.socket == nil || isQuiet(c.socket)) && (!c.secure || c.nothingDecrypted())
}

// nothingDecrypted reports whether the TLS layer has no data to return. It doesn't read from the
// network, because it sets a deadline that has passed.
func (c *conn) nothingDecrypted() bool {
	_ = c.SetReadDeadline(longAgo)
	c.room = 1
	_, err := c.reader.Peek(1)
	return isTimeout(err)
}

// nothingWritten reports whether a failed write has certainly written nothing. With TLS, a part of the
// record may have been sent, unless Write returns net.ErrClosed itself because the connection was
// already closed. After a write of 0 bytes without an error, nothing is certain.
func (c *conn) nothingWritten(n int, err error) bool {
	return n == 0 && !errors.Is(err, io.ErrShortWrite) &&
		(!c.secure || err == net.ErrClosed) //nolint:errorlint // a wrapped error may follow a partial write
}

// longAgo is a deadline in the past.
var longAgo = time.Unix(1, 0)

// interrupt makes the current exchange fail.
func (c *conn) interrupt() { _ = c.SetDeadline(longAgo) }
