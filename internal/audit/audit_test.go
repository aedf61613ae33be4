package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
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

var at = netip.MustParseAddr("192.0.2.1")

func TestLines(t *testing.T) {
	var out disk
	l := New(&out, slog.New(slog.DiscardHandler))
	l.Add(Event{Action: "create", Store: "1", Who: "importer", Address: at, Ticket: "t", Group: "g\n\"", Status: 200})
	l.Add(Event{Action: "stop", Store: "1", Who: "a", Address: at, Status: 403})
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

// A read is written down once a minute for each caller, batch and outcome; everything else always.
func TestRepeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out disk
		l := New(&out, slog.New(slog.DiscardHandler))
		count := func(e Event) int {
			before := strings.Count(out.String(), "\n")
			for range 3 {
				l.Add(e)
			}
			return strings.Count(out.String(), "\n") - before
		}
		status := Event{Action: "status", Store: "1", Who: "a", Ticket: "t", Address: at, Status: 200}
		for name, c := range map[string]struct {
			e    Event
			want int
		}{"create": {Event{Action: "create", Store: "1", Address: at}, 3}, "delete": {Event{Action: "delete", Store: "1", Address: at}, 3}, "stop": {Event{Action: "stop", Store: "1", Address: at}, 3}} {
			if got := count(c.e); got != c.want {
				t.Errorf("%s: %d lines", name, got)
			}
		}
		other, refused, batch := status, status, status
		other.Who, refused.Status, batch.Ticket = "b", 404, "u"
		for _, e := range []Event{status, other, refused, batch, {Action: "search", Store: "1", Who: "a", Address: at, Status: 200}} {
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

// A full disk is told once, and how much was lost when there is room again.
func TestFullDisk(t *testing.T) {
	var out disk
	var own bytes.Buffer
	l := New(&out, slog.New(slog.NewTextHandler(&own, nil)))
	out.full = true
	for range 3 {
		l.Add(Event{Action: "create", Store: "1", Address: at})
	}
	if n := strings.Count(own.String(), "can't be written"); n != 1 {
		t.Errorf("told %d times: %s", n, own.String())
	}
	out.full = false
	l.Add(Event{Action: "create", Store: "2", Address: at})
	if !strings.Contains(own.String(), "lines_lost=3") || !strings.Contains(out.String(), `"store":"2"`) {
		t.Errorf("%s\n%s", own.String(), out.String())
	}
}
