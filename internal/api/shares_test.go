package api

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sheafapi/sheaf/internal/api/reply"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/gate"
	"github.com/sheafapi/sheaf/internal/storage"
)

// fromHeader reads the caller's network from a header, so that a test can have callers from many
// addresses.
func fromHeader(r *http.Request) netip.Prefix {
	a, err := netip.ParseAddr(r.Header.Get("X-From"))
	if err != nil {
		return netip.Prefix{}
	}
	return netip.PrefixFrom(a, a.BitLen())
}

// TestStreamsAreShared: the calls that wait for changes are limited by owner and by network, and
// one caller's streams don't keep other callers from waiting.
func TestStreamsAreShared(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.From = fromHeader })
	w.api.streams = gate.New[reply.Name](8, 8)
	tickets := map[string]string{}
	ask := func(token, from, query string, events bool) (*http.Response, error) {
		r := w.request("GET", base+"?ticket="+tickets[token]+query, nil)
		r.Header.Set("Authorization", "Bearer "+token)
		r.Header.Set("X-From", from)
		if events {
			r.Header.Set("Accept", "text/event-stream")
		}
		return transport.RoundTrip(r)
	}
	for _, token := range []string{"ann", "made-up", "ben", "cid"} {
		r := w.request("POST", base, strings.NewReader(`[{"method":"GET","path":"p"}]`))
		r.Header.Set("Authorization", "Bearer "+token)
		tickets[token] = w.ticket(w.send(r))
	}
	var open []io.Closer
	stream := func(token, from string, events bool, want int) {
		t.Helper()
		query := ""
		if !events {
			query = "&wait=60"
		}
		resp, err := ask(token, from, query, events) //nolint:bodyclose // closed when the test ends
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != want {
			t.Errorf("%s from %s: %d, want %d", token, from, resp.StatusCode, want)
		}
		if want == http.StatusTooManyRequests && resp.Header.Get("Retry-After") == "" {
			t.Errorf("%s from %s: no Retry-After", token, from)
		}
		open = append(open, resp.Body)
	}
	for range 4 {
		stream("ann", "192.0.2.1", true, 200)
	}
	stream("ann", "192.0.2.2", true, 429)     // the owner has half
	stream("ann", "192.0.2.2", false, 429)    // so it can't wait for a status either
	stream("made-up", "192.0.2.1", true, 429) // a new token from the same network doesn't help
	stream("ben", "192.0.2.3", true, 200)
	stream("ben", "192.0.2.3", true, 200)
	stream("ben", "192.0.2.3", true, 429)
	stream("cid", "192.0.2.4", true, 200)
	resp, err := ask("ann", "192.0.2.1", "", false)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("a status that doesn't wait: %v, %v", resp, err)
	}
	resp.Body.Close()
	for _, c := range open {
		c.Close()
	}
	for w.api.streams.Taken() > 0 {
		<-time.After(time.Millisecond)
	}
}

// serveBare serves the API over pipes, and returns a function that opens a connection.
func serveBare(t *testing.T, s *API) func(request string) net.Conn {
	pipes := make(chan net.Conn, 100)
	server := &http.Server{Handler: s, WriteTimeout: 5 * time.Minute}
	go server.Serve(pipeListener(pipes))
	t.Cleanup(func() { server.Close() })
	return func(request string) net.Conn {
		t.Helper()
		client, end := net.Pipe()
		pipes <- end
		if _, err := io.WriteString(client, request); err != nil {
			t.Fatal(err)
		}
		return client
	}
}

// TestStreamEndsInOrder: a stream without events ends cleanly after a few minutes, so that its
// client reconnects.
func TestStreamEndsInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, ask := newBare(t)
		ticket := ask("POST", base, `[{"method":"GET","path":"p"}]`).Body.String()[len(`{"ticket":"`):][:36]
		began := time.Now()
		conn := serveBare(t, s)("GET " + base + "?ticket=" + ticket + " HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer abc\r\nAccept: text/event-stream\r\n\r\n")
		defer conn.Close()
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if took := time.Since(began); err != nil || took > reply.StreamLife || took < reply.StreamLife/2 {
			t.Errorf("it ended after %v with %v: %q", took, err, text)
		}
		if s.streams.Taken() != 0 {
			t.Error("its place is not free")
		}
	})
}

// TestStalledCompressedUploads: compressed uploads that stall after their first bytes hold no
// memory, however large the decompressed bytes would be, and nobody waits for them.
func TestStalledCompressedUploads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, ask := newBare(t)
		open := serveBare(t, s)
		var bomb bytes.Buffer
		z := gzip.NewWriter(&bomb)
		_, _ = z.Write(bytes.Repeat([]byte(" "), 9<<20))
		_ = z.Flush()
		if bomb.Len() > freeBody {
			t.Fatalf("%d bytes are too many for a bomb", bomb.Len())
		}
		for range 25 {
			conn := open(fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer mallory\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n", base, bomb.Len(), bomb.String()))
			defer conn.Close()
		}
		synctest.Wait()
		if small, large := s.memory.small.Taken(), s.memory.large.Taken(); small+large > 0 {
			t.Errorf("they hold %d and %d bytes", small, large)
		}
		big := `[{"method":"PUT","path":"p","body":"` + strings.Repeat("x", 8<<20) + `"}]`
		began := time.Now()
		if a := ask("POST", base, big); a.Code != http.StatusOK || time.Since(began) > 0 {
			t.Errorf("another caller: %d after %v, %s", a.Code, time.Since(began), a.Body)
		}
	})
}

// TestAnswersAreSharedByOwner: only the owner of slow readers waits for the memory that they hold.
func TestAnswersAreSharedByOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newBare(t)
		status := func(token string) int {
			ask := func(method, query, body string) *httptest.ResponseRecorder {
				r := httptest.NewRequest(method, base+query, strings.NewReader(body))
				r.Header.Set("Authorization", "Bearer "+token)
				r.Header.Set("Content-Type", "application/json")
				rec := httptest.NewRecorder()
				s.ServeHTTP(rec, r)
				return rec
			}
			ticket := ask("POST", "", `[{"method":"GET","path":"p"}]`).Body.String()[len(`{"ticket":"`):][:36]
			return ask("GET", "?ticket="+ticket, "").Code
		}
		for s.source.Answers.Try(reply.AnswerBytes, reply.Name{Owner: batch.OwnerOf("greedy")}) {
		}
		began := time.Now()
		if code := status("modest"); code != 200 || time.Since(began) > 0 {
			t.Errorf("another caller: %d after %v", code, time.Since(began))
		}
		if code := status("greedy"); code != 503 {
			t.Errorf("the owner itself: %d", code)
		}
	})
}

// TestSlowReaders: a client that reads a little slower than the minimum rate is eventually cut off,
// because it gets its grace once per answer, not once per piece. A faster client gets the whole
// answer.
func TestSlowReaders(t *testing.T) {
	for _, c := range []struct {
		rate  int // bytes a second
		whole bool
	}{{12 << 10, false}, {20 << 10, true}} {
		t.Run(fmt.Sprint(c.rate), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, ask := newBare(t)
				ticket := ask("POST", base, `[`+strings.Repeat(`{"method":"GET","path":"p"},`, 31)+`{"method":"GET","path":"p"}]`).Body.String()[len(`{"ticket":"`):][:36]
				claim, err := s.Storage.(storage.Storage).Claim(t.Context(), 1)
				if err != nil {
					t.Fatal(err)
				}
				var marks []storage.Mark
				for i := range 32 {
					marks = append(marks, done(i, 200, `"`+strings.Repeat("x", 100<<10)+`"`))
				}
				if _, err := s.Storage.(storage.Storage).Finish(t.Context(), claim, marks, "", true); err != nil {
					t.Fatal(err)
				}
				conn := serveBare(t, s)("GET " + base + "?ticket=" + ticket + " HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer abc\r\nConnection: close\r\n\r\n")
				defer conn.Close()
				resp, err := http.ReadResponse(bufio.NewReaderSize(conn, 1<<10), nil)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				piece := make([]byte, c.rate)
				for err == nil {
					<-time.After(time.Second)
					_, err = io.ReadFull(resp.Body, piece)
				}
				last := make([]byte, 1)
				if n, again := resp.Body.Read(last); n > 0 {
					t.Errorf("more came after %v: %v", err, again)
				}
				if _, again := resp.Body.Read(last); (again == io.EOF) != c.whole {
					t.Errorf("at %d bytes a second the answer ended with %v", c.rate, again)
				}
			})
		})
	}
}
