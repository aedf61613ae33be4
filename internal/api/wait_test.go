package api

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sheafapi/sheaf/internal/storage"
	"github.com/sheafapi/sheaf/internal/telemetry"
)

// waitFor releases the claimed queue, which then waits for the upstream or a credential.
func (w *world) waitFor(c *storage.Claim, reason storage.WaitReason) {
	w.t.Helper()
	c.Waits = reason
	if err := w.node.Release(w.t.Context(), c, nil, time.Now().Add(time.Hour)); err != nil {
		w.t.Fatal(err)
	}
	w.api.Hub.Changed(c.ID)
}

// TestWaitingFor: the details of each batch in a queue, the queue's state and the operator's view say
// what the queue waits for and since when, until the batch makes progress.
func TestWaitingFor(t *testing.T) {
	w := newWorld(t, func(o *Options) {
		o.AuthorizeOperator = func(*http.Request, string) error { return nil }
		o.Node = func() telemetry.Node {
			n := telemetry.Node{Version: "v1", Upstream: telemetry.Health{Codes: map[string]int{}}}
			n.Outage, n.Parked = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), 7
			return n
		}
	})
	first, second := w.create("", 2), w.create("", 1)
	targets := []string{base + "?details=true&ticket=" + first, base + "?details=true&ticket=" + second, base + "/queue", "/operator", base + "/timeline?ticket=" + first}
	expect := func(want string) {
		t.Helper()
		for _, target := range targets {
			body := w.do("GET", target).body
			if !strings.Contains(body, want) || want == "" && strings.Contains(body, "waitingFor") || strings.Contains(body, "waitsUntil") {
				t.Errorf("%s: %s", target, body)
			}
		}
	}
	for reason, word := range map[storage.WaitReason]string{storage.ForUpstream: "upstream", storage.ForCredential: "credential"} {
		expect("")
		c := w.claim()
		w.waitFor(c, reason)
		var got struct{ WaitingSince time.Time }
		if err := json.Unmarshal([]byte(w.do("GET", base+"/queue").body), &got); err != nil || time.Since(got.WaitingSince).Abs() > time.Hour {
			t.Fatalf("waitingSince: %v, %v", got, err)
		}
		expect(`"waitingFor":"` + word + `","waitingSince":"` + jsonTime(got.WaitingSince) + `"`)
		if a := w.do("GET", base+"?ticket="+first); strings.Contains(a.body, "waiting") {
			t.Errorf("without details: %s", a.body)
		}
		w.do("POST", base+"/pause")
		if a := w.do("GET", base+"/queue"); strings.Contains(a.body, "waiting") {
			t.Errorf("paused: %s", a.body)
		}
		w.do("POST", base+"/resume")
		c = w.claim()
		if err := w.node.Progress(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	expect("")
	if a := w.do("GET", "/operator"); !strings.Contains(a.body, `"outageSince":"2026-01-02T03:04:05.000Z","storesParked":7`) {
		t.Error(a.body)
	}
}

// TestWatchWait: a call with details that watches a batch is answered when the batch begins or ends to
// wait, and its ETag changes. A stream gets an event.
func TestWatchWait(t *testing.T) {
	w := newWorld(t, nil)
	ticket := w.create("", 2)
	events := make(chan event, 100)
	w.stream(ticket, "", events)
	tag := `"of long ago"`
	ask := func() <-chan response {
		r := w.request("GET", base+"?details=true&responses=false&wait=60&ticket="+ticket, nil)
		r.Header.Set("If-None-Match", tag)
		return w.answering(r)
	}
	expect := func(a response, waits bool) {
		t.Helper()
		if a.status != 200 || strings.Contains(a.body, "waitingFor") != waits || a.header.Get("ETag") == tag {
			t.Fatalf("%d %v %s", a.status, a.header, a.body)
		}
		tag = a.header.Get("ETag")
		if e := <-events; e.name != "waiting" || e.id != "" || strings.HasPrefix(e.data, `{"waitingFor":"upstream","waitingSince":"`) != waits || !waits && e.data != "{}" {
			t.Fatalf("event: %+v", e)
		}
	}
	tag = (<-ask()).header.Get("ETag")
	waiting := ask()
	w.watched(2)
	c := w.claim()
	w.waitFor(c, storage.ForUpstream)
	expect(<-waiting, true)
	waiting = ask()
	w.watched(2)
	c = w.claim()
	if err := w.node.Progress(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	w.api.Hub.Changed(c.ID)
	expect(<-waiting, false)

	w.waitFor(c, storage.ForUpstream)
	if e := <-events; e.name != "waiting" {
		t.Errorf("event: %+v", e)
	}
	again := make(chan event, 100)
	w.stream(ticket, "", again)
	if e := <-again; e.name != "waiting" || !strings.Contains(e.data, "upstream") {
		t.Errorf("a new stream begins with %+v", e)
	}
	c = w.claim()
	w.finish(c, "over")
	w.api.Hub.Changed(c.ID)
	for _, name := range []string{"response", "response", "end"} {
		if e := <-again; e.name != name {
			t.Errorf("event: %+v, want %s", e, name)
		}
	}
}
