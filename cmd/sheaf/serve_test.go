package main

import (
	"bufio"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"
)

// TestUnclearEnd: bytes after a request with an unclear end are never read as another request.
func TestUnclearEnd(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := newServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), slog.New(slog.DiscardHandler), usualLimits)
	go func() { _ = server.Serve(listener) }()
	defer server.Close()
	for first, open := range map[string]bool{
		"POST /docs HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab":                                                      true,
		"POST /docs HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n":                 false,
		"GET /docs HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n": false,
		"POST /ui/sign-in HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n1\r\na\r\n0\r\n\r\n": false,
	} {
		conn, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(time.Minute))
		if _, err := io.WriteString(conn, first+"GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		in := bufio.NewReader(conn)
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		next, err := http.ReadResponse(in, nil)
		if err == nil {
			next.Body.Close()
		}
		if (err == nil) != open {
			t.Errorf("%q: the bytes after it were answered as a request: %v", first, err == nil)
		}
		conn.Close()
	}
}
