package sheaf_test

import (
	"bufio"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sheafapi/sheaf"
	"github.com/sheafapi/sheaf/internal/strictupstream"
)

// forwarding returns the address of a service in front of an upstream whose stores are
// below /shop/.
func forwarding(t testing.TB, upstream http.Handler, change ...func(*sheaf.Options)) string {
	t.Helper()
	up, _ := strictupstream.Start(t, upstream)
	o := sheaf.Options{
		Upstream: up.URL + "/shop/{storeId}", Passthrough: true, Logger: slog.New(slog.DiscardHandler),
		Database: "sqlite:" + filepath.Join(t.TempDir(), "sheaf.db"),
	}
	for _, f := range change {
		f(&o)
	}
	service, err := sheaf.New(o)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(service)
	t.Cleanup(func() {
		server.Close()
		if err := service.Close(); err != nil {
			t.Error(err)
		}
	})
	return strings.TrimPrefix(server.URL, "http://")
}

// raw sends bytes and returns the answer.
func raw(t testing.TB, address, request string) *http.Response {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

func body(t testing.TB, resp *http.Response) string {
	t.Helper()
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// echo answers with the request as it came.
var echo = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Upstream", "yes")
	w.WriteHeader(http.StatusTeapot)
	fmt.Fprintf(w, "%s %s\n", r.Method, r.RequestURI)
	_ = r.Header.Write(w)
	_, _ = io.Copy(w, r.Body)
})

// What is no batch's goes to the upstream as it came, and so does its answer.
func TestPassthrough(t *testing.T) {
	inProcess := func(o *sheaf.Options) { o.UpstreamHandler = echo }
	for name, change := range map[string]func(*sheaf.Options){"over a socket": func(*sheaf.Options) {}, "in process": inProcess} {
		t.Run(name, func(t *testing.T) {
			address := forwarding(t, echo, change)
			for sent, want := range map[string]string{
				"/api/v3/7/orders":                    "/shop/7/orders",
				"/api/v3/7/orders/":                   "/shop/7/orders/",
				"/api/v3/7/":                          "/shop/7/",
				"/api/v3/%37/orders":                  "/shop/7/orders",
				"/api/v3/7/a%20b/%C3%A4?q=1;2&x=%2F&": "/shop/7/a%20b/%C3%A4?q=1;2&x=%2F&",
				"/api/v3/7/orders?":                   "/shop/7/orders?",
				"/api/v3/7/batches":                   "/shop/7/batches",
			} {
				resp := raw(t, address, "PATCH "+sent+" HTTP/1.1\r\nHost: a\r\nAuthorization: Basic x\r\nX-Mine: 1\r\nTe: trailers\r\nContent-Length: 4\r\n\r\nbody")
				text := body(t, resp)
				if resp.StatusCode != http.StatusTeapot || resp.Header.Get("X-Upstream") != "yes" || resp.Header.Get("Cache-Control") != "" {
					t.Errorf("%s: %d %v", sent, resp.StatusCode, resp.Header)
				}
				if !strings.HasPrefix(text, "PATCH "+want+"\n") || !strings.HasSuffix(text, "body") {
					t.Errorf("%s arrived as %q", sent, text)
				}
				for _, has := range []string{"Authorization: Basic x", "X-Mine: 1"} {
					if !strings.Contains(text, has) {
						t.Errorf("%s: without %s: %q", sent, has, text)
					}
				}
				for _, hasNot := range []string{"X-Forwarded", "Forwarded", "User-Agent", "Accept-Encoding"} {
					if strings.Contains(text, hasNot) {
						t.Errorf("%s: %s was added: %q", sent, hasNot, text)
					}
				}
			}
		})
	}
}

// What could leave the store, or is a batch's, does not go to the upstream.
func TestPassthroughRefuses(t *testing.T) {
	address := forwarding(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { t.Errorf("the upstream was asked for %s", r.RequestURI) }))
	for sent, code := range map[string]int{
		"/api/v3/7/../8/orders": 400, "/api/v3/7/%2e%2e/8": 400, "/api/v3/7/%252e%252e/8": 400, "/api/v3/7/a/..%2f..%2f8": 400,
		"/api/v3/7/..;/8": 400, "/api/v3/7//evil.example/x": 400, "/api/v3/7/a%00": 400, "/api/v3/7/a%5c..%5cb": 400,
		"/api/v3/7%2f8/orders": 400, "/api/v3/../7/orders": 400, "/api/v3//orders": 400, "/api/v3/7/batch/other": 400, "/api/v3/7/\xff": 400, "/api/v3/7/a\\b": 400,
		"http://a/api/v3/7/orders": 400, "/api/v3/" + strings.Repeat("7", 65) + "/a": 400,
		"/api/v3/7/batch": 401, "/api/v3/7/batch?status=QUEUED": 401, "/api/v3/7/%62atch": 401,
		"/api/v3/7": 404, "/api/v4/7/orders": 404, "/orders": 404, "/api/v3": 404,
	} {
		resp := raw(t, address, "GET "+sent+" HTTP/1.1\r\nHost: a\r\n\r\n")
		if text := body(t, resp); resp.StatusCode != code || !strings.Contains(text, "errorCode") {
			t.Errorf("%s: %d %s", sent, resp.StatusCode, text)
		}
	}
}

// FuzzPassthrough: whatever the path, what arrives is below the store.
func FuzzPassthrough(f *testing.F) {
	address := forwarding(f, echo)
	for _, path := range []string{"orders", "..", "%2e%2e/8", "a;b/..", "?x", "//x", "a%2f..", "\xff"} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		if strings.ContainsAny(path, " \r\n\x00") {
			return // another request, or none
		}
		resp := raw(t, address, "GET /api/v3/7/"+path+" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
		text := body(t, resp)
		if resp.StatusCode != http.StatusTeapot {
			return
		}
		line, _, _ := strings.Cut(text, "\n")
		if line != "GET /shop/7/"+path {
			t.Errorf("%q arrived as %q", path, line)
		}
		rest, _, _ := strings.Cut(path, "?")
		if strings.Contains(rest, "..") && strings.Contains("/"+rest+"/", "/../") {
			t.Errorf("%q leaves the store", path)
		}
	})
}

// An answer is passed on as it comes, event by event, and a large body both ways.
func TestPassthroughStreams(t *testing.T) {
	goOn := make(chan struct{})
	address := forwarding(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/events") {
			w.Header().Set("Content-Type", "text/event-stream")
			io.WriteString(w, "data: 1\n\n")
			http.NewResponseController(w).Flush()
			<-goOn
			io.WriteString(w, "data: 2\n\n")
			return
		}
		if err := http.NewResponseController(w).EnableFullDuplex(); err != nil {
			t.Error(err)
		}
		io.Copy(w, r.Body)
	}))
	resp := raw(t, address, "GET /api/v3/7/events HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
	defer resp.Body.Close()
	in := bufio.NewReader(resp.Body)
	if line, err := in.ReadString('\n'); line != "data: 1\n" || err != nil {
		t.Errorf("%q, %v", line, err)
	}
	close(goOn)
	if rest, err := io.ReadAll(in); string(rest) != "\ndata: 2\n\n" || err != nil {
		t.Errorf("%q, %v", rest, err)
	}

	const size = 32 << 20
	sent, got := sha256.New(), sha256.New()
	answer, err := http.Post("http://"+address+"/api/v3/7/files", "application/octet-stream", io.TeeReader(io.LimitReader(rand.Reader, size), sent))
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if n, err := io.Copy(got, answer.Body); n != size || err != nil || string(got.Sum(nil)) != string(sent.Sum(nil)) {
		t.Errorf("%d bytes came back, %v", n, err)
	}
}

// An upstream that is not there, too slow, or breaks off is told in the API's own form,
// or by breaking off as well.
func TestPassthroughFailures(t *testing.T) {
	held := make(chan struct{})
	address := forwarding(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/slow"):
			<-held
		case strings.HasSuffix(r.URL.Path, "/breaks"):
			w.Header().Set("Content-Length", "100")
			io.WriteString(w, "half")
			http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}
	}), func(o *sheaf.Options) { o.RequestTimeout = 300 * time.Millisecond })
	defer close(held)
	resp := raw(t, address, "GET /api/v3/7/slow HTTP/1.1\r\nHost: a\r\n\r\n")
	if text := body(t, resp); resp.StatusCode != 504 || !strings.Contains(text, "UPSTREAM_TIMEOUT") || !strings.Contains(text, "within 300ms") {
		t.Errorf("%d %s", resp.StatusCode, text)
	}
	resp = raw(t, address, "GET /api/v3/7/breaks HTTP/1.1\r\nHost: a\r\n\r\n")
	defer resp.Body.Close()
	if text, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("half an answer looks whole: %q", text)
	}
	gone := forwarding(t, echo, func(o *sheaf.Options) { o.Upstream = "http://127.0.0.1:1/{storeId}" })
	resp = raw(t, gone, "GET /api/v3/7/orders HTTP/1.1\r\nHost: a\r\n\r\n")
	if text := body(t, resp); resp.StatusCode != 502 || !strings.Contains(text, "UPSTREAM_FAILED") || !strings.Contains(text, "connection refused") || strings.Contains(text, "127.0.0.1") {
		t.Errorf("%d %s", resp.StatusCode, text)
	}
}

// A connection is not upgraded: nobody would bound what goes over it.
func TestPassthroughDoesNotUpgrade(t *testing.T) {
	address := forwarding(t, echo)
	resp := raw(t, address, "GET /api/v3/7/socket HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	if text := body(t, resp); resp.StatusCode != http.StatusTeapot || strings.Contains(text, "pgrade") {
		t.Errorf("%d %s", resp.StatusCode, text)
	}
}

// Without the option nothing is forwarded.
func TestNoPassthrough(t *testing.T) {
	address := forwarding(t, echo, func(o *sheaf.Options) { o.Passthrough = false })
	resp := raw(t, address, "GET /api/v3/7/orders HTTP/1.1\r\nHost: a\r\n\r\n")
	if text := body(t, resp); resp.StatusCode != 404 || !strings.Contains(text, "NOT_FOUND") {
		t.Errorf("%d %s", resp.StatusCode, text)
	}
}

// TestForwardedName: a forwarded answer has the upstream's name for the call alone, and is counted with its status.
func TestForwardedName(t *testing.T) {
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/named") {
			w.Header().Set("X-Request-Id", "theirs")
		}
		w.WriteHeader(http.StatusTeapot)
	}))
	t.Cleanup(up.Close)
	service, err := sheaf.New(sheaf.Options{
		Upstream: up.URL, Passthrough: true, Logger: slog.New(slog.DiscardHandler), Database: "sqlite:" + filepath.Join(t.TempDir(), "sheaf.db"),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = service.Close() })
	server := httptest.NewServer(service)
	t.Cleanup(server.Close)
	for path, want := range map[string]string{"named": "[theirs]", "nameless": "[]"} {
		resp, err := http.Get(server.URL + "/api/v3/1003/" + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if got := fmt.Sprint(resp.Header.Values("X-Request-Id")); got != want || resp.StatusCode != http.StatusTeapot {
			t.Errorf("%s: %s, %d", path, got, resp.StatusCode)
		}
	}
	server.Close() // calls are counted when they are over
	metrics := httptest.NewRecorder()
	service.Metrics().ServeHTTP(metrics, httptest.NewRequest("GET", "/metrics", nil))
	const want = `http_server_request_duration_seconds_count{http_request_method="GET",http_response_status_code="418",http_route="/api/v3/{storeId}/*"} 2`
	if !strings.Contains(metrics.Body.String(), want) {
		t.Error("the forwarded calls are not counted with their status")
	}
}
