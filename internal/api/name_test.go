package api

import (
	"net/url"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// TestControlCharacters: names that other people see may not contain characters that control a
// terminal or a page. The error names the character and its place.
func TestControlCharacters(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.CheckCallback = func(string) error { return nil } })
	ended := w.create("", 1)
	w.complete(w.claim(), done(0, 404, ""))
	for text, want := range map[string]string{
		"\x00":            "U+0000 at byte 0",
		"a\x1b[31mb":      "U+001B at byte 1",
		"two\nlines":      "U+000A at byte 3",
		"a\tb":            "U+0009 at byte 1",
		"del\x7f":         "U+007F at byte 3",
		"ü\u009b":         "U+009B at byte 2",
		"gpj\u202egnp":    "U+202E at byte 3",
		"\u2066isolated":  "U+2066 at byte 0",
		"mark\u200f":      "U+200F at byte 4",
		"paragraph\u2029": "U+2029 at byte 9",
	} {
		for _, call := range []struct{ path, name string }{
			{"", "groupId"}, {"?dryRun=true", "groupId"}, {"", "callbackUrl"}, {"/retry?ticket=" + ended, "callbackUrl"}, {"/retry-matching", "callbackUrl"},
		} {
			value := text
			if call.name == "callbackUrl" {
				value = "https://example.com/" + text
			}
			separator := "?"
			if strings.Contains(call.path, "?") {
				separator = "&"
			}
			body := ""
			if call.path == "" || call.path == "?dryRun=true" {
				body = oneGet
			}
			target := call.path + separator + call.name + "=" + url.QueryEscape(value)
			a := w.do("POST", base+target)
			if body != "" {
				a = w.post(target, body)
			}
			if a.status != 400 || !strings.Contains(a.body, "Parameter "+call.name+" has the control character ") ||
				call.name == "groupId" && !strings.Contains(a.body, want) {
				t.Errorf("%s with %q: %d %s, want %s", call.path, value, a.status, a.body, want)
			}
		}
	}
	for _, text := range []string{"spring sale", "Ostern ü", "春", "a\u00a0b", "👩\u200d🔧"} {
		if a := w.post("?groupId="+url.QueryEscape(text), oneGet); a.status != 200 {
			t.Errorf("%q: %d %s", text, a.status, a.body)
		}
	}

	// A group that an older version accepted can still be stopped.
	old := &storage.NewBatch{
		Ticket: uuid.New(), Store: "12345", Owner: w.owner(), Queue: "old", GroupID: "a\x1b", Credential: []byte("sealed"),
		Requests: []batch.Request{{Method: "GET", Path: "a"}},
	}
	if _, err := w.node.Create(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	if a := w.do("POST", base+"/cancel-group?groupId=a%1B"); a.body != `{"updateCount":1}` {
		t.Errorf("%d %s", a.status, a.body)
	}
}
