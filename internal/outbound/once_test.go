package outbound

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
)

// recordingConn is a connection that records written bytes. Once it is dead, its writes fail and
// write nothing.
type recordingConn struct {
	mortalConn
	mu      sync.Mutex
	written strings.Builder
}

func (r *recordingConn) Write(p []byte) (int, error) {
	n, err := r.mortalConn.Write(p)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.written.Write(p[:n])
	return n, err
}

func (r *recordingConn) stream() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.written.String()
}

// If idle connections are dead, the whole request is written once on the next connection. That connection's
// byte stream is exactly the request, and nothing reaches the dead ones.
func TestBodyIsWrittenOnce(t *testing.T) {
	for _, size := range []int{0, 1, 100, bufferSize - 400, bufferSize, bufferSize + 1, 5*bufferSize + 7} {
		for _, dead := range []int{1, 3} {
			t.Run(fmt.Sprintf("%d bytes, %d dead connections", size, dead), func(t *testing.T) {
				testWrittenOnce(t, strings.Repeat("b", size), dead)
			})
		}
	}
}

func testWrittenOnce(t *testing.T, body string, dead int) {
	var together sync.WaitGroup
	together.Add(dead)
	c := newClient(t, "upstream.invalid")
	var mu sync.Mutex
	var conns []*recordingConn
	c.dial = func(context.Context) (net.Conn, error) {
		here, there := net.Pipe()
		go func() {
			defer there.Close()
			for r := bufio.NewReader(there); ; {
				switch request := readRequest(r); {
				case request == "":
					return
				case strings.HasPrefix(request, "GET"):
					together.Done()
					together.Wait()
				}
				io.WriteString(there, okAnswer)
			}
		}()
		mu.Lock()
		defer mu.Unlock()
		conns = append(conns, &recordingConn{mortalConn: mortalConn{Conn: here}})
		return conns[len(conns)-1], nil
	}
	answers := make(chan Answer)
	for range dead {
		go func() { answers <- c.Do(t.Context(), newCall("GET", "/first", "")) }()
	}
	for range dead {
		expect(t, <-answers, Answered, 200)
	}
	before := make([]string, dead)
	for i, conn := range conns {
		before[i] = conn.stream()
		conn.dead.Store(true)
	}
	call := newCall("POST", "/second", body)
	expect(t, c.Do(t.Context(), call), Answered, 200)
	if len(conns) != dead+1 {
		t.Fatalf("%d connections, want %d", len(conns), dead+1)
	}
	want := string(c.appendHead(nil, call, "/api/v3/123/second")) + body
	if got := conns[dead].stream(); got != want {
		t.Errorf("the upstream got %d bytes, want %d:\n%.600s", len(got), len(want), got)
	}
	for i := range dead {
		if conns[i].stream() != before[i] {
			t.Errorf("dead connection %d got bytes", i)
		}
	}
}

// Data that comes before the first byte of a request was written is not its answer, even if it comes just
// before.
func TestNothingBeforeTheRequestIsItsAnswer(t *testing.T) {
	overBoth(t, func(t *testing.T, start func(func(int, net.Conn, *bufio.Reader)) (*rawUpstream, *Client)) {
		for name, forged := range map[string]string{"an answer": strings.Replace(okAnswer, "200", "201", 1), "a line": "\r\n", "the end": ""} {
			t.Run(name, func(t *testing.T) {
				now, sent := make(chan struct{}), make(chan struct{})
				u, c := start(func(n int, c net.Conn, r *bufio.Reader) {
					for i := n; readRequest(r) != ""; i++ {
						io.WriteString(c, okAnswer)
						if i == 1 {
							<-now
							io.WriteString(c, forged)
							if forged == "" {
								c.Close()
							}
							close(sent)
						}
					}
				})
				var idle *conn
				dial := c.dial
				c.dial = func(ctx context.Context) (net.Conn, error) {
					raw, err := dial(ctx)
					idle = newConn(raw, owner{})
					return raw, err
				}
				expect(t, c.Do(t.Context(), newCall("GET", "/first", "")), Answered, 200)
				call := newCall("POST", "/second", "{}")
				asked := 0
				call.Permit = func() bool {
					if asked++; asked == 1 {
						close(now)
						<-sent
						eventually(t, func() bool { return !isQuiet(idle.socket) })
					}
					return true
				}
				expect(t, c.Do(t.Context(), call), Answered, 200)
				if n := u.conns.Load(); n != 2 || asked != 2 {
					t.Errorf("%d connections; the permit was called %d times", n, asked)
				}
			})
		}
	})
}
