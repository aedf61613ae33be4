package outbound

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sheafapi/sheaf/internal/budget"
)

// TestAnswersWaitForMemory checks that reading pauses while there is no memory for an answer, and that the
// time doesn't count. So a POST that was carried out isn't in doubt.
func TestAnswersWaitForMemory(t *testing.T) {
	const size = 300 << 10
	body := bytes.Repeat([]byte("x"), size)
	for what, start := range map[string]func(t *testing.T) *Client{
		"a length": func(t *testing.T) *Client { return pipeClient(t, fmt.Sprintf("Content-Length: %d", size), body) },
		"chunks": func(t *testing.T) *Client {
			return pipeClient(t, "Transfer-Encoding: chunked", fmt.Appendf(nil, "%x\r\n%s\r\n0\r\n\r\n", size, body))
		},
		"a handler": func(t *testing.T) *Client { return handlerClient(t, body) },
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := start(t)
				b := budget.New(2<<20, 1<<20)
				var others []*budget.Share
				for range 2 { // all of it, including the reserve
					s := b.Share("other")
					if err := s.Grow(t.Context(), 1<<20); err != nil {
						t.Fatal(err)
					}
					others = append(others, s)
				}
				call := newCall("POST", "products", "{}")
				call.Memory = b.Share("s")
				answered := make(chan Answer)
				go func() { answered <- c.Do(context.Background(), call) }()
				<-time.After(100 * c.timeout)
				select {
				case a := <-answered:
					t.Fatalf("the attempt did not wait: %+v", a)
				default:
				}
				for _, s := range others {
					s.Release()
				}
				a := <-answered
				expect(t, a, Answered, 201)
				if !bytes.Equal(a.Body, body) {
					t.Errorf("the body has %d bytes", len(a.Body))
				}
				if held := call.Memory.Held(); held < size {
					t.Errorf("the answer of %d bytes holds %d", size, held)
				}
				call.Memory.Release()
				if u := b.Usage(); u.Held != 0 || u.Waiting != 0 {
					t.Errorf("at the end: %+v", u)
				}
			})
		})
	}
}

// TestSlowAnswerTakesLittleMemory checks that an upstream that announces much but sends little takes little
// memory, and that its attempt times out.
func TestSlowAnswerTakesLittleMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := pipeClient(t, "Content-Length: 1000000", []byte("x"))
		b := budget.New(2<<20, 1<<20)
		call := newCall("GET", "products", "")
		call.Memory = b.Share("s")
		expect(t, c.Do(t.Context(), call), Answered, http.StatusCreated, "incomplete")
		if held := call.Memory.Held(); held > 64<<10 {
			t.Errorf("one byte of an answer holds %d", held)
		}
	})
}

// pipeClient returns a client over a pipe in memory to an upstream that sends one answer 201 and then keeps
// the connection open.
func pipeClient(t *testing.T, header string, body []byte) *Client {
	t.Helper()
	c := newClient(t, "upstream.test")
	c.timeout = 10 * time.Second
	c.dial = func(context.Context) (net.Conn, error) {
		client, upstream := net.Pipe()
		go func() {
			r, err := http.ReadRequest(bufio.NewReader(upstream))
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, r.Body)
			fmt.Fprintf(upstream, "HTTP/1.1 201 Created\r\n%s\r\n\r\n", header)
			_, _ = upstream.Write(body)
		}()
		return client, nil
	}
	return c
}

// handlerClient returns a client to a handler that writes its answer in pieces.
func handlerClient(t *testing.T, body []byte) *Client {
	t.Helper()
	c := newClient(t, "upstream.test")
	c.timeout = 10 * time.Second
	c.handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusCreated)
		for rest := body; len(rest) > 0; {
			n := min(len(rest), 1000)
			if _, err := w.Write(rest[:n]); err != nil {
				return
			}
			rest = rest[n:]
		}
	})
	return c
}
