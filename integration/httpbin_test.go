package integration

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/sheafapi/sheaf/internal/strictupstream"

	"github.com/mccutchen/go-httpbin/v2/httpbin"
)

// httpbinCase is one request to go-httpbin, in its own batch and store.
type httpbinCase struct {
	method, path, body string
	retry              bool // stopOnFirstFailure=false

	status   string
	code     int
	line     string             // the reason phrase, or its beginning
	arrivals int                // 0 means 1
	answer   func(result) error // checks the body; nil: no check
}

// TestHTTPBin sends requests to an upstream that this project didn't write.
func TestHTTPBin(t *testing.T) { onEach(t, throughHTTPBin) }

func throughHTTPBin(t *testing.T, database string) {
	parallel(t)
	const ok, failed = "COMPLETED", "FAILED"
	big := `{"id":12345678901234567890,"price":1.10,"name":"Bäcker \u0041"}`
	cases := []httpbinCase{
		{method: "GET", path: "status/418", status: failed, code: 418, line: "I'm a teapot", answer: text("teapot")},
		{method: "GET", path: "status/204", status: ok, code: 204, line: "No Content", answer: none},
		{method: "GET", path: "status/404", status: failed, code: 404, line: "Not Found", answer: none},
		{method: "GET", path: "status/500", retry: true, arrivals: 3, status: failed, code: 500, line: "Internal Server Error"},
		{method: "POST", path: "status/503", retry: true, arrivals: 3, status: failed, code: 503, line: "Service Unavailable"},
		{method: "GET", path: "status/429", arrivals: 2, status: failed, code: 429, line: "Too Many Requests"},
		{method: "GET", path: "redirect/1", status: failed, code: 302, line: "Found"},
		{method: "GET", path: "absolute-redirect/2", status: failed, code: 302, line: "Found"},
		{method: "GET", path: "redirect-to?url=http%3A%2F%2Fexample.com%2F", status: failed, code: 302, line: "Found"},
		{method: "GET", path: "gzip", status: ok, code: 200, line: "OK", answer: field("method", "GET")},
		{method: "GET", path: "bytes/100?seed=1", status: ok, code: 200, line: "OK", answer: bytesOf("", 100)},
		{method: "GET", path: "stream-bytes/5000?seed=1&chunk_size=100", status: ok, code: 200, line: "OK", answer: bytesOf("", 5000)},
		{method: "GET", path: "image/png", status: ok, code: 200, line: "OK", answer: bytesOf("\x89PNG", 0)},
		{method: "GET", path: "encoding/utf8", status: ok, code: 200, line: "OK", answer: text("∮ E⋅da = Q")},
		{method: "GET", path: "robots.txt", status: ok, code: 200, line: "OK", answer: text("User-agent")},
		{method: "GET", path: "stream/3", status: ok, code: 200, line: "OK", answer: text("\n{")},
		{method: "GET", path: "json", status: ok, code: 200, line: "OK", answer: field("slideshow", "title", "Sample Slide Show")},
		{method: "GET", path: "delay/5", status: failed, code: 504, line: "Gateway Timeout: no complete answer within 1s"},
		{method: "GET", path: "drip?duration=5&numbytes=5&delay=0", status: failed, code: 200, line: "OK; the answer is incomplete: the rest didn't come within 1s"},
		{method: "POST", path: "delay/5", retry: true, status: failed, code: 504, line: "Gateway Timeout: no complete answer within 1s; it is not known"},
		{method: "GET", path: "bearer", status: ok, code: 200, line: "OK", answer: field("token", "secret-token")},
		{method: "GET", path: "basic-auth/a/b", status: failed, code: 401, line: "Unauthorized"},
		{method: "GET", path: "bytes/200000", status: failed, code: 502, line: "Bad Gateway: the upstream answered 200, and the answer is larger than the limit of 64 KiB", answer: none},
		{method: "GET", path: "stream-bytes/200000", status: failed, code: 502, line: "Bad Gateway: the upstream answered 200, and the answer is larger than the limit of 64 KiB", answer: none},
		{method: "GET", path: "anything?x=%2B+%20&y=a%26b&z=%C3%A4&&e=", status: ok, code: 200, line: "OK", answer: field("args", "x", "+  ")},
		{method: "GET", path: "anything/a%2Fb;v=1/c+d", status: ok, code: 200, line: "OK"},
		{method: "POST", path: "anything", body: big, status: ok, code: 200, line: "OK", answer: field("data", big)},
		{method: "POST", path: "post", body: "[1.10, 1e5]", status: ok, code: 200, line: "OK", answer: field("data", "[1.10, 1e5]")},
		{method: "PUT", path: "put", body: big, status: ok, code: 200, line: "OK", answer: field("method", "PUT")},
		{method: "PATCH", path: "patch", body: big, status: ok, code: 200, line: "OK", answer: field("method", "PATCH")},
		{method: "DELETE", path: "delete", status: ok, code: 200, line: "OK", answer: field("method", "DELETE")},
		{method: "DELETE", path: "get", status: failed, code: 405, line: "Method Not Allowed"},
		{method: "HEAD", path: "get", status: ok, code: 200, line: "OK", answer: none},
		{method: "GET", path: "trailers?test=1", status: ok, code: 200, line: "OK"},
	}
	var seen recorder
	upstream, _ := strictupstream.Start(t, seen.record(httpbin.New()))
	t.Cleanup(upstream.Close) // after the parallel subtests
	s := start(t, upstream.URL, database, "--request-timeout", "1s",
		"--max-answer", "64KiB", "--throttle-limit", "500ms", "--retry-limit", "2",
		"--outage-limit", "0") // failures count, as the contract's letter says
	c := caller(s.base)
	c.token = "secret-token"
	for i, test := range cases {
		t.Run(test.method+" "+test.path, func(t *testing.T) {
			t.Parallel()
			test.run(t, c, fmt.Sprintf("s%d", i), &seen)
		})
	}
}

// run creates a batch of the request, and checks the result and what the upstream received.
func (test *httpbinCase) run(t *testing.T, c client, store string, seen *recorder) {
	ctx := t.Context()
	stop := map[string][]string{"stopOnFirstFailure": {fmt.Sprint(!test.retry)}}
	ticket, err := c.create(ctx, store, stop, []request{{ID: "r", Method: test.method, Path: test.path, Body: []byte(test.body)}})
	if err != nil {
		t.Fatal(err)
	}
	got, err := c.awaitEnd(ctx, store, ticket)
	if err != nil {
		t.Fatal(err)
	}
	r := got.Responses[0]
	if r.ID != "r" || r.Status != test.status || r.Code != test.code || !strings.HasPrefix(r.Line, test.line) {
		t.Errorf("the result is %s %d %q, want %s %d %q", r.Status, r.Code, r.Line, test.status, test.code, test.line)
	}
	if test.answer != nil {
		if err := test.answer(r); err != nil {
			t.Errorf("the body: %v; it is %.300s", err, r.Body)
		}
	}

	// The path arrives byte for byte as the batch has it.
	calls := seen.of(test.method + " /" + test.path)
	if want := max(test.arrivals, 1); len(calls) != want {
		t.Fatalf("it arrived %d times, want %d", len(calls), want)
	}
	for _, call := range calls {
		if call.body != test.body {
			t.Errorf("it arrived with the body %q, want %q", call.body, test.body)
		}
		if got := call.header.Get("Authorization"); got != "Bearer "+c.token {
			t.Errorf("it arrived with the Authorization %q", got)
		}
		if got := call.header.Get("Idempotency-Key"); got == "" || got != calls[0].header.Get("Idempotency-Key") {
			t.Errorf("it arrived with the Idempotency-Key %q", got)
		}
		if got := call.header.Get("Content-Type"); (test.body != "") != (got == "application/json") {
			t.Errorf("it arrived with the Content-Type %q", got)
		}
	}
}

// TestHTTPBinEscaped: with escapedJson=true, a body is returned exactly as the upstream sent it.
func TestHTTPBinEscaped(t *testing.T) { onEach(t, httpBinEscaped) }

func httpBinEscaped(t *testing.T, database string) {
	upstream, _ := strictupstream.Start(t, httpbin.New())
	defer upstream.Close()
	resp, err := http.Get(upstream.URL + "/json")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	want, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	s := start(t, upstream.URL, database)
	c := caller(s.base)
	ticket, err := c.create(ctx, "1", nil, []request{{Method: "GET", Path: "json"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.awaitEnd(ctx, "1", ticket); err != nil {
		t.Fatal(err)
	}
	got, err := c.status(ctx, "1", ticket, "escapedJson")
	if err != nil {
		t.Fatal(err)
	}
	if r := got.Responses[0]; r.Escaped == nil || *r.Escaped != string(want) || r.Body != nil {
		t.Errorf("got %+v, want the escaped body %q alone", r, want)
	}
}

// recorder remembers what an upstream received.
type recorder struct {
	mu    sync.Mutex
	calls map[string][]receivedCall // by method and request URI
}

type receivedCall struct {
	header http.Header
	body   string
}

// record returns a handler that remembers each request and lets next answer it.
func (s *recorder) record(next http.Handler) http.Handler {
	s.calls = map[string][]receivedCall{}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		name := r.Method + " " + r.RequestURI
		s.mu.Lock()
		s.calls[name] = append(s.calls[name], receivedCall{r.Header.Clone(), string(body)})
		s.mu.Unlock()
		next.ServeHTTP(w, r)
	})
}

func (s *recorder) of(name string) []receivedCall {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[name]
}

// none expects no body.
func none(r result) error {
	if r.Body != nil {
		return fmt.Errorf("want no body")
	}
	return nil
}

// text expects a JSON string that contains want.
func text(want string) func(result) error {
	return func(r result) error {
		var s string
		if err := json.Unmarshal(r.Body, &s); err != nil {
			return err
		}
		if !strings.Contains(s, want) || r.Encoding != "" {
			return fmt.Errorf("want a text with %q, encoding %q", want, r.Encoding)
		}
		return nil
	}
}

// bytesOf expects base64 of bytes with the given beginning and length (0: any length).
func bytesOf(beginning string, length int) func(result) error {
	return func(r result) error {
		var s string
		if err := json.Unmarshal(r.Body, &s); err != nil {
			return err
		}
		b, err := base64.StdEncoding.DecodeString(s)
		if err != nil {
			return err
		}
		if r.Encoding != "base64" || !strings.HasPrefix(string(b), beginning) || length > 0 && len(b) != length {
			return fmt.Errorf("want %d bytes that begin with %q, got %d, encoding %q", length, beginning, len(b), r.Encoding)
		}
		return nil
	}
}

// field expects a JSON object. The last argument is the value at the path that the other arguments
// name. httpbin returns parameters as lists, of which field checks the first element.
func field(path ...string) func(result) error {
	return func(r result) error {
		var v any
		if err := json.Unmarshal(r.Body, &v); err != nil {
			return err
		}
		want := path[len(path)-1]
		for _, name := range path[:len(path)-1] {
			object, _ := v.(map[string]any)
			v = object[name]
		}
		if list, ok := v.([]any); ok && len(list) > 0 {
			v = list[0]
		}
		if v != want {
			return fmt.Errorf("%s is %v, want %q", strings.Join(path[:len(path)-1], "."), v, want)
		}
		return nil
	}
}
