// Package strictupstream lets a test's upstream fail on bytes that HTTP servers would
// forgive. It watches the byte stream of every connection while a server reads it:
//
//   - Each byte belongs to a request, and each request is whole when its connection ends.
//   - A request begins only after an answer to the one before it has begun.
//   - Requests have one spelling: HTTP/1.1, lines that end in CRLF, one Host, one length.
//   - A connection carries the requests of one credential.
//   - A request whose body a server may leave unread is the last of its connection.
//
// What the streams held can be compared byte for byte afterwards (Watcher.Streams).
package strictupstream

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
)

// Start starts a server for the handler whose connections are watched. The test
// closes it, or leaves that to the end of the test.
func Start(t testing.TB, h http.Handler) (*httptest.Server, *Watcher) {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	w := Watch(t, s.Listener)
	s.Listener = w
	s.Start()
	t.Cleanup(s.Close)
	return s, w
}

// Watcher is a listener whose connections are watched.
type Watcher struct {
	net.Listener
	t testing.TB

	mu      sync.Mutex
	partial bool
	streams []*stream
}

// Watch watches the connections that the listener accepts. What is wrong with them fails
// the test at its end at the latest.
func Watch(t testing.TB, l net.Listener) *Watcher {
	w := &Watcher{Listener: l, t: t}
	t.Cleanup(w.check)
	return w
}

// AllowPartial lets requests end in the middle, in tests that interrupt them.
func (w *Watcher) AllowPartial() *Watcher {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.partial = true
	return w
}

// Accept returns the next connection.
func (w *Watcher) Accept() (net.Conn, error) {
	raw, err := w.Listener.Accept()
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	s := &stream{}
	w.streams = append(w.streams, s)
	return &conn{Conn: raw, watcher: w, stream: s}, nil
}

// Streams returns what each connection has carried so far, in the order in which they
// were accepted. Those that carried nothing are left out.
func (w *Watcher) Streams() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []string
	for _, s := range w.streams {
		if len(s.all) > 0 {
			all = append(all, string(s.all))
		}
	}
	return all
}

// Requests returns how many requests have come whole.
func (w *Watcher) Requests() (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.streams {
		n += s.requests
	}
	return n
}

// check reports what was wrong.
func (w *Watcher) check() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, s := range w.streams {
		err := s.err
		if err == nil && !w.partial {
			err = s.whole()
		}
		if err != nil {
			w.t.Errorf("connection %d of %d: %v; its stream: %s", i+1, len(w.streams), err, quote(s.all))
		}
	}
}

// quote shows the end of a stream, where the fault is.
func quote(stream []byte) string {
	const most = 1000
	if len(stream) > most {
		return fmt.Sprintf("%d bytes, the last: %q", len(stream), stream[len(stream)-most:])
	}
	return fmt.Sprintf("%q", stream)
}

// conn is a connection that is watched.
type conn struct {
	net.Conn
	watcher *Watcher
	stream  *stream
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.watcher.mu.Lock()
	defer c.watcher.mu.Unlock()
	c.stream.read(p[:n])
	return n, err
}

func (c *conn) Write(p []byte) (int, error) {
	c.watcher.mu.Lock()
	c.stream.answered = true
	c.watcher.mu.Unlock()
	return c.Conn.Write(p)
}

// SetLinger lets a test reset the connection.
func (c *conn) SetLinger(seconds int) error {
	return c.Conn.(*net.TCPConn).SetLinger(seconds)
}

// CloseWrite lets a server that has answered wait for the client's end.
func (c *conn) CloseWrite() error {
	return c.Conn.(*net.TCPConn).CloseWrite()
}

// stream is what a connection has carried.
type stream struct {
	all      []byte
	at       int // up to where it was understood
	state    func(*stream, []byte) (int, error)
	left     int    // bytes of a body, or of a chunk, that have to come
	requests int    // that have come whole
	answered bool   // an answer to the last one has begun
	last     bool   // no request may follow
	owner    string // the credential of the first request
	err      error
}

// read takes the next bytes in.
func (s *stream) read(p []byte) {
	s.all = append(s.all, p...)
	for s.err == nil && s.at < len(s.all) {
		if s.state == nil {
			if s.err = s.mayBegin(); s.err != nil {
				return
			}
			s.state = head
		}
		n, err := s.state(s, s.all[s.at:])
		s.err = err
		if s.at += n; n == 0 {
			return
		}
	}
}

// mayBegin checks that a byte may come.
func (s *stream) mayBegin() error {
	switch {
	case s.requests == 0:
		return nil
	case s.last:
		return fmt.Errorf("byte %d follows a request that had to be the last one", s.at)
	case !s.answered:
		return fmt.Errorf("byte %d belongs to no request: the last one was whole and has no answer yet", s.at)
	}
	return nil
}

// whole checks that nothing has begun that did not end.
func (s *stream) whole() error {
	if s.state != nil {
		return fmt.Errorf("request %d has no end", s.requests+1)
	}
	return nil
}

// end ends a request.
func (s *stream) end() {
	s.requests++
	s.state, s.answered = nil, false
}

// line returns the next line without its end, and its length with it; 0: it has not come.
func line(b []byte) (text []byte, n int, err error) {
	n = bytes.IndexByte(b, '\n') + 1
	if n == 0 {
		return nil, 0, nil
	}
	if n < 2 || b[n-2] != '\r' || bytes.IndexByte(b[:n-2], '\r') >= 0 {
		return nil, 0, fmt.Errorf("a line that does not end in CRLF: %q", b[:n])
	}
	return b[:n-2], n, nil
}
