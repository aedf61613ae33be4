package outbound

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// forward forwards a call with the token and returns the answer.
func forward(t *testing.T, c *Client, method, path, token, body string) (*httptest.ResponseRecorder, error) {
	t.Helper()
	w := httptest.NewRecorder()
	r := httptest.NewRequestWithContext(t.Context(), method, "/", strings.NewReader(body))
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	return w, c.Forward(w, r, "123", path)
}

// careless is an upstream that never reads a request's body and takes it for the next request. Like nearly
// all servers, it honors Connection: close.
type careless struct {
	*rawUpstream
	mu    sync.Mutex
	heads []string // everything that it took for a request's head
}

func newCareless(t *testing.T) *careless {
	u := &careless{}
	u.rawUpstream = newRaw(t, func(_ int, c net.Conn, r *bufio.Reader) {
		for {
			var head strings.Builder
			for !strings.HasSuffix(head.String(), "\r\n\r\n") {
				line, err := r.ReadString('\n')
				head.WriteString(line)
				if err != nil {
					u.keep(head.String())
					return
				}
			}
			u.keep(head.String())
			io.WriteString(c, okAnswer)
			if strings.Contains(head.String(), "Connection: close\r\n") {
				return
			}
		}
	})
	return u
}

func (u *careless) keep(head string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if head != "" {
		u.heads = append(u.heads, head)
	}
}

// A tenant's body never becomes a request, and no other tenant's request becomes part of it. The upstream
// sees only the heads of the requests that were sent.
func TestBodyIsNoRequest(t *testing.T) {
	const smuggled = "POST /api/v3/123/notes HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer alice\r\nContent-Length: 500\r\n\r\n"
	send := map[string]func(*testing.T, *Client, string, string, string){
		"calls": func(t *testing.T, c *Client, method, token, body string) {
			call := newCall(method, "/"+token, body)
			call.Token = token
			expect(t, c.Do(t.Context(), call), Answered, 200)
		},
		"forwarded": func(t *testing.T, c *Client, method, token, body string) {
			if w, err := forward(t, c, method, "/"+token, token, body); err != nil || w.Code != 200 {
				t.Fatal(w.Code, err)
			}
		},
	}
	for name, do := range send {
		for _, method := range []string{"GET", "HEAD", "DELETE", "OPTIONS"} {
			t.Run(name+" "+method, func(t *testing.T) {
				u := newCareless(t)
				c := newClient(t, u.addr())
				do(t, c, "GET", "alice", "")
				do(t, c, method, "alice", smuggled)
				do(t, c, "POST", "bob", "")
				do(t, c, "GET", "alice", "")
				c.Close()
				u.mu.Lock()
				defer u.mu.Unlock()
				var lines []string
				for _, head := range u.heads {
					line, _, _ := strings.Cut(head, "\r\n")
					lines = append(lines, line)
				}
				want := "GET /api/v3/123/alice HTTP/1.1\n" + method + " /api/v3/123/alice HTTP/1.1\nPOST /api/v3/123/bob HTTP/1.1\nGET /api/v3/123/alice HTTP/1.1"
				if got := strings.Join(lines, "\n"); got != want {
					t.Errorf("the upstream saw\n%s\nwant\n%s", got, want)
				}
			})
		}
	}
}

// Forwarded calls never share a connection, with or without a credential, so late data of one call isn't the
// answer to another.
func TestForwardedCallsAreApart(t *testing.T) {
	for _, late := range []string{
		"HTTP/1.1 204 No Content\r\nContent-Length: 38\r\n\r\n" + okAnswer,
		"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n" + okAnswer,
		"HTTP/1.1 103 Early Hints\r\n\r\n" + okAnswer + okAnswer,
		okAnswer + "\r\n",
		okAnswer + okAnswer,
	} {
		u := newRaw(t, func(n int, c net.Conn, r *bufio.Reader) {
			for answer := late; readRequest(r) != ""; {
				if n > 1 {
					answer = strings.Replace(okAnswer, "ok", "OK", 1)
				}
				io.WriteString(c, answer)
			}
		})
		c := newClient(t, u.addr())
		for i, token := range []string{"alice", "bob", "bob", "", ""} {
			w, err := forward(t, c, "POST", "/a", token, "{}")
			if err != nil || i > 0 && w.Code != 200 {
				t.Fatalf("call %d after %.30q: %d, %v", i, late, w.Code, err)
			}
		}
		if n := u.conns.Load(); n != 5 {
			t.Errorf("%d connections for 5 calls", n)
		}
	}
}

// An invalid answer is an error, and no upstream can take over a caller's connection.
func TestForwardMalformedAnswers(t *testing.T) {
	check := func(t *testing.T, c *Client) {
		w, err := forward(t, c, "POST", "/a", "alice", "{}")
		failed, ok := errors.AsType[*ForwardError](err)
		if !ok || failed.Status != http.StatusBadGateway || len(w.Header()) > 0 || w.Body.Len() > 0 {
			t.Errorf("error %v, header %v, body %q", err, w.Header(), w.Body)
		}
	}
	for _, raw := range []string{
		"HTTP/1.1 020 Low\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 600 High\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 999 High\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 101 Switching Protocols\r\n\r\n",
		"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
		strings.Repeat("HTTP/1.1 102 Processing\r\n\r\n", 1000) + okAnswer,
	} {
		u := newRaw(t, func(_ int, c net.Conn, r *bufio.Reader) {
			readRequest(r)
			io.WriteString(c, raw)
		})
		check(t, newClient(t, u.addr()))
	}
	c, _ := newServed(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Mine", "1")
		w.WriteHeader(999)
		_, _ = io.WriteString(w, "body")
		_ = http.NewResponseController(w).Flush()
	})
	check(t, c)
}
