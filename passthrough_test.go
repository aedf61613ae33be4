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
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sheafapi/sheaf"
	"github.com/sheafapi/sheaf/internal/strictupstream"
)

// forwarding starts a service with passthrough in front of an upstream whose stores are below /shop/,
// and returns its address.
func forwarding(t testing.TB, upstream http.Handler, change ...func(*sheaf.Options)) string {
	t.Helper()
	up, _ := strictupstream.Start(t, upstream)
	o := sheaf.Options{
		Upstream: sheaf.Upstream{URL: up.URL + "/shop/{storeId}", Passthrough: true},
		Logger:   slog.New(slog.DiscardHandler),
		Database: sheaf.Database{URL: "sqlite:" + filepath.Join(t.TempDir(), "sheaf.db")},
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

// echo answers with the request that it got.
var echo = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Upstream", "yes")
	w.WriteHeader(http.StatusTeapot)
	fmt.Fprintf(w, "%s %s\n", r.Method, r.RequestURI)
	_ = r.Header.Write(w)
	_, _ = io.Copy(w, r.Body)
})

// Calls that aren't about batches reach the upstream unchanged, and its answers reach the caller
// unchanged.
func TestPassthrough(t *testing.T) {
	inProcess := func(o *sheaf.Options) { o.Upstream.Handler = echo }
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
				for _, has := range []string{"Authorization: Basic x", "X-Mine: 1", "X-Forwarded-For: 127.0.0.1\r\n", "X-Forwarded-Host: a\r\n", "X-Forwarded-Proto: http\r\n"} {
					if !strings.Contains(text, has) {
						t.Errorf("%s: without %s: %q", sent, has, text)
					}
				}
				for _, hasNot := range []string{"User-Agent", "Accept-Encoding", "Te:", "Trailer"} {
					if strings.Contains(text, hasNot) {
						t.Errorf("%s: %s was added: %q", sent, hasNot, text)
					}
				}
			}
		})
	}
}

// TestPassthroughHeaders: the forwarding headers of a trusted proxy are kept and extended, and
// those of a caller are replaced. The header Connection can't remove important headers.
func TestPassthroughHeaders(t *testing.T) {
	received := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = r.Header.Write(w)
		_, _ = io.Copy(io.Discard, r.Body)
		if len(r.Trailer) > 0 {
			fmt.Fprintf(w, "Trailers: %v\r\n", r.Trailer)
		}
	})
	const whom = "X-Forwarded-For: 198.51.100.7, 10.0.0.9:443\r\nX-Forwarded-Host: shop.example\r\nX-Forwarded-Proto: https\r\n"
	replaced := []string{"X-Forwarded-For: 127.0.0.1", "X-Forwarded-Host: a", "X-Forwarded-Proto: http"}
	appended := []string{"X-Forwarded-For: 198.51.100.7, 10.0.0.9:443, 127.0.0.1", "X-Forwarded-Host: shop.example, a", "X-Forwarded-Proto: https, http"}
	const others = "X-Real-IP: 1.1.1.1\r\nForwarded: for=1.1.1.1\r\nX-Forwarded-User: root\r\nRemote-User: root\r\nTrue-Client-IP: 1.1.1.1\r\nX-Original-URL: /8/x\r\n"
	all := []string{"X-Real-Ip: 1.1.1.1", "Forwarded: for=1.1.1.1", "X-Forwarded-User: root", "Remote-User: root", "True-Client-Ip: 1.1.1.1", "X-Original-Url: /8/x"}
	const mine = "Authorization: Bearer t\r\nCookie: a=b\r\nContent-Type: text/plain\r\nIf-Match: x\r\nX-Mine: 1\r\n"
	kept := []string{"Authorization: Bearer t", "Cookie: a=b", "Content-Type: text/plain", "If-Match: x"}
	cases := []struct {
		name          string
		head          string
		caller, proxy []string // what arrives from an untrusted caller, and from a trusted proxy
	}{
		{"nothing said", "", replaced, replaced},
		{"the usual three", whom, replaced, appended},
		{"in two lines and another case", "x-forwarded-for: 198.51.100.7\r\nX-FORWARDED-FOR: 10.0.0.9:443\r\nX-Forwarded-Host: shop.example\r\nX-Forwarded-Proto: https\r\n", replaced, appended},
		{"others", others, replaced, append(all, replaced...)},
		{"underscores", "X_Forwarded_For: 1.1.1.1\r\nX-Forwarded_Host: evil\r\nContent_Length: 5\r\nAuthorization_: x\r\nX.Real.IP: 1\r\n", replaced, replaced},
		{"Connection names what matters", mine + whom + "Connection: close, Authorization, cookie, CONTENT-TYPE, If-Match, Host, X-Forwarded-For, x-forwarded-host, X-Forwarded-Proto, X-Mine\r\n", append(kept, replaced...), append(kept, appended...)},
		{"Connection twice", mine + "Connection: authorization\r\nConnection: X-Mine, Cookie, content-type, if-match\r\n", append(kept, replaced...), append(kept, replaced...)},
		{"hop by hop", "TE: trailers\r\nKeep-Alive: timeout=5\r\nProxy-Authorization: x\r\nProxy-Connection: keep-alive\r\nUpgrade: websocket\r\nConnection: Upgrade, TE\r\nHTTP2-Settings: x\r\n", replaced, replaced},
		{"an expectation", "Expect: 100-continue\r\n", replaced, replaced},
	}
	for kind, change := range map[string]func(*sheaf.Options){
		"a caller, over a socket": func(*sheaf.Options) {},
		"a caller, in process":    func(o *sheaf.Options) { o.Upstream.Handler = received },
		"a proxy, over a socket":  func(o *sheaf.Options) { o.Auth.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")} },
		"a proxy, in process": func(o *sheaf.Options) {
			o.Upstream.Handler, o.Auth.TrustedProxies = received, []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
		},
	} {
		address := forwarding(t, received, change)
		for _, v := range cases {
			want := v.caller
			if strings.HasPrefix(kind, "a proxy") {
				want = v.proxy
			}
			resp := raw(t, address, "GET /api/v3/7/orders HTTP/1.1\r\nHost: a\r\n"+v.head+"\r\n") //nolint:bodyclose // body closes it
			text := body(t, resp)
			got := strings.Split(strings.TrimSpace(text), "\r\n")
			want = slices.Clone(want)
			slices.Sort(got)
			slices.Sort(want)
			got = slices.DeleteFunc(got, func(line string) bool { return line == "Connection: close" || line == "User-Agent: " })
			if !slices.Equal(got, want) {
				t.Errorf("%s, %s: arrived\n%q\nwant\n%q", v.name, kind, got, want)
			}
		}
	}
	const trailer = "POST /api/v3/7/orders HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-Forwarded-For\r\n\r\n1\r\nx\r\n0\r\nX-Forwarded-For: 1.1.1.1\r\n\r\n"
	resp := raw(t, forwarding(t, received), trailer) //nolint:bodyclose // body closes it
	if text := body(t, resp); strings.Contains(text, "1.1.1.1") || strings.Contains(text, "Trailer") {
		t.Errorf("a trailer arrived: %s", text)
	}
}

// TestPassthroughMethods: methods that open a tunnel, or show headers added on the way, are not
// forwarded. OPTIONS respects Max-Forwards.
func TestPassthroughMethods(t *testing.T) {
	address := forwarding(t, echo)
	for _, method := range []string{"CONNECT", "TRACE", "trace", "Connect", "TRACK"} {
		for _, target := range []string{"/api/v3/7/orders", "/api/v3/7/batch", "/orders"} {
			resp := raw(t, address, method+" "+target+" HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer x\r\n\r\n")
			if text := body(t, resp); resp.StatusCode != 405 || resp.Header.Get("Allow") == "" || !strings.Contains(text, "METHOD_NOT_ALLOWED") {
				t.Errorf("%s %s: %d %s", method, target, resp.StatusCode, text)
			}
		}
	}
	resp := raw(t, address, "CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n")
	if text := body(t, resp); resp.StatusCode != 405 {
		t.Errorf("CONNECT to a host: %d %s", resp.StatusCode, text)
	}
	for _, v := range []struct{ method, left, arrives string }{
		{"OPTIONS", "", "no"}, {"OPTIONS", "0", ""}, {"OPTIONS", "1", "Max-Forwards: 0"}, {"OPTIONS", "10", "Max-Forwards: 9"}, {"GET", "0", "Max-Forwards: 0"},
	} {
		header := ""
		if v.left != "" {
			header = "Max-Forwards: " + v.left + "\r\n"
		}
		resp := raw(t, address, v.method+" /api/v3/7/orders HTTP/1.1\r\nHost: a\r\n"+header+"\r\n")
		text := body(t, resp)
		switch {
		case v.arrives == "" && resp.StatusCode != 204:
			t.Errorf("%s %s: %d %s", v.method, v.left, resp.StatusCode, text)
		case v.arrives == "no" && (resp.StatusCode != http.StatusTeapot || strings.Contains(text, "Max-Forwards")):
			t.Errorf("%s: %d %s", v.method, resp.StatusCode, text)
		case strings.HasPrefix(v.arrives, "Max") && !strings.Contains(text, v.arrives+"\r\n"):
			t.Errorf("%s %s: %d %s", v.method, v.left, resp.StatusCode, text)
		}
	}
}

// TestUnclearEnd: if a proxy in front of the service might disagree about where a request ends, the
// bytes after it are not run as another request, and the upstream gets exactly one length.
func TestUnclearEnd(t *testing.T) {
	arrived := make(chan string, 10)
	address := forwarding(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, err := io.ReadAll(r.Body)
		arrived <- fmt.Sprintf("%s %s %q %d %v %v", r.Method, r.RequestURI, text, r.ContentLength, r.TransferEncoding, err)
	}))
	const hidden = "POST /api/v3/7/hidden HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
	for name, v := range map[string]struct{ first, arrives string }{
		"both":                  {"POST /api/v3/7/x HTTP/1.1\r\nHost: a\r\nContent-Length: 60\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n", `POST /shop/7/x "ab" -1 [chunked] <nil>`},
		"the other way round":   {"POST /api/v3/7/x HTTP/1.1\r\nHost: a\r\ntransfer-encoding: Chunked\r\ncontent-length: 3\r\n\r\n0\r\n\r\n", `POST /shop/7/x "" -1 [chunked] <nil>`},
		"to a batch":            {"POST /api/v3/7/batch HTTP/1.1\r\nHost: a\r\n" + asJSON + "\r\nAuthorization: Bearer t\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", ""},
		"to nothing":            {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", ""},
		"HTTP/1.0 with chunks":  {"POST / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n", ""},
		"HTTP/1.0, to a health": {"GET /healthz HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n", ""},
	} {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(time.Minute))
		if _, err := io.WriteString(conn, v.first+hidden); err != nil {
			t.Fatal(err)
		}
		in := bufio.NewReader(conn)
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if !resp.Close {
			t.Errorf("%s: the answer doesn't say that the connection is closed", name)
		}
		if next, err := http.ReadResponse(in, nil); err == nil {
			next.Body.Close()
			t.Errorf("%s: the bytes after it were answered %d", name, next.StatusCode)
		}
		conn.Close()
		if v.arrives != "" {
			if got := <-arrived; got != v.arrives {
				t.Errorf("%s arrived as %s, want %s", name, got, v.arrives)
			}
		}
		select {
		case got := <-arrived:
			t.Errorf("%s: something else arrived: %s", name, got)
		default:
		}
	}
}

// Paths that could leave the store, or are about batches, are not forwarded.
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

// FuzzPassthrough: forwarded calls always stay below the store.
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

// A stream of events is passed on event by event, and large bodies are passed on in both
// directions.
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

// If the upstream is down or too slow, the caller gets an error in Sheaf's format. If the
// upstream's answer is cut off, so is the caller's.
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
	}), func(o *sheaf.Options) { o.Upstream.Timeout = 300 * time.Millisecond })
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
	gone := forwarding(t, echo, func(o *sheaf.Options) { o.Upstream.URL = "http://127.0.0.1:1/{storeId}" })
	resp = raw(t, gone, "GET /api/v3/7/orders HTTP/1.1\r\nHost: a\r\n\r\n")
	if text := body(t, resp); resp.StatusCode != 502 || !strings.Contains(text, "UPSTREAM_FAILED") || !strings.Contains(text, "connection refused") || strings.Contains(text, "127.0.0.1") {
		t.Errorf("%d %s", resp.StatusCode, text)
	}
}

// TestForwardedCallsAreShared: an address gets at most half of the free places for forwarded calls.
// Beyond that, it gets 429, while other callers' calls are still forwarded.
func TestForwardedCallsAreShared(t *testing.T) {
	arrived, held := make(chan struct{}), make(chan struct{})
	address := forwarding(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/hold") {
			arrived <- struct{}{}
			<-held
		}
	}), func(o *sheaf.Options) {
		o.Limits.MaxOutbound, o.Auth.TrustedProxies = 8, []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	})
	call := func(from, token string) *http.Response {
		t.Helper()
		return raw(t, address, fmt.Sprintf("GET /api/v3/7/orders HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: %s\r\nAuthorization: Bearer %s\r\n\r\n", from, token))
	}
	for i := range 4 {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := fmt.Fprintf(conn, "GET /api/v3/7/hold HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 203.0.113.1\r\nAuthorization: Bearer token%d\r\n\r\n", i); err != nil {
			t.Fatal(err)
		}
		<-arrived
	}
	resp := call("203.0.113.1", "another")
	if text := body(t, resp); resp.StatusCode != 429 || resp.Header.Get("Retry-After") != "1" || !strings.Contains(text, "being forwarded") {
		t.Errorf("the fifth call of an address, of 8 places: %d %s", resp.StatusCode, text)
	}
	resp = call("198.51.100.1", "victim")
	if text := body(t, resp); resp.StatusCode != 200 {
		t.Errorf("another address's call: %d %s", resp.StatusCode, text)
	}
	close(held)
}

// Connections are not upgraded, because nothing would limit an upgraded connection.
func TestPassthroughDoesNotUpgrade(t *testing.T) {
	address := forwarding(t, echo)
	resp := raw(t, address, "GET /api/v3/7/socket HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	if text := body(t, resp); resp.StatusCode != http.StatusTeapot || strings.Contains(text, "pgrade") {
		t.Errorf("%d %s", resp.StatusCode, text)
	}
}

// Without the option, nothing is forwarded.
func TestNoPassthrough(t *testing.T) {
	address := forwarding(t, echo, func(o *sheaf.Options) { o.Upstream.Passthrough = false })
	resp := raw(t, address, "GET /api/v3/7/orders HTTP/1.1\r\nHost: a\r\n\r\n")
	if text := body(t, resp); resp.StatusCode != 404 || !strings.Contains(text, "NOT_FOUND") {
		t.Errorf("%d %s", resp.StatusCode, text)
	}
}

// TestForwardedName: a forwarded answer has only the upstream's X-Request-Id, and is counted with its
// status.
func TestForwardedName(t *testing.T) {
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/named") {
			w.Header().Set("X-Request-Id", "theirs")
		}
		w.WriteHeader(http.StatusTeapot)
	}))
	t.Cleanup(up.Close)
	service, err := sheaf.New(sheaf.Options{
		Upstream: sheaf.Upstream{URL: up.URL, Passthrough: true},
		Logger:   slog.New(slog.DiscardHandler),
		Database: sheaf.Database{URL: "sqlite:" + filepath.Join(t.TempDir(), "sheaf.db")},
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
