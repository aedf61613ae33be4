package outbound

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// reuse describes an exchange and says whether its connection may be reused.
type reuse struct {
	name, method, body, answer string
	kept                       bool
}

var reuses = []reuse{
	{"length", "GET", "", okAnswer, true},
	{"length 0", "GET", "", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", true},
	{"chunked", "GET", "", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", true},
	{"trailer", "GET", "", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX: y\r\n\r\n", true},
	{"204", "DELETE", "", "HTTP/1.1 204 No Content\r\n\r\n", true},
	{"204, length 0", "PUT", "{}", "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", true},
	{"304", "GET", "", "HTTP/1.1 304 Not Modified\r\n\r\n", true},
	{"HEAD", "HEAD", "", "HTTP/1.1 200 OK\r\n\r\n", true},
	{"204 with a large head", "DELETE", "", "HTTP/1.1 204 No Content\r\nX: " + strings.Repeat("x", 3*readBuffer) + "\r\n\r\n", true},
	{"POST with a body", "POST", "{}", okAnswer, true},
	{"PUT with a body", "PUT", "{}", okAnswer, true},
	{"PATCH with a body", "PATCH", "{}", okAnswer, true},
	{"keep-alive of a minute", "POST", "{}", "HTTP/1.1 200 OK\r\nKeep-Alive: timeout=60, max=100\r\nContent-Length: 2\r\n\r\nok", true},

	{"GET with a body", "GET", "{}", okAnswer, false},
	{"HEAD with a body", "HEAD", "{}", "HTTP/1.1 200 OK\r\n\r\n", false},
	{"DELETE with a body", "DELETE", "{}", okAnswer, false},
	{"OPTIONS with a body", "OPTIONS", "{}", okAnswer, false},
	{"GET with a large body", "GET", strings.Repeat("1", 100_000), okAnswer, false},
	{"204 with a length", "DELETE", "", "HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n", false},
	{"204 with a length, body at once", "DELETE", "", "HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok", false},
	{"204, body at once", "DELETE", "", "HTTP/1.1 204 No Content\r\n\r\nok", false},
	{"204 chunked", "DELETE", "", "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", false},
	{"304 with a length", "GET", "", "HTTP/1.1 304 Not Modified\r\nContent-Length: 200\r\n\r\n", false},
	{"304 chunked", "GET", "", "HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", false},
	{"HEAD with a length", "HEAD", "", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", false},
	{"HEAD chunked", "HEAD", "", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", false},
	{"100", "POST", "{}", "HTTP/1.1 100 Continue\r\n\r\n" + okAnswer, false},
	{"103", "GET", "", "HTTP/1.1 103 Early Hints\r\n\r\n" + okAnswer, false},
	{"101", "GET", "", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n", false},
	{"line behind", "GET", "", okAnswer + "\r\n", false},
	{"answer behind", "GET", "", okAnswer + okAnswer, false},
	{"answer behind a large head", "DELETE", "", "HTTP/1.1 204 No Content\r\nX: " + strings.Repeat("x", 3*readBuffer) + "\r\n\r\n" + okAnswer, false},
	{"line before", "GET", "", "\r\n" + okAnswer, false},
	{"length and chunked", "GET", "", "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", false},
	{"HTTP/1.0 kept alive", "GET", "", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok", false},
	{"close", "GET", "", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", false},
	{"keep-alive of a second", "GET", "", "HTTP/1.1 200 OK\r\nKeep-Alive: timeout=1\r\nContent-Length: 2\r\n\r\nok", false},
}

// A connection is reused only if it is certain that the upstream has read the whole request, and where its
// answer ended.
func TestReuse(t *testing.T) {
	overBoth(t, func(t *testing.T, start func(func(int, net.Conn, *bufio.Reader)) (*rawUpstream, *Client)) {
		for _, v := range reuses {
			t.Run(v.name, func(t *testing.T) {
				u, c := start(func(n int, c net.Conn, r *bufio.Reader) {
					for i := 1; readRequest(r) != ""; i++ {
						io.WriteString(c, map[bool]string{true: v.answer, false: okAnswer}[n*i == 1])
					}
				})
				a := c.Do(t.Context(), newCall(v.method, "/first", v.body))
				if a.Outcome != Answered {
					t.Fatalf("outcome %d, %q", a.Outcome, a.Line)
				}
				b := c.Do(t.Context(), newCall("POST", "/second", "{}"))
				if expect(t, b, Answered, 200); string(b.Body) != "ok" {
					t.Errorf("the second answer is %q", b.Body)
				}
				if n := u.conns.Load(); (n == 1) != v.kept {
					t.Errorf("%d connections", n)
				}
			})
		}
	})
}

// An answer that comes before the request was written is used, but the connection is not reused, even if the
// upstream reads the rest of the request.
func TestNoReuseAfterEarlyAnswer(t *testing.T) {
	c := newClient(t, "upstream.invalid")
	conns := overPipes(c, func(there net.Conn) {
		r := bufio.NewReaderSize(there, 16)
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		if _, err := io.CopyN(io.Discard, req.Body, min(req.ContentLength, bufferSize)); err != nil {
			return
		}
		io.WriteString(there, okAnswer)
		io.Copy(io.Discard, req.Body)
		io.Copy(io.Discard, there)
	})
	expect(t, c.Do(t.Context(), newCall("POST", "/a", strings.Repeat("1", 4*bufferSize))), Answered, 200)
	expect(t, c.Do(t.Context(), newCall("POST", "/b", "")), Answered, 200)
	if *conns != 2 {
		t.Errorf("%d connections", *conns)
	}
}

// overPipes connects a client to pipes. serve handles the other end of each. A write to a pipe returns when
// it has been read. conns counts the pipes.
func overPipes(c *Client, serve func(there net.Conn)) (conns *int) {
	conns = new(int)
	c.dial = func(context.Context) (net.Conn, error) {
		*conns++
		here, there := net.Pipe()
		go func() {
			defer there.Close()
			serve(there)
		}()
		return here, nil
	}
	return conns
}

// Connections are never shared between tokens or stores, and are kept for each.
func TestConnectionsBelongToOneOwner(t *testing.T) {
	var mu sync.Mutex
	seen := map[int]map[string]int{} // requests by connection and owner
	u := newRaw(t, func(n int, c net.Conn, r *bufio.Reader) {
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			mu.Lock()
			if seen[n] == nil {
				seen[n] = map[string]int{}
			}
			seen[n][strings.Split(req.URL.Path, "/")[3]+" "+req.Header.Get("Authorization")]++
			mu.Unlock()
			io.WriteString(c, okAnswer)
		}
	})
	c := newClient(t, u.addr())
	for range 5 {
		for _, token := range []string{"alice", "bob", ""} {
			for _, store := range []string{"1", "2"} {
				call := newCall("GET", "/a", "")
				call.Token, call.Store = token, store
				expect(t, c.Do(t.Context(), call), Answered, 200)
			}
		}
	}
	for n, owners := range seen {
		for who, requests := range owners {
			if len(owners) != 1 || requests != 5 {
				t.Errorf("connection %d carried %d requests of %q, and requests of %d owners", n, requests, who, len(owners))
			}
		}
	}
	if len(seen) != 6 {
		t.Errorf("%d connections, want one for each of 6 owners", len(seen))
	}
}

// The number of idle connections is limited, no matter how many tokens there are. The oldest connection of the
// owner that has the most is closed first, and owners without connections take no memory.
func TestPoolIsBounded(t *testing.T) {
	p := &pool{max: 8}
	var conns []*conn
	add := func(who byte) *conn {
		c := pipeConn(t, owner{who})
		if got := p.take(owner{who, 1}, time.Minute); got != nil { // an owner without connections
			t.Fatal("got another owner's connection")
		}
		p.put(c)
		conns = append(conns, c)
		return c
	}
	modest := add(1)
	for range 20 {
		add(2)
	}
	if len(p.idle) != 2 || p.count != 8 || p.inUse != 0 {
		t.Fatalf("%d owners, %d idle, %d in use", len(p.idle), p.count, p.inUse)
	}
	if got := p.take(owner{1}, time.Minute); got != modest {
		t.Error("the owner of one connection lost it to the owner of many")
	}
	p.put(modest)
	for who := byte(3); who < 100; who++ {
		add(who)
	}
	if len(p.idle) != 8 || p.count != 8 {
		t.Errorf("%d owners have %d idle connections", len(p.idle), p.count)
	}
	for _, c := range conns[len(conns)-8:] {
		if p.idle[c.owner].top != c {
			t.Error("one of the newest connections is gone")
		}
	}
	for range 8 { // connections in use leave no room for idle ones
		p.take(owner{}, time.Minute)
	}
	if len(p.idle) != 0 || p.count != 0 || p.inUse != 8 {
		t.Errorf("%d owners, %d idle, %d in use", len(p.idle), p.count, p.inUse)
	}
	p.put(pipeConn(t, owner{7}))
	p.close()
	p.put(pipeConn(t, owner{7}))
	if p.count != 0 || len(p.idle) != 0 {
		t.Error("a connection was kept after close")
	}
}

func pipeConn(t *testing.T, of owner) *conn {
	here, there := net.Pipe()
	t.Cleanup(func() { here.Close(); there.Close() })
	return newConn(here, of)
}

// A connection that was idle for a while may be about to be closed, so requests that must not be repeated
// don't use it. All connections have a maximum age.
func TestAgeOfConnections(t *testing.T) {
	for _, v := range []struct {
		name, method, answer string
		pause                time.Duration
		exchanges            int
		conns                int
	}{
		{"POST soon", "POST", okAnswer, freshTimeout - time.Second, 3, 1},
		{"POST later", "POST", okAnswer, freshTimeout + time.Second, 3, 3},
		{"PATCH later", "PATCH", okAnswer, freshTimeout + time.Second, 3, 3},
		{"GET later", "GET", okAnswer, freshTimeout + time.Second, 3, 1},
		{"GET much later", "GET", okAnswer, idleTimeout + time.Second, 3, 3},
		{"GET for minutes", "GET", okAnswer, time.Minute, 11, 3},
		{"keep-alive", "GET", "HTTP/1.1 200 OK\r\nKeep-Alive: timeout=5\r\nContent-Length: 2\r\n\r\nok", 5 * time.Second, 3, 3},
		{"POST within the time that the upstream named", "POST", "HTTP/1.1 200 OK\r\nKeep-Alive: timeout=9\r\nContent-Length: 2\r\n\r\nok", 5 * time.Second, 3, 1},
		{"POST after that time", "POST", "HTTP/1.1 200 OK\r\nKeep-Alive: timeout=9\r\nContent-Length: 2\r\n\r\nok", 8 * time.Second, 3, 3},
		{"POST, an hour named", "POST", "HTTP/1.1 200 OK\r\nKeep-Alive: timeout=3600\r\nContent-Length: 2\r\n\r\nok", idleTimeout - time.Second, 3, 1},
		{"POST, an hour named, much later", "POST", "HTTP/1.1 200 OK\r\nKeep-Alive: timeout=3600\r\nContent-Length: 2\r\n\r\nok", idleTimeout, 3, 3},
		{"POST, no time named", "POST", "HTTP/1.1 200 OK\r\nKeep-Alive: max=9\r\nContent-Length: 2\r\n\r\nok", 5 * time.Second, 3, 3},
		{"long keep-alive", "GET", "HTTP/1.1 200 OK\r\nKeep-Alive: timeout=9\r\nContent-Length: 2\r\n\r\nok", 5 * time.Second, 3, 1},
	} {
		t.Run(v.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newClient(t, "upstream.invalid")
				conns := 0
				c.dial = func(context.Context) (net.Conn, error) {
					conns++
					here, there := net.Pipe()
					go func() {
						defer there.Close()
						for r := bufio.NewReader(there); readRequest(r) != ""; {
							io.WriteString(there, v.answer)
						}
					}()
					return here, nil
				}
				for range v.exchanges {
					expect(t, c.Do(t.Context(), newCall(v.method, "/a", "")), Answered, 200)
					time.Sleep(v.pause) //nolint:forbidigo // in the bubble of synctest
				}
				if conns != v.conns {
					t.Errorf("%d connections, want %d", conns, v.conns)
				}
			})
		})
	}
}

// After an invalid answer, the request may have been carried out.
func TestMalformedAnswers(t *testing.T) {
	for _, raw := range []string{
		"HTTP/1.1 000 Zero\r\nContent-Length: 0\r\n\r\n" + okAnswer,
		"HTTP/1.1 099 Low\r\nContent-Length: 0\r\n\r\n" + okAnswer,
		"HTTP/1.1 600 High\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 999 High\r\nContent-Length: 2\r\n\r\nok",
		"HTTP/1.1 1000 High\r\n\r\n",
		"HTTP/1.1 -20 Low\r\n\r\n",
		"HTTP/1.1 103 Early Hints\r\nContent-Length: 2\r\n\r\nok" + okAnswer,
		strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 1000) + okAnswer,
		strings.Repeat("\r\n", 1000) + okAnswer,
		"0\r\n\r\n" + okAnswer,
	} {
		t.Run(fmt.Sprintf("%.22q", raw), func(t *testing.T) {
			u := newRaw(t, func(_ int, c net.Conn, r *bufio.Reader) {
				readRequest(r)
				io.WriteString(c, raw)
				readRequest(r)
			})
			c := newClient(t, u.addr())
			expect(t, c.Do(t.Context(), newCall("POST", "/a", "{}")), Doubt, 502, "the upstream's answer could not be read", unknown)
		})
	}
	for _, code := range []int{600, 999} {
		c, _ := newServed(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) })
		expect(t, c.Do(t.Context(), newCall("POST", "/a", "{}")), Doubt, 502, "the upstream's answer could not be read", unknown)
	}
}

// Empty lines that some servers send before or after an answer are ignored.
func TestEmptyLinesBeforeAnswer(t *testing.T) {
	for _, lines := range []string{"\r\n", "\n", "\r\n\r\n", "\r\n\r\n\r\n\n"} {
		u := newRaw(t, func(_ int, c net.Conn, r *bufio.Reader) {
			readRequest(r)
			io.WriteString(c, lines+okAnswer)
		})
		expect(t, newClient(t, u.addr()).Do(t.Context(), newCall("POST", "/a", "{}")), Answered, 200)
	}
}

// Callbacks of several stores may go to one receiver. Each uses its own connection.
func TestCallbacksShareNoConnection(t *testing.T) {
	u := newRaw(t, func(_ int, c net.Conn, r *bufio.Reader) {
		for readRequest(r) != "" {
			io.WriteString(c, okAnswer)
		}
	})
	receiver := Receiver(&Guard{Allow: prefixes("127.0.0.0/8")}, time.Minute)
	for range 3 {
		resp, err := receiver.Post("http://"+u.addr(), contentType, strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	if n := u.conns.Load(); n != 3 {
		t.Errorf("%d connections for 3 callbacks", n)
	}
}

// After a 5xx or a broken connection, the owner's idle connections are not used again. The next connection
// resolves the upstream's name again, because the address may have changed.
func TestNameIsResolvedAgainAfterFailure(t *testing.T) {
	for name, failure := range map[string]string{
		"503":                "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
		"500":                "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n",
		"broken before":      "",
		"broken in the body": "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok",
	} {
		t.Run(name, func(t *testing.T) {
			var together sync.WaitGroup
			together.Add(3)
			u := newRaw(t, func(_ int, c net.Conn, r *bufio.Reader) {
				for {
					switch request := readRequest(r); {
					case request == "":
						return
					case strings.Contains(request, "/together"):
						together.Done()
						together.Wait()
					case strings.Contains(request, "/fail"):
						io.WriteString(c, failure)
						if !strings.HasPrefix(failure, "HTTP/1.1 5") {
							return
						}
						continue
					}
					io.WriteString(c, okAnswer)
				}
			})
			c := newClient(t, u.addr())
			resolved := 0
			dial := c.dial
			var mu sync.Mutex
			c.dial = func(ctx context.Context) (net.Conn, error) {
				mu.Lock()
				resolved++
				mu.Unlock()
				return dial(ctx)
			}
			send := func(store, path string) {
				call := newCall("GET", path, "")
				call.Store = store
				c.Do(t.Context(), call)
			}
			var all sync.WaitGroup
			for range 3 { // three idle connections
				all.Go(func() { send("1", "/together") })
			}
			all.Wait()
			send("2", "/a") // one idle connection of another owner
			if resolved != 4 {
				t.Fatalf("%d connections", resolved)
			}
			send("1", "/fail")
			send("1", "/a")
			if resolved != 5 {
				t.Errorf("%d connections after a failure, want a new one: 5", resolved)
			}
			send("1", "/a")
			send("2", "/a")
			if resolved != 5 {
				t.Errorf("%d connections at the end; those made after the failure, and another owner's, should be reused", resolved)
			}
		})
	}
}
