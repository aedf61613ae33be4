package reply

import (
	"net/http"
	"strings"
	"testing"
)

func TestMediaType(t *testing.T) {
	for accept, want := range map[string]string{ // header lines, separated by |
		"":                                       jsonType,
		"application/json":                       jsonType,
		"text/event-stream":                      eventsType,
		"application/x-ndjson":                   linesType,
		"Application/X-NDJSON; Q=0.1":            linesType,
		"text/event-stream; charset=utf-8":       eventsType,
		"application/json; charset=utf-8":        jsonType,
		`text/event-stream; x="a,b;q=0"`:         eventsType,
		"text/html":                              jsonType, // it accepts nothing that we send
		"text/html, */*;q=0.8":                   jsonType,
		"*/*":                                    jsonType,
		"application/*":                          jsonType,
		"text/*":                                 eventsType,
		"text/event-stream, */*":                 eventsType,
		"application/json, text/plain, */*":      jsonType,
		"*/*, application/json;q=0":              linesType,
		"*/*, text/event-stream;q=0":             jsonType,
		"text/event-stream;q=0":                  jsonType,
		"text/event-stream;q=0.000":              jsonType,
		"application/x-ndjson;q=0, text/*;q=0.1": eventsType,
		// By quality.
		"application/json;q=1, text/event-stream;q=0.1":       jsonType,
		"text/event-stream;q=0.1, application/json;q=1":       jsonType,
		"text/event-stream;q=0.1,application/json":            jsonType,
		"application/json;q=0.5, application/x-ndjson":        linesType,
		"application/json;q=0.5, text/event-stream;q=0.6":     eventsType,
		"application/json ; q=0.001, text/event-stream ; q=0": jsonType,
		// By order if the qualities are equal, as in the headers of generated clients.
		"application/json, application/x-ndjson, text/event-stream": jsonType,
		"application/json, text/event-stream, application/x-ndjson": jsonType,
		"application/json,application/x-ndjson;q=1.0":               jsonType,
		"text/event-stream, application/json":                       eventsType,
		"application/x-ndjson;q=0.9, application/json;q=0.9":        linesType,
		// In several lines.
		"application/json;q=0.1|text/event-stream": eventsType,
		"application/json|text/event-stream":       jsonType,
		"text/html|application/x-ndjson;q=0.2":     linesType,
		// Malformed elements count as absent and don't affect the others.
		"text/event-stream;q=abc":                 jsonType,
		"text/event-stream;q=2":                   jsonType,
		"text/event-stream;q=-1":                  jsonType,
		"text/event-stream;q=NaN":                 jsonType,
		"text/event-stream;q=0.1234":              jsonType,
		"text/event-stream;q=":                    jsonType,
		"text/event-stream;q=1 x":                 jsonType,
		"event-stream":                            jsonType,
		"*/event-stream":                          jsonType,
		",":                                       jsonType,
		", text/event-stream,,":                   eventsType,
		"nonsense, application/x-ndjson":          linesType,
		"application/json;q=x, text/event-stream": eventsType,
		`text/event-stream;x="`:                   jsonType,
		"\x00, application/x-ndjson":              linesType,
	} {
		h := http.Header{}
		for line := range strings.SplitSeq(accept, "|") {
			if accept != "" {
				h.Add("Accept", line)
			}
		}
		if got := mediaType(h); got != want {
			t.Errorf("Accept: %s: %s, want %s", accept, got, want)
		}
	}
}

func FuzzMediaType(f *testing.F) {
	f.Add(`text/event-stream;q=0.1, application/json;x="a\",b";q=1,*/*`)
	f.Fuzz(func(t *testing.T, accept string) {
		switch got := mediaType(http.Header{"Accept": {accept}}); got {
		case jsonType, linesType, eventsType:
		default:
			t.Errorf("%q: %q", accept, got)
		}
	})
}

func TestNegotiate(t *testing.T) {
	for _, c := range []struct {
		accept string // header lines, separated by |; "-": no header
		want   Coding
	}{
		{"-", Identity},
		{"", Identity},
		{"gzip", Gzip},
		{"GZIP", Gzip},
		{"x-gzip", Gzip},
		{"zstd", Zstd},
		{"gzip, zstd", Zstd},
		{"gzip, deflate, br, zstd", Zstd},
		{"gzip|zstd", Zstd},
		{"zstd;q=0.5, gzip", Gzip},
		{"zstd;q=0.5, gzip;q=0.4", Zstd},
		{"gzip;q=0", Identity},
		{"gzip ; q=0.0", Identity},
		{"gzip; Q=1.0", Gzip},
		{"gzip;q=0.001", Gzip},
		{"identity, gzip;q=0.5", Identity},
		{"identity;q=0.5, gzip;q=0.5", Gzip},
		{"identity;q=0", Identity},
		{"*", Zstd},
		{"*;q=0", Identity},
		{"*, zstd;q=0", Gzip},
		{"zstd;q=0, *;q=0.3", Gzip},
		{"br, deflate, compress", Identity},
		{"gzip;q=x", Identity},
		{"gzip;q=-1", Identity},
		{"gzip;q=2", Identity},
		{"gzip;q=NaN", Identity},
		{"gzip;level=9", Gzip},
		{",,;;=,gzip,", Gzip},
		{"gzipzstd", Identity},
	} {
		h := http.Header{}
		if c.accept != "-" {
			h["Accept-Encoding"] = strings.Split(c.accept, "|")
		}
		if got := Negotiate(h); got != c.want {
			t.Errorf("Accept-Encoding %q: %q, want %q", c.accept, got, c.want)
		}
	}
}

func FuzzNegotiate(f *testing.F) {
	f.Add("gzip;q=0.5, zstd")
	f.Fuzz(func(t *testing.T, accept string) {
		if c := Negotiate(http.Header{"Accept-Encoding": {accept}}); c != Identity && !strings.Contains(strings.ToLower(accept), string(c)) && !strings.Contains(accept, "*") {
			t.Errorf("%q isn't among %q", c, accept)
		}
	})
}

func TestUnchanged(t *testing.T) {
	const tag = `W/"2-3-3-ab"`
	for known, want := range map[string]bool{
		"": false, tag: true, `"2-3-3-ab"`: true, "*": true, `"a,b" , W/"2-3-3-ab"`: true, `"x"|*`: true, `"x"`: false, `W/"2-3-3-AB"`: false, ",": false,
	} {
		if got := Unchanged(http.Header{"If-None-Match": strings.Split(known, "|")}, tag); got != want {
			t.Errorf("If-None-Match: %s: %v", known, got)
		}
	}
}

func TestPreferredWait(t *testing.T) {
	for prefer, want := range map[string]uint64{
		"wait=10": 10, "respond-async, Wait = 30": 30, `wait="7"; a=b`: 7, "wait=soon, wait=5": 5, "x=y|wait=3": 3, "wait=0": 0,
	} {
		if got, given := PreferredWait(http.Header{"Prefer": strings.Split(prefer, "|")}); got != want || !given {
			t.Errorf("Prefer: %s: %d %v", prefer, got, given)
		}
	}
	for _, prefer := range []string{"", "wait", "wait=", "wait=-1", "wait=soon", "x=y", ",;="} {
		if got, given := PreferredWait(http.Header{"Prefer": {prefer}}); given {
			t.Errorf("Prefer: %s: %d", prefer, got)
		}
	}
}
