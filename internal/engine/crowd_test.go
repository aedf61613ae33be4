package engine

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestCrowd checks that a store with five hundred tokens, all accepted by the upstream, runs a limited
// number of batches at a time. Other stores don't wait for it, and a known owner of the store goes before
// new ones.
func TestCrowd(t *testing.T) {
	scenario(t, "one store, many tokens", func(t *testing.T, w *world) {
		w.shutdown()
		w.options.QueuesAtOnce, w.options.MaxOutbound, w.options.Strangers = 640, 640, true
		w.options.Memory, w.options.LargestBatch = 64<<20, 1<<20 // enough for all, so that only places are scarce
		w.start()
		w.createAs("crowd", "crowd/known", stop, "GET")
		w.pass(1500 * time.Millisecond) // no scan at the same time finds queues before their store is known
		for i := range 500 {
			for j := range 2 {
				w.up.script(len(w.batches), j, step{answered(200), time.Second})
			}
			w.createAs("crowd", fmt.Sprint("crowd/", i), stop, "POST", "POST")
		}
		synctest.Wait()
		most := w.engine.mostOfStore()
		if most != 64 {
			t.Fatalf("one store may run %d of 640 queues", most)
		}
		if n := len(strings.Fields(w.sent())) - 1; n != most {
			t.Errorf("%d batches of one store run, want %d", n, most)
		}
		other := w.create("other", stop, "GET")
		known := w.createAs("crowd", "crowd/known", stop, "GET")
		synctest.Wait()
		expect(t, "another store", w.outcome(other), "200")
		w.pass(2500 * time.Millisecond)
		expect(t, "an owner that was known before", w.outcome(known), "200")
		w.pass(time.Minute)
		for _, m := range w.batches[1:501] {
			expect(t, "a token of the crowd", w.outcome(m), "200 200")
		}
		if c := &w.engine.crowds; len(c.admitted)+len(c.waiting) > 0 {
			t.Errorf("%d stores have queues at the end, and %d wait", len(c.admitted), len(c.waiting))
		}
	})
}

// TestCrowdTurns checks that a long batch returns its place to another token of its store.
func TestCrowdTurns(t *testing.T) {
	scenario(t, "all of a store's places are busy", func(t *testing.T, w *world) {
		w.shutdown()
		w.options.QueuesAtOnce, w.options.MaxOutbound, w.options.Strangers = 640, 640, true
		w.options.Memory, w.options.LargestBatch = 64<<20, 1<<20 // enough for all, so that only places are scarce
		w.start()
		for i := range 65 {
			for j := range 30 {
				w.up.script(i, j, step{answered(200), 100 * time.Millisecond})
			}
			w.createAs("crowd", fmt.Sprint("crowd/", i), stop, posts(30)...)
		}
		w.pass(3 * time.Second)
		if out := w.outcome(w.batches[64]); !strings.Contains(out, "200") {
			t.Errorf("the batch behind 64 others of its store has not begun after 3 s: %s", out)
		}
		w.pass(time.Minute)
		for _, m := range w.batches {
			expect(t, "a batch", w.outcome(m), strings.TrimSpace(strings.Repeat("200 ", 30)))
		}
	})
}

// TestExtrasOfStore checks that the parallel batches of one store share a quarter of the extra places
// evenly, and that the rest stays free for other stores.
func TestExtrasOfStore(t *testing.T) {
	x := newExtras(1000)
	take := func(s *share, want int) {
		t.Helper()
		n := 0
		for x.take(s) {
			n++
		}
		if n != want {
			t.Errorf("a batch got %d more places, want %d", n, want)
		}
	}
	first, second := x.join("crowd"), x.join("crowd")
	take(first, 250)
	take(second, 0)
	x.give(first, 200)
	select {
	case <-second.again:
	default:
		t.Error("the batch that was refused a place does not learn that one is free")
	}
	take(first, 75) // its equal share, because the other batch waits
	take(second, 125)
	take(x.join("other"), 250)
	x.leave(first)
	take(second, 125)
	x.leave(second)
	if x.free != 750 || len(x.stores) != 1 || x.shares != 1 {
		t.Errorf("%d places are free, of %d stores and %d shares", x.free, len(x.stores), x.shares)
	}
}
