package outbound

import (
	"bufio"
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"
	"github.com/sheafapi/sheaf/internal/budget"
)

// lenience is an answer with a status of 201 and a fault after it, and its expected outcome. The upstream
// closes the connection only if closes is set.
type lenience struct {
	name, rest string
	body, line string // line follows "Created"
	incomplete bool
	closes     bool
}

const (
	oneHeader  = "; the answer has a header that could not be read"
	twoHeaders = "; the answer has 2 headers that could not be read"
	isBroken   = "; the answer is incomplete: the connection broke"
	unreadable = "; the answer is incomplete: the rest could not be read"
	lengths    = "; the answer names different lengths"
)

var leniences = []lenience{
	{"identity", "Transfer-Encoding: identity\r\n\r\nok", "ok", "", false, true},
	{"identity and a length", "Transfer-Encoding: identity\r\nContent-Length: 2\r\n\r\nok", "ok", "", false, false},
	{"chunked twice", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", "ok", "", false, false},
	{"chunked, chunked", "Transfer-Encoding: chunked, Chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", "ok", "", false, false},
	{"identity, chunked", "Transfer-Encoding: identity, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", "ok", "", false, false},
	{"chunked and lengths", "Transfer-Encoding: chunked\r\nContent-Length: 9\r\nContent-Length: 8\r\n\r\n2\r\nok\r\n0\r\n\r\n", "ok", "", false, false},
	{"unknown coding", "Transfer-Encoding: magic\r\n\r\nok", "ok", "", false, true},
	{"unknown coding with a length", "Transfer-Encoding: magic\r\nContent-Length: 2\r\n\r\nok", "ok", "", false, false},
	{"unknown coding, chunked", "Transfer-Encoding: magic, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", "ok", "", false, false},
	{"empty coding", "Transfer-Encoding:\r\nContent-Length: 2\r\n\r\nok", "ok", "", false, false},
	{"length twice in a line", "Content-Length: 2, 2\r\n\r\nok", "ok", "", false, false},
	{"length twice", "Content-Length: 2\r\nContent-Length: 2\r\n\r\nok", "ok", "", false, false},
	{"lengths differ", "Content-Length: 2\r\nContent-Length: 3\r\n\r\nok", "ok", lengths, true, false},
	{"lengths differ in a line", "Content-Length: 3, 2\r\n\r\nok!", "ok", lengths, true, false},
	{"no number", "Content-Length: two\r\n\r\nok", "ok", oneHeader, false, true},
	{"negative", "Content-Length: -2\r\n\r\nok", "ok", oneHeader, false, true},
	{"plus", "Content-Length: +2\r\n\r\nok", "ok", oneHeader, false, true},
	{"number and no number", "Content-Length: 2, x\r\n\r\nok", "ok", oneHeader, false, false},
	{"beyond int64", "Content-Length: 99999999999999999999\r\n\r\nok", "ok", oneHeader, false, true},
	{"no colon", "Content-Type: application/json;\r\ncharset=utf-8\r\nContent-Length: 2\r\n\r\nok", "ok", oneHeader, false, false},
	{"no name", ": x\r\nContent-Length: 2\r\n\r\nok", "ok", oneHeader, false, false},
	{"UTF-8 name", "X-Näme: b\r\nContent-Length: 2\r\n\r\nok", "ok", oneHeader, false, false},
	{"Latin-1 name", "X-N\xe4me: b\r\nContent-Length: 2\r\n\r\nok", "ok", oneHeader, false, false},
	{"blank in a name", "X Name: b\r\nContent-Length: 2\r\n\r\nok", "ok", oneHeader, false, false},
	{"blank before the colon", "X: y\r\nContent-Length : 2\r\n\r\nok", "ok", "", false, false},
	{"folded", "X-Long: a\r\n b\r\n\tc\r\nContent-Length: 2\r\n\r\nok", "ok", "", false, false},
	{"folded at once", " a\r\nContent-Length: 2\r\n\r\nok", "ok", "", false, false},
	{"folded length", "Content-Length:\r\n 2\r\n\r\nok", "ok", "", false, false},
	{"folded behind a bad one", "X-N\xe4me: b\r\n c: d\r\nContent-Length: 2\r\n\r\nok", "ok", oneHeader, false, false},
	{"NUL", "X: a\x00b\r\nContent-Length: 2\r\n\r\nok", "ok", oneHeader, false, false},
	{"bare CR", "X: a\rContent-Length: 9\r\nY: a\rb\r\nContent-Length: 2\r\n\r\nok", "ok", twoHeaders, false, false},
	{"large header", "Content-Length: 2\r\nX: " + strings.Repeat("x", 300_000) + "\r\n\r\nok", "ok", oneHeader, false, false},
	{"large folded header", "X: x" + strings.Repeat("\r\n "+strings.Repeat("x", 1000), 300) + "\r\nContent-Length: 2\r\n\r\nok", "ok", oneHeader, false, false},
	{"large header first, over 1 MiB", "X: " + strings.Repeat("x", 2<<20) + "\r\nContent-Length: 2\r\n\r\nok", "ok", oneHeader, false, false},
	{"large head", strings.Repeat("X: "+strings.Repeat("x", 60_000)+"\r\n", 5) + "Y: y\r\n\r\nok", "ok", oneHeader, false, true},
	{"head without end", strings.Repeat("X: "+strings.Repeat("x", 60_000)+"\r\n", 200), "", "", true, false},
	{"many headers", strings.Repeat("X:\r\n", 5_000) + "\r\nok", "ok", "", false, true},
	{"bad trailer", "Transfer-Encoding: chunked\r\nTrailer: Content-Length\r\n\r\n2\r\nok\r\n0\r\nno colon\r\n\r\n", "ok", "", false, false},
	{"no end of trailers", "Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n", "ok", "", false, true},
	{"half a head", "X: y\r\nContent-", "", isBroken, true, true},
	{"no head", "", "", isBroken, true, true},
	{"half a body", "Content-Length: 5\r\n\r\nok", "ok", isBroken, true, true},
	{"half of a large body", "Content-Length: 50000\r\n\r\nok", "ok", isBroken, true, true},
	{"half a chunk", "Transfer-Encoding: chunked\r\n\r\n5\r\nok", "ok", isBroken, true, true},
	{"no last chunk", "Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", "ok", isBroken, true, true},
	{"bad chunk size", "Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\nxyz\r\n", "ok", unreadable, true, false},
	{"negative chunk size", "Transfer-Encoding: chunked\r\n\r\n-2\r\nok\r\n", "", unreadable, true, false},
	{"large chunk size", "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nok\r\n", "", unreadable, true, false},
	{"no chunks", "Transfer-Encoding: chunked\r\n\r\n{\"ok\":true}\r\n", "", unreadable, true, false},
}

// If the status line of an answer arrived, the answer keeps its code, whatever follows. Its connection isn't
// reused.
func TestLenience(t *testing.T) {
	overBoth(t, func(t *testing.T, start func(func(int, net.Conn, *bufio.Reader)) (*rawUpstream, *Client)) {
		for _, v := range leniences {
			t.Run(v.name, func(t *testing.T) {
				u, c := start(func(n int, c net.Conn, r *bufio.Reader) {
					for i := 1; readRequest(r) != ""; i++ {
						if n*i > 1 {
							io.WriteString(c, okAnswer)
							continue
						}
						io.WriteString(c, "HTTP/1.1 201 Created\r\n"+v.rest)
						if v.closes {
							return
						}
					}
				})
				a := c.Do(t.Context(), newCall("POST", "/first", "{}"))
				expect(t, a, Answered, 201)
				if v.name == "head without end" {
					v.line = unreadable // after the headers that were read
					if !strings.HasSuffix(a.Line, "could not be read"+unreadable) && !strings.HasSuffix(a.Line, unreadable) {
						t.Errorf("line %q", a.Line)
					}
					a.Line = "Created" + unreadable
				}
				if string(a.Body) != v.body || a.Line != "Created"+v.line || a.Incomplete != v.incomplete {
					t.Errorf("line %q, body %q, incomplete %v; want %q, %q, %v", a.Line, a.Body, a.Incomplete, "Created"+v.line, v.body, v.incomplete)
				}
				if b := c.Do(t.Context(), newCall("POST", "/second", "{}")); b.Code != 200 || string(b.Body) != "ok" {
					t.Errorf("the second answer is %d %q %q", b.Code, b.Line, b.Body)
				}
				if n := u.conns.Load(); n != 2 {
					t.Errorf("%d connections", n)
				}
			})
		}
	})
}

// The readable part of an irregular head is kept.
func TestLenientHeaders(t *testing.T) {
	u := newRaw(t, func(_ int, c net.Conn, r *bufio.Reader) {
		readRequest(r)
		io.WriteString(c, "HTTP/1.1 201 Created\r\nLocation: /p/1\r\ncharset\r\nX-Long: a\r\n  b \r\nX-Size : 1\r\nX-Umlaut: \xe4\r\nContent-Length: 0\r\n\r\n")
	})
	a := newClient(t, u.addr()).Do(t.Context(), newCall("POST", "/a", "{}"))
	expect(t, a, Answered, 201)
	for name, want := range map[string]string{"Location": "/p/1", "X-Long": "a b", "X-Size": "1", "X-Umlaut": "\xe4"} {
		if got := a.Header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}

// A connection is reused after a regular head that comes in pieces or exceeds the reader's buffer.
func TestLargeHeadsAreReused(t *testing.T) {
	for name, pieces := range map[string][]string{
		"in pieces":             {"HTTP/1.1 200 OK\r\nContent-", "Length: 2\r\n", "\r\no", "k"},
		"in pieces, chunked":    {"HTTP/1.1 200 OK\r\n", "Transfer-Encoding: chunked\r\n\r\n", "2\r\nok\r\n", "0\r\n", "\r\n"},
		"large":                 {"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 3*readBuffer) + "\r\nContent-Length: 2\r\n\r\nok"},
		"large, with trailers":  {"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 3*readBuffer) + "\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n2\r\nok\r\n0\r\nX: y\r\n\r\n"},
		"large, several fields": {"HTTP/1.1 200 OK\r\n" + strings.Repeat("Set-Cookie: a="+strings.Repeat("x", 1000)+"\r\n", 20) + "Content-Length: 2\r\n\r\nok"},
	} {
		t.Run(name, func(t *testing.T) {
			c := newClient(t, "upstream.invalid")
			conns := overPipes(c, func(there net.Conn) {
				for r := bufio.NewReader(there); readRequest(r) != ""; {
					for _, p := range pieces {
						io.WriteString(there, p)
					}
				}
			})
			for range 3 {
				if a := c.Do(t.Context(), newCall("POST", "/a", "{}")); a.Line != "OK" || string(a.Body) != "ok" {
					t.Errorf("%q, %q", a.Line, a.Body)
				}
			}
			if *conns != 1 {
				t.Errorf("%d connections", *conns)
			}
		})
	}
}

// TestContentEncoding checks that compressed bodies are decoded, up to the limit of an answer.
func TestContentEncoding(t *testing.T) {
	plain := []byte(strings.Repeat(`{"id":1}`, 10_000))
	encode := func(open func(io.Writer) io.WriteCloser, p []byte) []byte {
		var b bytes.Buffer
		w := open(&b)
		w.Write(p)
		w.Close()
		return b.Bytes()
	}
	gz := func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) }
	zl := func(w io.Writer) io.WriteCloser { return zlib.NewWriter(w) }
	raw := func(w io.Writer) io.WriteCloser { f, _ := flate.NewWriter(w, 5); return f }
	zs := func(w io.Writer) io.WriteCloser { z, _ := zstd.NewWriter(w); return z }
	br := func(w io.Writer) io.WriteCloser { return brotli.NewWriter(w) }
	brWide := func(w io.Writer) io.WriteCloser {
		return brotli.NewWriterOptions(w, brotli.WriterOptions{Quality: 5, LGWin: 24})
	}
	bomb := bytes.Repeat([]byte{0}, testLimit+1)
	const wrong = "Created; the answer isn't encoded as its Content-Encoding says"
	for _, v := range []struct {
		name, header string
		sent, body   []byte
		line         string
	}{
		{"gzip", "Content-Encoding: gzip", encode(gz, plain), plain, "Created"},
		{"x-gzip", "Content-Encoding: X-GZIP", encode(gz, plain), plain, "Created"},
		{"deflate", "Content-Encoding: deflate", encode(zl, plain), plain, "Created"},
		{"bare deflate", "Content-Encoding: deflate", encode(raw, plain), plain, "Created"},
		{"zstd", "Content-Encoding: zstd", encode(zs, plain), plain, "Created"},
		{"br", "Content-Encoding: br", encode(br, plain), plain, "Created"},
		{"br, gzip", "Content-Encoding: br, gzip", encode(gz, encode(br, plain)), plain, "Created"},
		{"br as large as the limit", "Content-Encoding: br", encode(br, bomb[1:]), bomb[1:], "Created"},
		{"br, a window of 16 MiB", "Content-Encoding: br", encode(brWide, plain), encode(brWide, plain), wrong},
		{"br, cut off", "Content-Encoding: br", encode(br, plain)[:20], encode(br, plain)[:20], wrong},
		{"br, bytes behind", "Content-Encoding: br", append(encode(br, plain), plain...), append(encode(br, plain), plain...), wrong},
		{"not br", "Content-Encoding: br", plain, plain, wrong},
		{"bomb, br", "Content-Encoding: br", encode(br, bomb), nil, ""},
		{"twice", "Content-Encoding: gzip, zstd", encode(zs, encode(gz, plain)), plain, "Created"},
		{"as a transfer coding", "Transfer-Encoding: gzip", encode(gz, plain), plain, "Created"},
		{"empty", "Content-Encoding: gzip", nil, nil, "Created"},
		{"as large as the limit", "Content-Encoding: gzip", encode(gz, bomb[1:]), bomb[1:], "Created"},
		{"not encoded", "Content-Encoding: gzip", plain, plain, wrong},
		{"cut off", "Content-Encoding: gzip", encode(gz, plain)[:50], encode(gz, plain)[:50], wrong},
		{"unknown", "Content-Encoding: utf-8", plain, plain, "Created"},
		{"bomb, gzip", "Content-Encoding: gzip", encode(gz, bomb), nil, ""},
		{"bomb, deflate", "Content-Encoding: deflate", encode(zl, bomb), nil, ""},
		{"bomb, zstd", "Content-Encoding: zstd", encode(zs, bomb), nil, ""},
	} {
		t.Run(v.name, func(t *testing.T) {
			raw := newRaw(t, func(_ int, c net.Conn, r *bufio.Reader) {
				readRequest(r)
				fmt.Fprintf(c, "HTTP/1.1 201 Created\r\n%s\r\nContent-Length: %d\r\n\r\n%s", v.header, len(v.sent), v.sent)
			})
			served, _ := newServed(t, func(w http.ResponseWriter, _ *http.Request) {
				name, value, _ := strings.Cut(v.header, ": ")
				w.Header().Set(strings.Replace(name, "Transfer", "Content", 1), value)
				w.WriteHeader(201)
				w.Write(v.sent)
			})
			for _, c := range []*Client{newClient(t, raw.addr()), served} {
				b := budget.New(8<<20, 4<<20)
				call := newCall("POST", "/a", "{}")
				call.Memory = b.Share("s")
				a := c.Do(t.Context(), call)
				if v.line == "" {
					expect(t, a, TooLarge, 502, "the upstream answered 201")
				} else {
					expect(t, a, Answered, 201)
				}
				if !bytes.Equal(a.Body, v.body) || v.line != "" && a.Line != v.line {
					t.Errorf("line %q, %d bytes; want %q, %d", a.Line, len(a.Body), v.line, len(v.body))
				}
				if decoded := v.line == "Created" && v.name != "unknown" && v.body != nil; decoded && a.Header.Get("Content-Encoding") != "" {
					t.Error("the decoded answer still has a Content-Encoding")
				}
				if held := call.Memory.Held(); held < int64(len(a.Body)) {
					t.Errorf("%d bytes hold %d", len(a.Body), held)
				}
			}
		})
	}
}
