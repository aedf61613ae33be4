// Package strictupstream provides an upstream for tests that fails on bytes that HTTP servers would
// tolerate. It checks the byte stream of every connection while the server reads it:
//
//   - Each byte belongs to a request, and each request is complete when its connection ends.
//   - A request begins only after the answer to the previous one has begun.
//   - Requests use one syntax: HTTP/1.1, lines that end in CRLF, one Host, one length.
//   - A connection carries the requests of one credential only.
//   - A request whose body a server may leave unread is the last on its connection.
//
// Watcher.Streams returns the streams, so that tests can compare them byte for byte.
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

// Start starts a server with watched connections. It is closed at the end of the test.
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

// Watch watches the connections that the listener accepts. At the end of the test, it reports what is
// wrong with them as errors.
func Watch(t testing.TB, l net.Listener) *Watcher {
	w := &Watcher{Listener: l, t: t}
	t.Cleanup(w.check)
	return w
}

// AllowPartial allows incomplete requests, for tests that interrupt them.
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

// Streams returns the bytes that each connection has carried so far, in the order in which the
// connections were accepted. Connections without bytes are left out.
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

// Requests returns the number of complete requests.
func (w *Watcher) Requests() (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.streams {
		n += s.requests
	}
	return n
}

// check reports errors to the test.
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

// quote returns the end of a stream, where the fault is.
func quote(stream []byte) string {
	const shown = 1000
	if len(stream) > shown {
		return fmt.Sprintf("%d bytes, the last: %q", len(stream), stream[len(stream)-shown:])
	}
	return fmt.Sprintf("%q", stream)
}

// conn is a watched connection.
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

// SetLinger lets tests reset the connection.
func (c *conn) SetLinger(seconds int) error {
	return c.Conn.(*net.TCPConn).SetLinger(seconds)
}

// CloseWrite lets a server that has answered wait until the client closes the connection.
func (c *conn) CloseWrite() error {
	return c.Conn.(*net.TCPConn).CloseWrite()
}

// stream holds and checks the bytes that a connection has carried.
type stream struct {
	all      []byte
	at       int                                // how many bytes have been checked
	state    func(*stream, []byte) (int, error) // reads the next part of a request; nil between requests
	left     int                                // remaining bytes of a body or chunk
	requests int                                // the number of complete requests
	answered bool                               // an answer to the last request has begun
	last     bool                               // no request may follow
	owner    string                             // the credential of the first request
	err      error
}

// read checks the next bytes.
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

// mayBegin checks that a request may begin.
func (s *stream) mayBegin() error {
	switch {
	case s.requests == 0:
		return nil
	case s.last:
		return fmt.Errorf("byte %d follows a request that must be the last", s.at)
	case !s.answered:
		return fmt.Errorf("byte %d belongs to no request: the last one is complete and has no answer yet", s.at)
	}
	return nil
}

// whole checks that no request is incomplete.
func (s *stream) whole() error {
	if s.state != nil {
		return fmt.Errorf("request %d is incomplete", s.requests+1)
	}
	return nil
}

// end ends a request.
func (s *stream) end() {
	s.requests++
	s.state, s.answered = nil, false
}

// line returns the next line without its line ending. n is its length with the line ending; 0 if the
// line is incomplete.
func line(b []byte) (text []byte, n int, err error) {
	n = bytes.IndexByte(b, '\n') + 1
	if n == 0 {
		return nil, 0, nil
	}
	if n < 2 || b[n-2] != '\r' || bytes.IndexByte(b[:n-2], '\r') >= 0 {
		return nil, 0, fmt.Errorf("a line doesn't end in CRLF: %q", b[:n])
	}
	return b[:n-2], n, nil
}
