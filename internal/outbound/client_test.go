package outbound

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/strictupstream"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testLimit = 1 << 20 // the limit of an answer in tests, in bytes

// newClient returns a client for the upstream at addr, whose stores are at /api/v3.
func newClient(t testing.TB, addr string, change ...func(*Options)) *Client {
	t.Helper()
	o := Options{
		Template: "http://" + addr + "/api/v3/{storeId}", Timeout: time.Minute,
		MaxAnswer: testLimit, MaxConns: 16, UserAgent: "sheaf/test",
	}
	for _, f := range change {
		f(&o)
	}
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// timeout returns a change of the options that sets the timeout.
func timeout(d time.Duration) func(*Options) { return func(o *Options) { o.Timeout = d } }

// newCall returns a call with a body given as a string.
func newCall(method, path, body string) *Call {
	c := &Call{Store: "123", Method: method, Path: path, Token: "secret-token", Key: "key-1"}
	if body != "" {
		c.Body = []byte(body)
	}
	return c
}

// expect checks an answer's outcome and code, and that its line contains the given words.
func expect(t testing.TB, a Answer, outcome Outcome, code int, words ...string) {
	t.Helper()
	if a.Outcome != outcome || a.Code != code {
		t.Fatalf("outcome %d, code %d, line %q; want outcome %d, code %d", a.Outcome, a.Code, a.Line, outcome, code)
	}
	for _, w := range words {
		if !strings.Contains(a.Line, w) {
			t.Errorf("the line is %q, want it to contain %q", a.Line, w)
		}
	}
	if outcome == Answered {
		return
	}
	if a.Header != nil || a.Body != nil {
		t.Errorf("no answer, but header %v, body %q", a.Header, a.Body)
	}
	for _, inside := range []string{"127.0.0.1", "localhost", "upstream.invalid", "secret-token", "key-1"} {
		if strings.Contains(a.Line, inside) {
			t.Errorf("the line %q reveals %q", a.Line, inside)
		}
	}
}

// rawUpstream is a server whose test handles each connection.
type rawUpstream struct {
	net.Listener
	conns atomic.Int32
}

// newRaw starts a server that calls serve for each connection with its number, from 1, and then closes
// it. Connections are served concurrently.
func newRaw(t testing.TB, serve func(n int, c net.Conn, r *bufio.Reader)) *rawUpstream {
	t.Helper()
	return newRawOn(t, strictupstream.Watch(t, newListener(t)).AllowPartial(), serve)
}

func newListener(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// newRawOn is newRaw with the test's own listener, which is not watched.
func newRawOn(t testing.TB, l net.Listener, serve func(n int, c net.Conn, r *bufio.Reader)) *rawUpstream {
	u := &rawUpstream{Listener: l}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			n := int(u.conns.Add(1))
			all.Go(func() {
				defer c.Close()
				serve(n, c, bufio.NewReader(c))
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		all.Wait()
	})
	return u
}

func (u *rawUpstream) addr() string { return u.Addr().String() }

// readRequest reads one whole request and returns its bytes; "" at the end.
func readRequest(r *bufio.Reader) string {
	var raw bytes.Buffer
	req, err := http.ReadRequest(bufio.NewReader(io.TeeReader(&oneByOne{r}, &raw)))
	if err != nil {
		return ""
	}
	if _, err := io.Copy(io.Discard, req.Body); err != nil {
		return ""
	}
	return raw.String()
}

// oneByOne keeps a buffered reader from reading ahead.
type oneByOne struct{ r io.Reader }

func (o *oneByOne) Read(p []byte) (int, error) { return o.r.Read(p[:min(1, len(p))]) }

const okAnswer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

func TestRequestAsSent(t *testing.T) {
	got := make(chan string, 1)
	u := newRaw(t, func(_ int, c net.Conn, r *bufio.Reader) {
		for {
			req := readRequest(r)
			if req == "" {
				return
			}
			got <- req
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		}
	})
	c := newClient(t, u.addr(), func(o *Options) { o.RequestHeaders = []string{"X-Empty"} })
	const common = "authorization: Bearer secret-token\nidempotency-key: key-1\nuser-agent: sheaf/test"
	for _, v := range []struct {
		method, body, want string
		headers            []batch.Header
	}{
		{method: "GET", want: "authorization: Bearer secret-token\nidempotency-key: mine\nuser-agent: me\nif-match: \"1\"\nx-empty: ", headers: []batch.Header{
			{Name: "idempotency-key", Value: "mine"}, {Name: "USER-AGENT", Value: "me"}, {Name: "If-Match", Value: `"1"`}, {Name: "X-Empty", Value: ""},
		}},
		{method: "PUT", body: "text", want: common + "\ncontent-length: 4\ncontent-type: text/plain", headers: []batch.Header{{Name: "content-type", Value: "text/plain"}}},
		{method: "HEAD", body: "", want: common},
		{method: "DELETE", body: "", want: common},
		{method: "POST", body: "", want: common + "\ncontent-length: 0"},
		{method: "PUT", body: "", want: common + "\ncontent-length: 0"},
		{method: "PATCH", body: "", want: common + "\ncontent-length: 0"},
		{method: "POST", body: `{"a":1.10}`, want: common + "\ncontent-length: 10\ncontent-type: application/json"},
		{method: "GET", body: `[]`, want: common + "\nconnection: close\ncontent-length: 2\ncontent-type: application/json"},
		{method: "DELETE", body: `[]`, want: common + "\nconnection: close\ncontent-length: 2\ncontent-type: application/json"},
	} {
		call := newCall(v.method, "products", v.body)
		call.Headers = v.headers
		expect(t, c.Do(t.Context(), call), Answered, 200)
		head, body, _ := strings.Cut(<-got, "\r\n\r\n")
		lines := strings.Split(head, "\r\n")
		for i, l := range lines[1:] {
			name, value, _ := strings.Cut(l, ":")
			lines[i+1] = strings.ToLower(name) + ":" + value
		}
		want := append(strings.Split(v.want, "\n"), "host: "+u.addr())
		slices.Sort(want)
		slices.Sort(lines[1:])
		if lines[0] != v.method+" /api/v3/123/products HTTP/1.1" || !slices.Equal(lines[1:], want) {
			t.Errorf("%s %q: sent\n%s\nwant\n%s", v.method, v.body, strings.Join(lines, "\n"), strings.Join(want, "\n"))
		}
		if body != v.body {
			t.Errorf("%s: the body is %q, want %q", v.method, body, v.body)
		}
	}
}

func TestPathAsSent(t *testing.T) {
	got := make(chan string, 1)
	u := newRaw(t, func(_ int, c net.Conn, r *bufio.Reader) {
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				return
			}
			for l := line; l != "\r\n" && err == nil; {
				l, err = r.ReadString('\n')
			}
			got <- line
			io.WriteString(c, okAnswer)
		}
	})
	c := newClient(t, u.addr())
	for _, path := range []string{
		"/products?x=%2B+%20", "/a+b%20c%26d%2Be%2ff%2Fg", "/a?", "/a?b?c&&=", "/a/", "/?", "?x",
		"/{}|\"<>^`'()*!$,;:@[]~", "/a?q={}|\"<>^`'[]", "/%zz%", "/%e4%C3%A4", "/a;b=c/d;e", "/a:b", "/a#",
		"/" + strings.Repeat("long/", 1600),
	} {
		a := c.Do(t.Context(), newCall("GET", path, ""))
		expect(t, a, Answered, 200)
		if line := <-got; line != "GET /api/v3/123"+path+" HTTP/1.1\r\n" {
			t.Errorf("path %q was sent as %q", path, line)
		}
	}
}

func TestPathThatCannotBeSent(t *testing.T) {
	u := newRaw(t, func(int, net.Conn, *bufio.Reader) {})
	c := newClient(t, u.addr())
	for _, path := range []string{"/a b", "/a\r\nX: y", "/a\x00", "/a\x7f", "/ä", "/a\\b"} {
		expect(t, c.Do(t.Context(), newCall("GET", path, "")), Refused, 502, "Bad Gateway: ", "path")
	}
	call := newCall("GET", "/a", "")
	call.Token = "secret-token\r\nX: y"
	expect(t, c.Do(t.Context(), call), Refused, 502, "could not be sent")
	if n := u.conns.Load(); n > 0 {
		t.Errorf("%d connections were made", n)
	}
}

func TestAnswers(t *testing.T) {
	long := strings.Repeat("é", 600)
	for name, v := range map[string]struct{ method, raw, line, body string }{
		"plain":             {"GET", okAnswer, "OK", "ok"},
		"message":           {"GET", "HTTP/1.1 200 It's 5 o'clock\r\nContent-Length: 0\r\n\r\n", "It's 5 o'clock", ""},
		"no phrase":         {"GET", "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", "OK", ""},
		"blank phrase":      {"GET", "HTTP/1.1 200   \r\nContent-Length: 0\r\n\r\n", "OK", ""},
		"control":           {"GET", "HTTP/1.1 200 a\x1b[31mb\tc\x7f\r\nContent-Length: 0\r\n\r\n", "a[31mbc", ""},
		"only control":      {"GET", "HTTP/1.1 200 \x01\r\nContent-Length: 0\r\n\r\n", "OK", ""},
		"UTF-8 phrase":      {"GET", "HTTP/1.1 200 Größe\r\nContent-Length: 0\r\n\r\n", "Größe", ""},
		"Latin-1 phrase":    {"GET", "HTTP/1.1 200 Gr\xf6\xdfe\r\nContent-Length: 0\r\n\r\n", "Gr\uFFFDe", ""},
		"long phrase":       {"GET", "HTTP/1.1 200 x" + long + "\r\nContent-Length: 0\r\n\r\n", "x" + long[:1022], ""},
		"chunked":           {"GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", "OK", "abcde"},
		"chunked and empty": {"GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "OK", ""},
		"until the end":     {"GET", "HTTP/1.1 200 OK\r\n\r\nall of it", "OK", "all of it"},
		"HTTP/1.0":          {"GET", "HTTP/1.0 200 OK\r\n\r\nall of it", "OK", "all of it"},
		"HEAD":              {"HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n", "OK", ""},
		"compressed":        {"GET", "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\n\x1f\x8b\x00", "OK; the answer isn't encoded as its Content-Encoding says", "\x1f\x8b\x00"},
		"informational":     {"GET", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + okAnswer, "OK", "ok"},
	} {
		t.Run(name, func(t *testing.T) {
			u := newRaw(t, func(_ int, c net.Conn, r *bufio.Reader) {
				readRequest(r)
				io.WriteString(c, v.raw)
			})
			a := newClient(t, u.addr()).Do(t.Context(), newCall(v.method, "/a", ""))
			expect(t, a, Answered, 200)
			if a.Line != v.line || string(a.Body) != v.body {
				t.Errorf("line %q, body %q; want %q, %q", a.Line, a.Body, v.line, v.body)
			}
			if v.body == "" && a.Body != nil {
				t.Error("an empty body is not nil")
			}
		})
	}
}

func TestSpecialCodes(t *testing.T) {
	for code, raw := range map[int]string{
		101: "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nbytes of x",
		204: "HTTP/1.1 204 No Content\r\n\r\n",
		302: "HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n",
		304: "HTTP/1.1 304 Not Modified\r\nContent-Length: 99999999\r\n\r\n",
		429: "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n",
		599: "HTTP/1.1 599\r\nContent-Length: 0\r\n\r\n",
	} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			var requests atomic.Int32
			u := newRaw(t, func(_ int, c net.Conn, r *bufio.Reader) {
				for readRequest(r) != "" {
					requests.Add(1)
					io.WriteString(c, raw)
				}
			})
			c := newClient(t, u.addr())
			a := c.Do(t.Context(), newCall("GET", "/a", ""))
			expect(t, a, Answered, code)
			if a.Body != nil || a.Line != http.StatusText(code) || requests.Load() != 1 {
				t.Errorf("line %q, body %q, %d requests", a.Line, a.Body, requests.Load())
			}
			if code == 429 && a.Header.Get("Retry-After") != "7" {
				t.Errorf("the header is %v", a.Header)
			}
		})
	}
}

func TestConnectionsAreReused(t *testing.T) {
	var conns atomic.Int32
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		switch r.URL.Path {
		case "/api/v3/123/chunked":
			w.(http.Flusher).Flush()
		case "/api/v3/123/empty":
			return
		}
		w.Write(append(body, "answer"...))
	}))
	s.Listener = strictupstream.Watch(t, s.Listener)
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			conns.Add(1)
		}
	}
	s.Start()
	defer s.Close()
	c := newClient(t, s.Listener.Addr().String())
	for _, method := range []string{"GET", "DELETE", "POST", "PUT", "PATCH"} {
		for _, path := range []string{"/length", "/chunked", "/empty"} {
			for _, body := range []string{"", "{}", strings.Repeat("1", 100_000)} {
				if !readsBody(method) && body != "" {
					continue
				}
				expect(t, c.Do(t.Context(), newCall(method, path, body)), Answered, 200)
			}
		}
	}
	if n := conns.Load(); n != 1 {
		t.Errorf("%d connections were made", n)
	}
}

func TestNoProxyFromTheEnvironment(t *testing.T) {
	proxy := newRaw(t, func(int, net.Conn, *bufio.Reader) {})
	t.Setenv("HTTP_PROXY", "http://"+proxy.addr())
	t.Setenv("HTTPS_PROXY", "http://"+proxy.addr())
	// Use a name, because net/http never uses a proxy for a loopback address.
	c := newClient(t, "upstream.invalid")
	expect(t, c.Do(t.Context(), newCall("GET", "/a", "")), NotSent, 502, "Bad Gateway: the connection could not be made (host name not resolved)")
	if proxy.conns.Load() > 0 {
		t.Error("the proxy was used")
	}
}
