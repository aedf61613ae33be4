//go:build unix

package outbound

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// BenchmarkDo compares an attempt with net/http: with its connection pool (http.Client), and with one
// connection and no pool (http.ClientConn), on which this package could build. cpu-ns/op is the CPU time
// including the upstream's. It is also meaningful on a busy machine.
func BenchmarkDo(b *testing.B) {
	answer := []byte(`{"id":12345,"name":"` + strings.Repeat("x", 1000) + `"}`)
	body := []byte(`{"price":12.30}`)
	u := newQuiet(b, answer)
	request := func() *http.Request {
		req, err := http.NewRequestWithContext(context.Background(), "POST", "http://"+u+"/api/v3/123/products/1", bytes.NewReader(body))
		if err != nil {
			b.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer secret-token")
		req.Header.Set("Content-Type", "application/json")
		return req
	}
	read := func(resp *http.Response, err error) {
		if err != nil {
			b.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || len(got) != len(answer) {
			b.Fatal(err)
		}
	}
	b.Run("sheaf", func(b *testing.B) {
		c := newClient(b, u)
		call := newCall("POST", "/products/1", string(body))
		measure(b, func() {
			if a := c.Do(b.Context(), call); a.Code != 200 || len(a.Body) != len(answer) {
				b.Fatal(a)
			}
		})
	})
	b.Run("http.Client", func(b *testing.B) {
		client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{}}
		defer client.CloseIdleConnections()
		measure(b, func() { read(client.Do(request())) }) //nolint:bodyclose // read closes it
	})
	b.Run("http.ClientConn", func(b *testing.B) {
		conn, err := new(http.Transport).NewClientConn(b.Context(), "http", u)
		if err != nil {
			b.Fatal(err)
		}
		defer conn.Close()
		measure(b, func() { read(conn.RoundTrip(request())) }) //nolint:bodyclose // read closes it
	})
}

// measure runs f repeatedly and also reports its CPU time.
func measure(b *testing.B, f func()) {
	before := processorTime(b)
	b.ReportAllocs()
	for b.Loop() {
		f()
	}
	b.ReportMetric(float64(processorTime(b)-before)/float64(b.N), "cpu-ns/op")
}

func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// newQuiet starts an upstream that allocates nothing and costs little, and returns its address.
func newQuiet(b *testing.B, body []byte) string {
	answer := append([]byte("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nDate: Fri, 27 Nov 2026 08:00:00 GMT\r\nContent-Length: "+
		strconv.Itoa(len(body))+"\r\n\r\n"), body...)
	u := newRawOn(b, newListener(b), func(_ int, c net.Conn, _ *bufio.Reader) {
		buf := make([]byte, 4096)
		for n := 0; ; {
			m, err := c.Read(buf[n:])
			if err != nil {
				return
			}
			if n += m; bytes.HasSuffix(buf[:n], []byte("}")) {
				n = 0
				if _, err := c.Write(answer); err != nil {
					return
				}
			}
		}
	})
	return u.addr()
}
