package sheaf_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sheafapi/sheaf"
)

// create returns a create request with a body and additional header lines.
func create(body string, header ...string) string {
	lines := strings.Join(append(header, "Content-Length: "+strconv.Itoa(len(body))), "\r\n")
	return "POST /api/v3/1/batch HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer abc\r\nContent-Type: application/json\r\n" + lines + "\r\n\r\n" + body
}

// path returns a create request for a batch of one request with a path, given in JSON.
func path(p string) string { return create(`[{"method":"GET","path":"` + p + `"}]`) }

// headers returns a create request with its own header lines.
func headers(lines ...string) string {
	return "POST /api/v3/1/batch HTTP/1.1\r\nHost: a\r\n" + strings.Join(lines, "\r\n") + "\r\n\r\n"
}

// bomb returns a gzip stream that unpacks to n MiB of spaces. It repeats the blocks of one MiB, which is
// much faster than compressing n. The stream's end is missing, because Sheaf refuses it long before.
func bomb(n int) string {
	var out bytes.Buffer
	z, _ := gzip.NewWriterLevel(&out, gzip.BestCompression)
	_, _ = z.Write(bytes.Repeat([]byte(" "), 1<<20))
	_ = z.Flush()
	const header = 10 // bytes of a gzip header without a name
	return out.String() + strings.Repeat(out.String()[header:], n-1)
}

const (
	good   = `[{"method":"GET","path":"a"}]`
	bearer = "Authorization: Bearer abc"
	asJSON = "Content-Type: application/json"
)

// sets returns a create request for a batch of one request with a header.
func sets(header string) string {
	return create(`[{"method":"GET","path":"a","headers":{"` + header + `":"1"}}]`)
}

// hostile lists malicious inputs and their answers: a status and, if Sheaf itself answers, an
// errorCode. docs/security.md shows this table, and TestHostileTable compares them.
var hostile = []struct {
	kind, what string
	send       string
	status     int
	code       string // empty: refused by the HTTP server, before Sheaf sees it
}{
	{"paths", "dot segments", path("../2/orders"), 400, "WRONG_PARAMETER"},
	{"paths", "dot segments, percent-encoded", path("%2e%2e/2/orders"), 400, "WRONG_PARAMETER"},
	{"paths", "dot segments, encoded twice and three times", path("%252e%252e/2/%25252e%25252e/x"), 400, "WRONG_PARAMETER"},
	{"paths", "dot segments behind an encoded slash", path("a/..%2f..%2f2"), 400, "WRONG_PARAMETER"},
	{"paths", "dot segments with parameters, as Tomcat reads them", path("..;x=1/2"), 400, "WRONG_PARAMETER"},
	{"paths", "backslashes", path(`a\\..\\..\\2`), 400, "WRONG_PARAMETER"},
	{"paths", "backslashes, percent-encoded", path("a%5c..%5c..%5c2"), 400, "WRONG_PARAMETER"},
	{"paths", "another host, with two slashes", path("//evil.example/x"), 400, "WRONG_PARAMETER"},
	{"paths", "another host, as an absolute URL", path("http://evil.example/x"), 400, "WRONG_PARAMETER"},
	{"paths", "a line break that adds a header", path(`a\r\nX-Evil: 1`), 400, "WRONG_PARAMETER"},
	{"paths", "a percent-encoded NUL", path("a%00b"), 400, "WRONG_PARAMETER"},
	{"paths", "a raw space that ends the request line", path("a HTTP/1.1"), 400, "WRONG_PARAMETER"},
	{"paths", "a fragment", path("a#b"), 400, "WRONG_PARAMETER"},
	{"paths", "raw non-ASCII characters", path("ä"), 400, "WRONG_PARAMETER"},
	{"paths", "the batch endpoint itself", path("batch"), 400, "WRONG_PARAMETER"},
	{"paths", "the batch endpoint itself, encoded", path("%62atch?x=1"), 400, "WRONG_PARAMETER"},
	{"paths", "longer than 8 KiB", path(strings.Repeat("a", 9000)), 400, "WRONG_PARAMETER"},

	{"bodies", "nesting 100,000 deep", create(strings.Repeat("[", 100_000)), 400, "WRONG_PARAMETER"},
	{"bodies", "nesting 100,000 deep in a request's body", create(`[{"method":"PUT","path":"a","body":` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + `}]`), 400, "WRONG_PARAMETER"},
	{"bodies", "a repeated key", create(`[{"method":"GET","path":"a","path":"b"}]`), 400, "WRONG_PARAMETER"},
	{"bodies", "a repeated key, once escaped", create(`[{"method":"GET","path":"a","p\u0061th":"b"}]`), 400, "WRONG_PARAMETER"},
	{"bodies", "invalid UTF-8", create("[{\"method\":\"GET\",\"path\":\"a\",\"id\":\"\xff\"}]"), 400, "WRONG_PARAMETER"},
	{"bodies", "half a surrogate pair", create(`[{"method":"GET","path":"a","id":"\ud800"}]`), 400, "WRONG_PARAMETER"},
	{"bodies", "a million small fields", create(`[{"method":"GET","path":"a"` + strings.Repeat(`,"xxxxxxx":1`, 1_000_000) + `}]`), 413, "PAYLOAD_TOO_LARGE"},
	{"bodies", "501 requests", create("[" + strings.Repeat(`{"method":"GET","path":"a"},`, 500) + `{"method":"GET","path":"a"}]`), 400, "WRONG_PARAMETER"},
	{"bodies", "no requests", create("[]"), 400, "WRONG_PARAMETER"},
	{"bodies", "cut off in the middle", create(`[{"method":"GET"`), 400, "WRONG_PARAMETER"},
	{"bodies", "data after the array", create(good + good), 400, "WRONG_PARAMETER"},
	{"bodies", "a method that opens a tunnel", create(`[{"method":"CONNECT","path":"a"}]`), 400, "WRONG_PARAMETER"},
	{"bodies", "larger than 10 MiB", create(strings.Repeat(" ", 11<<20)), 413, "PAYLOAD_TOO_LARGE"},
	{"bodies", "a decompression bomb: 1 GiB in 1 MiB", create(bomb(1024), "Content-Encoding: gzip"), 413, "PAYLOAD_TOO_LARGE"},
	{"bodies", "declared as gzip, but not gzip", create(good, "Content-Encoding: gzip"), 400, "WRONG_PARAMETER"},
	{"bodies", "compressed twice", create(good, "Content-Encoding: gzip, gzip"), 415, "UNSUPPORTED_MEDIA_TYPE"},
	{"bodies", "UTF-16", headers(bearer, "Content-Type: application/json; charset=utf-16", "Content-Length: 0"), 415, "UNSUPPORTED_MEDIA_TYPE"},
	{"bodies", "a form, as a web page can send it", headers(bearer, "Content-Type: text/plain", "Content-Length: 0"), 415, "UNSUPPORTED_MEDIA_TYPE"},

	{"headers", "no token", headers(asJSON, "Content-Length: 0"), 401, "MISSING_API_TOKEN"},
	{"headers", "two tokens", headers(bearer, "Authorization: Bearer other", asJSON, "Content-Length: 0"), 400, "WRONG_PARAMETER"},
	{"headers", "a token with a quote", headers(`Authorization: Bearer a"b`, asJSON, "Content-Length: 0"), 403, "INVALID_API_TOKEN"},
	{"headers", "a token of 20 KiB", headers("Authorization: Bearer "+strings.Repeat("a", 20<<10), asJSON, "Content-Length: 0"), 403, "INVALID_API_TOKEN"},
	{"headers", "two media types", headers(bearer, asJSON, asJSON, "Content-Length: 0"), 415, "UNSUPPORTED_MEDIA_TYPE"},
	{"headers", "a store id with a slash, percent-encoded", "GET /api/v3/1%2f2/batch?status=QUEUED HTTP/1.1\r\nHost: a\r\n" + bearer + "\r\n\r\n", 400, "WRONG_PARAMETER"},
	{"headers", "a malformed ticket", "GET /api/v3/1/batch?ticket=../../x HTTP/1.1\r\nHost: a\r\n" + bearer + "\r\n\r\n", 404, "BATCH_NOT_FOUND"},
	{"headers", "a repeated parameter with two values", "GET /api/v3/1/batch?status=QUEUED&status=COMPLETED HTTP/1.1\r\nHost: a\r\n" + bearer + "\r\n\r\n", 400, "WRONG_PARAMETER"},

	{"headers of a request", "`Host`", sets("Host"), 400, "WRONG_PARAMETER"},
	{"headers of a request", "a credential", sets("cookie"), 400, "WRONG_PARAMETER"},
	{"headers of a request", "a length", sets("Content-Length"), 400, "WRONG_PARAMETER"},
	{"headers of a request", "an encoding of the body", sets("Content-Encoding"), 400, "WRONG_PARAMETER"},
	{"headers of a request", "an override of the method", sets("X-HTTP-Method-Override"), 400, "WRONG_PARAMETER"},
	{"headers of a request", "an override of the URL", sets("X-Original-URL"), 400, "WRONG_PARAMETER"},
	{"headers of a request", "a caller's identity", sets("Remote-User"), 400, "WRONG_PARAMETER"},
	{"headers of a request", "a caller's address", sets("True-Client-IP"), 400, "WRONG_PARAMETER"},
	{"headers of a request", "an underscore instead of a hyphen", sets("X_Forwarded_For"), 400, "WRONG_PARAMETER"},
	{"headers of a request", "a dot instead of a hyphen", sets("X.Forwarded.For"), 400, "WRONG_PARAMETER"},
	{"headers of a request", "a non-ASCII hyphen", sets("If‐Match"), 400, "WRONG_PARAMETER"},
	{"headers of a request", "a header that the operator has not admitted", sets("X-Tenant"), 400, "WRONG_PARAMETER"},
	{"headers of a request", "the same, filled from an answer", create(`[{"id":"p","method":"GET","path":"a"},{"method":"GET","path":"a","refs":{"header:X-Real-IP":"p#/ip"}}]`), 400, "WRONG_PARAMETER"},
	{"headers of a request", "a header twice, in different case", create(`[{"method":"GET","path":"a","headers":{"If-Match":"1","if-match":"2"}}]`), 400, "WRONG_PARAMETER"},

	{"framing", "two lengths", headers(bearer, asJSON, "Content-Length: 29", "Content-Length: 5") + good, 400, ""},
	{"framing", "a negative length", headers(bearer, asJSON, "Content-Length: -1"), 400, ""},
	{"framing", "a length that isn't a number", headers(bearer, asJSON, "Content-Length: 0x1d") + good, 400, ""},
	{"framing", "an unknown encoding", headers(bearer, asJSON, "Transfer-Encoding: xchunked") + "1d\r\n" + good + "\r\n0\r\n\r\n", 501, ""},
	{"framing", "chunked twice", headers(bearer, asJSON, "Transfer-Encoding: chunked", "Transfer-Encoding: chunked") + "0\r\n\r\n", 501, ""},
	{"framing", "a chunk without a size", headers(bearer, asJSON, "Transfer-Encoding: chunked") + "zz\r\n" + good + "\r\n0\r\n\r\n", 400, "WRONG_PARAMETER"},
	{"framing", "a chunk whose size overflows", headers(bearer, asJSON, "Transfer-Encoding: chunked") + "fffffffffffffffff\r\n" + good, 400, "WRONG_PARAMETER"},
	{"framing", "a chunk longer than its size", headers(bearer, asJSON, "Transfer-Encoding: chunked") + "2\r\n" + good + "\r\n0\r\n\r\n", 400, "WRONG_PARAMETER"},
	{"framing", "a chunk with an extension of 1 MiB", headers(bearer, asJSON, "Transfer-Encoding: chunked") + "1d;" + strings.Repeat("x", 1<<20) + "\r\n" + good + "\r\n0\r\n\r\n", 400, "WRONG_PARAMETER"},
	{"framing", "no Host", "GET /healthz HTTP/1.1\r\n\r\n", 400, ""},
	{"framing", "two Hosts", "GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, ""},
	{"framing", "HTTP/0.9", "GET /healthz\r\n\r\n", 400, ""},
	{"framing", "a header with a space before its colon", headers(bearer+" ", "Content-Length : 29", asJSON) + good, 400, ""},
	{"framing", "a header with a NUL", headers(bearer, "X: a\x00b", asJSON, "Content-Length: 0"), 400, ""},
}

// TestHostile sends each input over a raw connection. None of them reaches the upstream or the
// database, and together they take little memory.
func TestHostile(t *testing.T) {
	var asked atomic.Int64
	dir := t.TempDir()
	service, err := sheaf.New(sheaf.Options{
		Upstream: sheaf.Upstream{URL: "http://in-process/{storeId}", Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) })},
		Database: sheaf.Database{URL: "sqlite:" + filepath.Join(dir, "sheaf.db")},
		Logger:   slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- service.Run(ctx) }()
	server := httptest.NewServer(service)
	defer func() {
		server.Close()
		stop()
		if err := errors.Join(<-ended, service.Close()); err != nil {
			t.Error(err)
		}
	}()
	address := server.Listener.Addr().String()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for _, h := range hostile {
		t.Run(h.kind+"/"+h.what, func(t *testing.T) {
			conn, err := net.Dial("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(time.Minute))
			go io.WriteString(conn, h.send) // an input that is refused early is not read to its end
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			text, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
			if resp.StatusCode != h.status {
				t.Errorf("%d %.300s, want %d", resp.StatusCode, text, h.status)
			}
			found := regexp.MustCompile(`"errorMessage":"(.+)","errorCode":"(\w+)"`).FindSubmatch(text)
			switch {
			case h.code == "" && found != nil:
				t.Errorf("Sheaf itself answered: %s", text)
			case h.code != "" && (found == nil || string(found[2]) != h.code):
				t.Errorf("%.300s, want %s", text, h.code)
			case len(text) > 8<<10:
				t.Errorf("an answer of %d bytes", len(text))
			}
		})
	}
	runtime.ReadMemStats(&after)
	if grown := int64(after.Sys) - int64(before.Sys); grown > 256<<20 {
		t.Errorf("it took %d MiB", grown>>20)
	}
	for _, status := range []string{"QUEUED", "IN_PROGRESS", "COMPLETED"} {
		resp := raw(t, address, "GET /api/v3/1/batch?status="+status+" HTTP/1.1\r\nHost: a\r\n"+bearer+"\r\n\r\n")
		if text := body(t, resp); resp.StatusCode != 200 || strings.Contains(text, "ticket\"") {
			t.Errorf("%s: %s", status, text)
		}
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("%d requests reached the upstream", n)
	}
}

// A request hidden behind another request's body is not run as part of it. Either the connection is
// closed after the answer, or the hidden request gets its own answer.
func TestSmuggling(t *testing.T) {
	address := forwarding(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("something reached the upstream") }),
		func(o *sheaf.Options) { o.Upstream.Passthrough = false })
	const hidden = "POST /api/v3/1/batch HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer victim\r\nContent-Type: application/json\r\nContent-Length: 29\r\n\r\n" + good
	for name, first := range map[string]string{
		"two lengths":     headers(bearer, asJSON, "Content-Length: 0", "Content-Length: 5"),
		"a folded header": headers(bearer, asJSON, "Transfer-Encoding:\r\n chunked", "Content-Length: 0"),
	} {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(time.Minute))
		if _, err := io.WriteString(conn, first+hidden); err != nil {
			t.Fatal(err)
		}
		in := bufio.NewReader(conn)
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			t.Errorf("%s: answered 200", name)
		}
		if next, err := http.ReadResponse(in, nil); err == nil {
			next.Body.Close()
			t.Errorf("%s: the hidden request was answered %d", name, next.StatusCode)
		}
		conn.Close()
	}
}

// TestHostileTable compares the table with docs/security.md.
func TestHostileTable(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("docs", "security.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range hostile {
		by := "the HTTP server"
		if h.code != "" {
			by = "`" + h.code + "`"
		}
		if line := fmt.Sprintf("| %s | %s | %d, %s |\n", h.kind, h.what, h.status, by); !strings.Contains(string(text), line) {
			t.Errorf("docs/security.md lacks\n%s", line)
		}
	}
}
