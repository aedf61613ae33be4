package outbound

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"
)

// breakableConn is a connection whose writes fail after a part, once it is broken.
type breakableConn struct {
	net.Conn
	now atomic.Bool
}

func (b *breakableConn) Write(p []byte) (int, error) {
	if !b.now.Load() {
		return b.Conn.Write(p)
	}
	n, err := b.Conn.Write(p[:len(p)/2])
	if err == nil {
		err = errors.New("the network broke")
	}
	return n, err
}

// gatheringConn is a connection that holds writes back until it is released, and then sends them
// together.
type gatheringConn struct {
	net.Conn
	holds bool
	held  []byte
}

func (g *gatheringConn) Write(p []byte) (int, error) {
	if !g.holds {
		return g.Conn.Write(p)
	}
	g.held = append(g.held, p...)
	return len(p), nil
}

// overTLS returns a conn over TLS. The functions wrap the raw connections of both sides. serve handles the
// server's side after the handshake.
func overTLS(t *testing.T, wrapClient, wrapServer func(net.Conn) net.Conn, serve func(*tls.Conn)) *conn {
	t.Helper()
	server := httptest.NewTLSServer(nil)
	server.Close()
	there, here := net.Pipe()
	t.Cleanup(func() { there.Close(); here.Close() })
	go func() {
		secure := tls.Server(wrapServer(there), &tls.Config{Certificates: server.TLS.Certificates, SessionTicketsDisabled: true})
		if err := secure.HandshakeContext(t.Context()); err == nil {
			serve(secure)
		}
	}()
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	secure := tls.Client(wrapClient(here), &tls.Config{RootCAs: roots, ServerName: "example.com"})
	if err := secure.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	return newConn(secure, owner{})
}

func asItIs(c net.Conn) net.Conn { return c }

// Unrequested data is noticed even if it came together with the answer, in its own TLS record. Then the
// socket no longer has it and the reader doesn't have it yet.
func TestUnaskedRecord(t *testing.T) {
	for name, records := range map[string][]string{"nothing more": {"a"}, "a record more": {"a", "b"}} {
		var raw *gatheringConn
		c := overTLS(t, asItIs, func(c net.Conn) net.Conn { raw = &gatheringConn{Conn: c}; return raw }, func(secure *tls.Conn) {
			raw.holds = true
			for _, r := range records {
				_, _ = io.WriteString(secure, r)
			}
			_, _ = raw.Conn.Write(raw.held)
		})
		c.room, c.since = 1000, time.Now()
		if b, err := c.reader.ReadByte(); b != 'a' || err != nil {
			t.Fatalf("%s: read %q, %v", name, b, err)
		}
		if got, want := c.alive(time.Now()), len(records) == 1; got != want {
			t.Errorf("%s: the connection is alive: %v, want %v", name, got, want)
		}
	}
}

// A failed write over TLS may have sent a part of its record, even though it reports 0 bytes. A write on a
// connection that was closed before has certainly sent nothing.
func TestNothingWrittenOverTLS(t *testing.T) {
	var raw *breakableConn
	c := overTLS(t, func(c net.Conn) net.Conn { raw = &breakableConn{Conn: c}; return raw }, asItIs, func(secure *tls.Conn) {
		_, _ = io.Copy(io.Discard, secure)
	})
	raw.now.Store(true)
	n, err := c.Write([]byte("POST /orders HTTP/1.1\r\n\r\n"))
	if n != 0 || err == nil {
		t.Fatalf("wrote %d, %v: this isn't the case to test", n, err)
	}
	if c.nothingWritten(n, err) {
		t.Error("half a record counts as nothing written")
	}
	c.Close()
	if n, err := c.Write([]byte("POST")); !c.nothingWritten(n, err) {
		t.Errorf("wrote %d, %v on a closed connection, which counts as written", n, err)
	}
}
