package batch

import (
	"encoding/hex"
	"strings"
	"testing"
)

func TestCheckPathAccepts(t *testing.T) {
	for _, path := range []string{
		"products", "/products", "/", "products/", "products/1/images?x=/../a//b&y=%zz",
		"products?keyword=a+b%20c%26d%2Be", "a:b", "a:b/c", "a/b:c", "...", "a/..b/c..", "batches", "a/batch", "ba%74ches",
		"%C3%A9t%C3%A9", "latin%E9", "100%25", "%2541", "a;v=1/b", "a%2Fb", "a/{b}|'*,\"c\"", "?a=b", "a%20b",
		strings.Repeat("a", MaxPath),
	} {
		if err := CheckPath(path); err != nil {
			t.Errorf("%.80q is refused: it %v", path, err)
		}
	}
}

func TestCheckPathRefuses(t *testing.T) {
	tests := map[string][]string{
		"must not be empty":                {""},
		"must not be longer":               {strings.Repeat("a", MaxPath+1)},
		"must be relative":                 {"http://x/y", "HTTPS://x", "a+b://x"},
		"must not contain //":              {"//x", "a//b", "//", "a%2f/b", "a/%2Fb", "%2fa", "/%2fa", "%252fa", "http:%2f%2fx"},
		"must not contain a backslash":     {`a\b`, `..\b`},
		"must not contain an encoded back": {"a%5cb", "a%255Cb"},
		"must not contain a control":       {"a\nb", "a\x00", "\x7f", "a?b\r\nc"},
		"must not contain an encoded cont": {"a%00", "a%0d%0ab", "a%250ab", "a%7f"},
		"must not contain a raw space":     {"a b", "a?b c"},
		"must not contain raw non-ASCII":   {"é", "a?é", "\xff"},
		"must not contain a fragment":      {"a#b", "a?b#c"},
		"must not contain a %":             {"%", "a%", "a%2", "a%zz", "%u002e", "%2%65.", "%%32%65"},
		"must not contain an overlong":     {"%c0%ae%c0%ae/x", "a%c1%9cb", "%25c0%25ae"},
		`must not contain a "." or ".."`: {
			".", "..", "./a", "../a", "a/..", "a/./b", "/..", "%2e%2e", "%2E./a", "a/%252e%252e/b", "%25252e%25252e",
			"a%2f..%2fb", "..;x=1/a", "a/..%3bx", "a/.;x", "%25%32%65.",
		},
		"must not lead to the batch": {"batch", "/batch", "BATCH", "batch/", "batch/x", "b%61tch", "batch;v=1", "batch?ticket=x", "%2562atch%2fx"},
		"must not contain a segment": {"a/;x/b", ";x/batch"},
	}
	for want, paths := range tests {
		for _, path := range paths {
			if err := CheckPath(path); err == nil || !strings.HasPrefix(err.Error(), want) {
				t.Errorf("%.80q: got %v, want %s", path, err, want)
			}
		}
	}
}

// TestCheckPathAllocates checks that a path without an escape costs no allocation.
func TestCheckPathAllocates(t *testing.T) {
	if n := testing.AllocsPerRun(100, func() { _ = CheckPath("/products/17/combinations?fields=id,name") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// decodeUntilStable is a slow and obvious model of decodePath: it decodes the whole text in each round.
func decodeUntilStable(s string) string {
	for {
		var out []byte
		for i := 0; i < len(s); i++ {
			if i+2 < len(s) && s[i] == '%' {
				if b, err := hex.DecodeString(s[i+1 : i+3]); err == nil {
					out = append(out, b[0])
					i += 2
					continue
				}
			}
			out = append(out, s[i])
		}
		if string(out) == s {
			return s
		}
		s = string(out)
	}
}

// FuzzCheckPath checks accepted paths with the model. They must stay below their store's root, no matter
// how often they are decoded.
func FuzzCheckPath(f *testing.F) {
	for _, s := range []string{
		"products?x=%zz", "/a/b/", "%252e%252e/x", "a%2f..%3bx", "%25%32%65%2e", "b%61tch/x", "batch;v", "%2fa", "//", "a/;x",
		"http://x", "a:b", "%c0%ae", "a%5cb", "a b", "100%25", "%25252525252e.", "?", "..;/x", "a%00", "%A0", "é", "a#b",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		if CheckPath(path) != nil {
			return
		}
		if path == "" || len(path) > MaxPath || strings.ContainsFunc(path, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '#' }) {
			t.Fatalf("accepted %q", path)
		}
		before, _, _ := strings.Cut(path, "?")
		decoded := decodeUntilStable(strings.TrimPrefix(before, "/"))
		for _, c := range []byte(decoded) {
			if c < ' ' || c == 0x7f || c == '\\' || c == 0xc0 || c == 0xc1 {
				t.Fatalf("accepted %q, decoded %q", path, decoded)
			}
		}
		segments := strings.Split(decoded, "/")
		for i, segment := range segments {
			name, _, _ := strings.Cut(segment, ";")
			if name == "." || name == ".." || name == "" && i < len(segments)-1 || i == 0 && strings.EqualFold(name, "batch") {
				t.Fatalf("accepted %q with segment %q of %q", path, segment, decoded)
			}
		}
	})
}
