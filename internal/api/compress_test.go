package api

import (
	"io"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/sheafapi/sheaf/internal/api/reply"
)

// decode undoes a coding.
func decode(t *testing.T, c reply.Coding, body string) string {
	t.Helper()
	var plain io.Reader = strings.NewReader(body)
	switch c {
	case reply.Gzip:
		z, err := gzip.NewReader(plain)
		if err != nil {
			t.Fatal(err)
		}
		z.Multistream(false) // expect a single member, because not every client reads a second one
		plain = z
	case reply.Zstd:
		z, err := zstd.NewReader(plain)
		if err != nil {
			t.Fatal(err)
		}
		defer z.Close()
		plain = z
	case reply.Identity:
	}
	out, err := io.ReadAll(plain)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// TestCompressed: an answer is the same in every coding, whole or in pieces.
func TestCompressed(t *testing.T) {
	w := newWorld(t, nil)
	small := w.create("", 2)
	w.finish(w.claim(), "")
	medium, c := w.large(40, 40, 1000)
	w.finish(c, "")
	large, _ := w.large(60, 50, 150_000)
	for _, b := range []struct {
		name, ticket string
		pieces       bool
	}{{"small", small, false}, {"medium", medium, false}, {"large", large, true}} {
		target := base + "?ticket=" + b.ticket
		want := w.do("GET", target)
		if want.header.Get("Vary") != "Accept, Accept-Encoding" || want.header.Get("Content-Encoding") != "" {
			t.Errorf("%s: %v", b.name, want.header)
		}
		for _, coding := range []reply.Coding{reply.Gzip, reply.Zstd} {
			ask := func(method string) response {
				r := w.request(method, target, nil)
				r.Header.Set("Accept-Encoding", string(coding))
				return w.send(r)
			}
			got := ask("GET")
			if len(want.body) < 1<<10 {
				if got.header.Get("Content-Encoding") != "" || got.body != want.body {
					t.Errorf("%s, %s: %v", b.name, coding, got.header)
				}
				continue
			}
			if got.header.Get("Content-Encoding") != string(coding) || got.header.Get("Vary") != "Accept, Accept-Encoding" {
				t.Errorf("%s, %s: %v", b.name, coding, got.header)
			}
			if (got.header.Get("Content-Length") == "") != b.pieces {
				t.Errorf("%s, %s: Content-Length %q", b.name, coding, got.header.Get("Content-Length"))
			}
			if decode(t, coding, got.body) != want.body {
				t.Errorf("%s, %s: the answer differs", b.name, coding)
			}
			if len(got.body) > len(want.body)/2 {
				t.Errorf("%s, %s: %d bytes of %d", b.name, coding, len(got.body), len(want.body))
			}
			if head := ask("HEAD"); head.status != 200 || head.body != "" {
				t.Errorf("%s, %s: HEAD %d", b.name, coding, head.status)
			}
		}
	}
}

// TestNotCompressed: errors, and answers to methods other than GET, aren't compressed.
func TestNotCompressed(t *testing.T) {
	w := newWorld(t, nil)
	for _, r := range []struct{ method, target string }{
		{"GET", base + "?ticket=1"}, {"GET", "/healthz"}, {"DELETE", base + "?ticket=1"}, {"GET", base + "?" + strings.Repeat("x", 5000)},
	} {
		request := w.request(r.method, r.target, nil)
		request.Header.Set("Accept-Encoding", "gzip, zstd")
		if a := w.send(request); a.header.Get("Content-Encoding") != "" {
			t.Errorf("%s %.40s: %v", r.method, r.target, a.header)
		}
	}
}
