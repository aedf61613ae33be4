package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// disk is a writer that fails while it is full.
type disk struct {
	bytes.Buffer
	full bool
}

func (d *disk) Write(p []byte) (int, error) {
	if d.full {
		return 0, errors.New("no space left")
	}
	return d.Buffer.Write(p)
}

// newLog returns a log whose events all come from one address.
func newLog(out io.Writer, own *slog.Logger) *Log {
	return New(out, own, func(*http.Request) netip.Addr { return netip.MustParseAddr("192.0.2.1") })
}

var request = &http.Request{}

func TestLines(t *testing.T) {
	var out disk
	l := newLog(&out, slog.New(slog.DiscardHandler))
	l.Add(request, Event{Action: "create", Store: "1", Who: "importer", Ticket: "t", Group: "g\n\"", Status: 200})
	l.Add(request, Event{Action: "stop", Store: "1", Who: "a", Status: 403})
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 2 {
		t.Fatalf("%q", lines)
	}
	var got map[string]any
	if err := json.Unmarshal([]byte(lines[0]), &got); err != nil {
		t.Fatal(err)
	}
	if _, err := time.Parse(time.RFC3339Nano, got["time"].(string)); err != nil {
		t.Error(err)
	}
	delete(got, "time")
	want := map[string]any{"action": "create", "store": "1", "who": "importer", "address": "192.0.2.1", "ticket": "t", "group": "g\n\"", "status": 200.0}
	if len(got) != len(want) {
		t.Errorf("%v", got)
	}
	for key := range want {
		if got[key] != want[key] {
			t.Errorf("%s is %v, want %v", key, got[key], want[key])
		}
	}
	if strings.Contains(lines[1], "ticket") || strings.Contains(lines[1], "group") {
		t.Errorf("%s", lines[1])
	}
}

// A read is logged once a minute for each caller, batch and outcome. Everything else is always logged.
func TestRepeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out disk
		l := newLog(&out, slog.New(slog.DiscardHandler))
		count := func(e Event) int {
			before := strings.Count(out.String(), "\n")
			for range 3 {
				l.Add(request, e)
			}
			return strings.Count(out.String(), "\n") - before
		}
		status := Event{Action: "status", Store: "1", Who: "a", Ticket: "t", Status: 200}
		for name, c := range map[string]struct {
			e    Event
			want int
		}{"create": {Event{Action: "create", Store: "1"}, 3}, "delete": {Event{Action: "delete", Store: "1"}, 3}, "stop": {Event{Action: "stop", Store: "1"}, 3}} {
			if got := count(c.e); got != c.want {
				t.Errorf("%s: %d lines", name, got)
			}
		}
		other, refused, batch := status, status, status
		other.Who, refused.Status, batch.Ticket = "b", 404, "u"
		for _, e := range []Event{status, other, refused, batch, {Action: "search", Store: "1", Who: "a", Status: 200}} {
			if got := count(e); got != 1 {
				t.Errorf("%+v: %d lines", e, got)
			}
		}
		<-time.After(repeatAfter)
		if got := count(status); got != 1 {
			t.Errorf("a minute later: %d lines", got)
		}
	})
}

// A full disk is reported once. When there is room again, the number of lost lines is reported.
func TestFullDisk(t *testing.T) {
	var out disk
	var own bytes.Buffer
	l := newLog(&out, slog.New(slog.NewTextHandler(&own, nil)))
	out.full = true
	for range 3 {
		l.Add(request, Event{Action: "create", Store: "1"})
	}
	if n := strings.Count(own.String(), "can't write to the audit log"); n != 1 {
		t.Errorf("reported %d times: %s", n, own.String())
	}
	out.full = false
	l.Add(request, Event{Action: "create", Store: "2"})
	if !strings.Contains(own.String(), "lines_lost=3") || !strings.Contains(out.String(), `"store":"2"`) {
		t.Errorf("%s\n%s", own.String(), out.String())
	}
}

// Without a writer, operators' calls and sign-ins are logged to the service's own log. Other calls
// aren't logged.
func TestWithoutWriter(t *testing.T) {
	var own bytes.Buffer
	l := newLog(nil, slog.New(slog.NewTextHandler(&own, nil)))
	for _, action := range []string{"create", "status", "operator/quarantine/end", "sign-in"} {
		l.Add(request, Event{Action: action, Status: 200})
	}
	if got := own.String(); strings.Count(got, "\n") != 2 || !strings.Contains(got, "action=operator/quarantine/end") || !strings.Contains(got, "action=sign-in") {
		t.Error(got)
	}
}
