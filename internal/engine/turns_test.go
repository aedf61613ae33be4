package engine

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sheafapi/sheaf/internal/outbound"
)

// TestPlaces checks that parallel batches whose upstream hangs leave places for other stores.
func TestPlaces(t *testing.T) {
	scenario(t, "for the first requests of other stores", func(t *testing.T, w *world) {
		w.shutdown()
		w.options.MaxOutbound = 40
		w.start()
		for b := range 3 {
			for i := range 100 {
				w.up.script(b, i, step{noAnswer(outbound.Doubt, 504), 30 * time.Second})
			}
			w.create("busy"+string(rune('0'+b)), parallel, posts(100)...)
		}
		synctest.Wait()
		if n := len(strings.Fields(w.sent())); n < 30 || n > 33 {
			t.Errorf("%d requests in flight, want about three quarters of 40", n)
		}
		for range 5 {
			b := w.create("quick", stop, posts(1)...)
			synctest.Wait()
			expect(t, "another store", w.outcome(b), "200")
		}
		w.pass(10 * time.Minute)
		for b := range 3 {
			if st := w.status(w.batches[b]); st.Completed != 100 {
				t.Errorf("%[2]d requests of batch %[1]d have ended", b, st.Completed)
			}
		}
	})
}

func TestTurns(t *testing.T) {
	scenario(t, "a busy store returns its place after its turn", func(t *testing.T, w *world) {
		w.shutdown()
		w.options.QueuesAtOnce = 1
		w.start()
		for i := range 100 {
			w.up.script(0, i, step{answered(200), 100 * time.Millisecond})
		}
		a := w.create("busy", stop, posts(100)...)
		synctest.Wait()
		b := w.create("new", stop, "POST")
		w.pass(2200 * time.Millisecond)
		expect(t, "new store", w.outcome(b), "200")
		w.pass(10 * time.Second)
		expect(t, "busy store", w.outcome(a), strings.TrimSpace(strings.Repeat("200 ", 100)))
		if n := len(w.up.ledger); n != 101 {
			t.Errorf("%d attempts, want 101", n)
		}
	})
}

// TestTurnsBetweenBatches is TestTurns with a store that has many batches instead of one with many requests.
func TestTurnsBetweenBatches(t *testing.T) {
	scenario(t, "many small batches", func(t *testing.T, w *world) {
		w.shutdown()
		w.options.QueuesAtOnce = 1
		w.start()
		for i := range 100 {
			w.up.script(i, 0, step{answered(200), 100 * time.Millisecond})
			w.create("busy", stop, "POST")
		}
		b := w.create("new", stop, "POST")
		w.pass(2200 * time.Millisecond)
		expect(t, "new store", w.outcome(b), "200")
		w.pass(10 * time.Second)
		expect(t, "busy store's last", w.outcome(w.batches[99]), "200")
	})
}

// TestMemory checks that batches that don't fit in memory together take turns, and that a batch larger than
// all of the memory also runs.
func TestMemory(t *testing.T) {
	scenario(t, "turns", func(t *testing.T, w *world) {
		w.shutdown()
		w.options.Memory = 6 * 520
		w.start()
		for b := range 3 {
			for i := range 100 {
				w.up.script(b, i, step{answered(200), 100 * time.Millisecond})
			}
		}
		busy := w.create("busy", stop, posts(5)...)
		synctest.Wait()
		large := w.create("large", stop, posts(100)...)
		small := w.create("small", stop, posts(5)...)
		synctest.Wait()
		expect(t, "at first", w.sent(), "0/0")
		w.stopBatch(large)
		w.create("large", stop, posts(100)...)
		w.pass(time.Second)
		expect(t, "the busy one", w.outcome(busy), "200 200 200 200 200")
		w.pass(time.Minute)
		expect(t, "the small one", w.outcome(small), "200 200 200 200 200")
		expect(t, "the last of all", w.outcome(w.batches[3]), strings.TrimSpace(strings.Repeat("200 ", 100)))
	})
}

// TestFresh checks that a store that was idle starts within one turn, no matter how many stores are busy. A
// busy store also makes progress while many stores that were idle start.
func TestFresh(t *testing.T) {
	scenario(t, "behind many busy stores", func(t *testing.T, w *world) {
		w.shutdown()
		w.options.QueuesAtOnce = 5
		w.start()
		for b := range 40 {
			for i := range 100 {
				w.up.script(b, i, step{answered(200), 20 * time.Millisecond})
			}
			w.create(fmt.Sprint("busy", b), stop, posts(100)...)
		}
		w.pass(30 * time.Second) // every store has had a turn
		b := w.create("new", stop, "POST")
		w.pass(turn + 100*time.Millisecond)
		expect(t, "new store", w.outcome(b), "200")
		w.pass(5 * time.Minute)
	})
	scenario(t, "a busy store among many idle ones", func(t *testing.T, w *world) {
		w.shutdown()
		w.options.QueuesAtOnce = 1
		w.start()
		for i := range 100 {
			w.up.script(0, i, step{answered(200), 100 * time.Millisecond})
		}
		busy := w.create("busy", stop, posts(100)...)
		synctest.Wait()
		for range 30 { // every second 10 new stores each take a tenth of it
			for range 10 {
				n := len(w.batches)
				w.up.script(n, 0, step{answered(200), 100 * time.Millisecond})
				w.create(fmt.Sprint("new", n), stop, "POST")
			}
			w.pass(time.Second)
		}
		if n := w.status(busy).Completed; n < 60 {
			t.Errorf("the busy store has completed %d requests in 30 s", n)
		}
		w.pass(5 * time.Minute)
	})
}

// TestShares checks that parallel batches share the places evenly, whichever came first.
func TestShares(t *testing.T) {
	scenario(t, "evenly", func(t *testing.T, w *world) {
		w.shutdown()
		w.options.MaxOutbound = 100
		w.start()
		latency := 100 * time.Millisecond
		for b := range 4 {
			for i := range 500 {
				w.up.script(b, i, step{answered(200), latency})
			}
		}
		first := w.create("first", parallel, posts(500)...)
		w.pass(latency / 2)
		for _, store := range []string{"b", "c", "d"} {
			w.create(store, parallel, posts(500)...)
		}
		w.pass(20 * latency)
		// Of the 75 extra places, each batch gets 18.75. With its first place, it completes 19.75
		// requests per latency.
		for _, b := range w.batches[1:] {
			if n := w.status(b).Completed; n < 320 || n > 450 {
				t.Errorf("a later batch has completed %d requests in 20 times the latency; its equal share is 395", n)
			}
		}
		if n := w.status(first).Completed; n > 500 {
			t.Errorf("the first one has %d", n)
		}
		w.pass(time.Minute)
	})
	scenario(t, "a single batch gets all places", func(t *testing.T, w *world) {
		w.shutdown()
		w.options.MaxOutbound = 40
		w.start()
		for i := range 300 {
			w.up.script(0, i, step{answered(200), 100 * time.Millisecond})
		}
		w.create("alone", parallel, posts(300)...)
		w.create("small", parallel, posts(3)...)
		w.pass(1050 * time.Millisecond)
		if n := w.status(w.batches[0]).Completed; n < 290 {
			t.Errorf("%d requests in ten times the latency, want 31 each time", n)
		}
		w.pass(time.Minute)
	})
}
