package api

import (
	"net/http"
	"strings"
	"testing"
)

func TestStatusType(t *testing.T) {
	for accept, want := range map[string]string{ // lines, with | between
		"":                                       jsonType,
		"application/json":                       jsonType,
		"text/event-stream":                      eventsType,
		"application/x-ndjson":                   linesType,
		"Application/X-NDJSON; Q=0.1":            linesType,
		"text/event-stream; charset=utf-8":       eventsType,
		"application/json; charset=utf-8":        jsonType,
		`text/event-stream; x="a,b;q=0"`:         eventsType,
		"text/html":                              jsonType, // nothing that it accepts
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
		// By order where the quality is the same, as generated clients write it.
		"application/json, application/x-ndjson, text/event-stream": jsonType,
		"application/json, text/event-stream, application/x-ndjson": jsonType,
		"application/json,application/x-ndjson;q=1.0":               jsonType,
		"text/event-stream, application/json":                       eventsType,
		"application/x-ndjson;q=0.9, application/json;q=0.9":        linesType,
		// In several lines.
		"application/json;q=0.1|text/event-stream": eventsType,
		"application/json|text/event-stream":       jsonType,
		"text/html|application/x-ndjson;q=0.2":     linesType,
		// What is malformed counts as absent, and takes nothing else with it.
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
		if got := statusType(h); got != want {
			t.Errorf("Accept: %s: %s, want %s", accept, got, want)
		}
	}
}

func FuzzStatusType(f *testing.F) {
	f.Add(`text/event-stream;q=0.1, application/json;x="a\",b";q=1,*/*`)
	f.Fuzz(func(t *testing.T, accept string) {
		switch got := statusType(http.Header{"Accept": {accept}}); got {
		case jsonType, linesType, eventsType:
		default:
			t.Errorf("%q: %q", accept, got)
		}
	})
}
