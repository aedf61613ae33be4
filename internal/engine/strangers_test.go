package engine

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sheafapi/sheaf/internal/storage"
)

// TestStrangersWaitBehindOthers checks that eight hundred made-up tokens, each with its own store, don't
// delay an owner whose token the upstream has accepted before.
func TestStrangersWaitBehindOthers(t *testing.T) {
	scenario(t, "made-up tokens", func(t *testing.T, w *world) {
		w.shutdown()
		w.options.QueuesAtOnce, w.options.Strangers = 8, true
		w.start()
		expectNow := func(what, want string, m *testBatch) {
			t.Helper()
			synctest.Wait()
			expect(t, what, w.outcome(m), want)
		}
		expectNow("the owner's first batch", "200", w.create("known", stop, "GET"))
		for range 800 {
			w.up.script(len(w.batches), 0, step{answered(401), 100 * time.Millisecond})
			w.create(fmt.Sprint("made-up", len(w.batches)), goOn, "POST", "POST", "POST")
		}
		w.pass(time.Second)
		b := w.create("known", stop, "GET")
		w.pass(150 * time.Millisecond) // one of the strangers' requests may have to finish first
		expectNow("the owner's next batch", "200", b)
		w.pass(20 * time.Second)
		for _, m := range w.batches[1:801] {
			expect(t, "a made-up token", w.outcome(m), "401! - -")
		}
		if n := len(w.up.ledger); n != 802 {
			t.Errorf("%d attempts, want one for each made-up token and two", n)
		}
		if e := w.engine; e.strangers.running != 0 || e.strangers.line.n != 0 {
			t.Errorf("at the end, %d strangers run and %d wait", e.strangers.running, e.strangers.line.n)
		}
	})
}

// TestStrangersAreServed checks that a stranger gets a place even when others always have work. Once the
// upstream has accepted its token, it is no longer a stranger.
func TestStrangersAreServed(t *testing.T) {
	scenario(t, "beside busy owners", func(t *testing.T, w *world) {
		w.shutdown()
		w.options.QueuesAtOnce, w.options.Strangers = 2, true
		w.start()
		for i := range 6 {
			for j := range 100 {
				w.up.script(i, j, step{answered(200), 100 * time.Millisecond})
			}
			w.create(fmt.Sprint("busy", i), stop, posts(100)...)
		}
		w.pass(5 * time.Second) // now the upstream has accepted them
		b := w.create("new", stop, "GET")
		w.pass(10 * time.Second)
		expect(t, "the new owner", w.outcome(b), "200")
		if !w.engine.Accepted(b.key.Owner) {
			t.Error("an owner with an answer 200 is a stranger")
		}
		w.pass(time.Minute)
		for i := range 6 {
			expect(t, "a busy owner", w.outcome(w.batches[i]), strings.TrimSpace(strings.Repeat("200 ", 100)))
		}
	})
}

// TestStoreLine checks that stores take turns in the line of strangers (owners whose token the upstream
// hasn't accepted yet). A thousand tokens of one store get as many turns as one token of another.
func TestStoreLine(t *testing.T) {
	var l storeLine
	for i := range 1000 {
		l.push("attacked", storage.QueueID(i))
	}
	l.push("other", 5000)
	l.push("attacked", 1000)
	var got []storage.QueueID
	for l.n > 0 {
		got = append(got, l.pop())
	}
	if len(got) != 1002 || got[0] != 0 || got[1] != 5000 || got[2] != 1 || got[1001] != 1000 {
		t.Errorf("%d queues: %v…", len(got), got[:3])
	}
	if len(l.stores) != 0 || len(l.queues) != 0 {
		t.Error("something is left of the line")
	}
}
