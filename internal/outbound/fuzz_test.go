package outbound

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// complete reports whether these bytes are a complete answer.
func complete(req *http.Request, raw []byte) bool {
	r := bufio.NewReader(bytes.NewReader(raw))
	for {
		for b, err := r.Peek(1); err == nil && (b[0] == '\r' || b[0] == '\n'); b, err = r.Peek(1) {
			_, _ = r.Discard(1)
		}
		resp, err := http.ReadResponse(r, req) //nolint:bodyclose // there is nothing to close
		if err != nil || resp.Close {
			return false
		}
		if resp.StatusCode >= 200 {
			_, err := io.Copy(io.Discard, resp.Body)
			return err == nil
		}
	}
}

// FuzzAnswer checks that no byte of any answer is taken for the answer to another request, and that the
// reported answer is limited and can be stored.
func FuzzAnswer(f *testing.F) {
	for _, v := range reuses {
		f.Add(v.method, len(v.body) > 0, []byte(v.answer))
	}
	for _, v := range leniences {
		f.Add("POST", true, []byte("HTTP/1.1 201 Created\r\n"+v.rest))
	}
	for _, raw := range []string{
		"", "\r\n", "HTTP/1.1 999 High\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nContent-Length: 2\r\n\r\nok" + okAnswer,
		"HTTP/1.1 204 No Content\r\n\r\n" + strings.Repeat("x", readBuffer) + okAnswer,
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n" + okAnswer,
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX: " + strings.Repeat("x", readBuffer) + "\r\nContent-Length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n",
	} {
		f.Add("GET", false, []byte(raw))
	}
	const marker = "the answer to the second request"
	answers := make(chan []byte, 1)
	u := newRawOn(f, newListener(f), func(_ int, c net.Conn, r *bufio.Reader) {
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			if _, err := io.Copy(io.Discard, req.Body); err != nil {
				return
			}
			if strings.HasSuffix(req.URL.Path, "/second") {
				fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(marker), marker)
				continue
			}
			raw := <-answers
			if _, err := c.Write(raw); err != nil {
				return
			}
			if !complete(req, raw) {
				return // the client would wait for more
			}
		}
	})
	c := newClient(f, u.addr(), timeout(10*time.Second))
	f.Fuzz(func(t *testing.T, method string, body bool, raw []byte) {
		switch method {
		case "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS":
		default:
			return
		}
		if len(raw) > readBuffer*4 {
			return
		}
		call := newCall(method, "/first", map[bool]string{true: "{}"}[body])
		answers <- raw
		a := c.Do(t.Context(), call)
		switch a.Outcome {
		case Answered:
			if a.Code < 101 || a.Code > maxStatus || a.Code > 101 && a.Code < 200 || len(a.Line) > maxLine || !plain(strings.ToValidUTF8(a.Line, "")) && strings.ContainsAny(a.Line, "\r\n\x00") {
				t.Errorf("answered with %d %q", a.Code, a.Line)
			}
		case Doubt, TooLarge:
		default:
			t.Errorf("outcome %d", a.Outcome)
		}
		second := c.Do(t.Context(), newCall("POST", "/second", "{}"))
		if expect(t, second, Answered, 200); string(second.Body) != marker {
			t.Errorf("after %q the answer to the second request is %q", raw, second.Body)
		}
	})
}
