package api

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

func TestNegotiate(t *testing.T) {
	for _, c := range []struct {
		accept string // lines, with | between; "-": no header
		want   coding
	}{
		{"-", identity},
		{"", identity},
		{"gzip", gzipCoding},
		{"GZIP", gzipCoding},
		{"x-gzip", gzipCoding},
		{"zstd", zstdCoding},
		{"gzip, zstd", zstdCoding},
		{"gzip, deflate, br, zstd", zstdCoding},
		{"gzip|zstd", zstdCoding},
		{"zstd;q=0.5, gzip", gzipCoding},
		{"zstd;q=0.5, gzip;q=0.4", zstdCoding},
		{"gzip;q=0", identity},
		{"gzip ; q=0.0", identity},
		{"gzip; Q=1.0", gzipCoding},
		{"gzip;q=0.001", gzipCoding},
		{"identity, gzip;q=0.5", identity},
		{"identity;q=0.5, gzip;q=0.5", gzipCoding},
		{"identity;q=0", identity},
		{"*", zstdCoding},
		{"*;q=0", identity},
		{"*, zstd;q=0", gzipCoding},
		{"zstd;q=0, *;q=0.3", gzipCoding},
		{"br, deflate, compress", identity},
		{"gzip;q=x", identity},
		{"gzip;q=-1", identity},
		{"gzip;q=2", identity},
		{"gzip;q=NaN", identity},
		{"gzip;level=9", gzipCoding},
		{",,;;=,gzip,", gzipCoding},
		{"gzipzstd", identity},
	} {
		var accept []string
		if c.accept != "-" {
			accept = strings.Split(c.accept, "|")
		}
		if got := negotiate(accept); got != c.want {
			t.Errorf("Accept-Encoding %q: %q, want %q", c.accept, got, c.want)
		}
	}
}

func FuzzNegotiate(f *testing.F) {
	f.Add("gzip;q=0.5, zstd")
	f.Fuzz(func(t *testing.T, accept string) {
		if c := negotiate([]string{accept}); c != identity && !strings.Contains(strings.ToLower(accept), string(c)) && !strings.Contains(accept, "*") {
			t.Errorf("%q has never been asked for by %q", c, accept)
		}
	})
}

// decode undoes a coding.
func decode(t *testing.T, c coding, body string) string {
	t.Helper()
	var plain io.Reader = strings.NewReader(body)
	switch c {
	case gzipCoding:
		z, err := gzip.NewReader(plain)
		if err != nil {
			t.Fatal(err)
		}
		z.Multistream(false) // there is one member: not every client reads a second one
		plain = z
	case zstdCoding:
		z, err := zstd.NewReader(plain)
		if err != nil {
			t.Fatal(err)
		}
		defer z.Close()
		plain = z
	case identity:
	}
	out, err := io.ReadAll(plain)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// An answer is the same in every coding, sent whole or in pieces.
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
		for _, coding := range []coding{gzipCoding, zstdCoding} {
			ask := func(method string) reply {
				r := w.request(method, target, nil)
				r.Header.Set("Accept-Encoding", string(coding))
				return w.send(r)
			}
			got := ask("GET")
			if len(want.body) < worthCompressing {
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
				t.Errorf("%s, %s: another answer", b.name, coding)
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

// Errors and answers to anything but GET are sent as they are.
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

// A compressor holds nothing of what it has sent: readers that are slow cost no memory.
func TestCompressorHoldsNothing(t *testing.T) {
	piece := bytes.Repeat([]byte(`{"id":1,"text":"something"},`), 10_000)
	for _, coding := range []coding{gzipCoding, zstdCoding} {
		z := newCompressor(coding)
		for range 3 {
			z.piece(piece, false, func(out []byte) {
				if len(out) == 0 || len(out) > len(piece)/10 {
					t.Errorf("%s: %d bytes became %d", coding, len(piece), len(out))
				}
			})
			if z.out != nil {
				t.Errorf("%s: it holds %d bytes", coding, len(z.out))
			}
		}
	}
}
