package engine

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sheafapi/sheaf/internal/governor"
)

// limiting restarts the world with limits on routes.
func (w *world) limiting(limits ...governor.RouteLimit) {
	w.shutdown()
	w.limits = limits
	w.start()
}

// sentAt returns when requests with the method arrived, in order.
func (w *world) sentAt(method string) (out []time.Time) {
	w.up.mu.Lock()
	defer w.up.mu.Unlock()
	for _, a := range w.up.ledger {
		if a.method == method {
			out = append(out, a.at)
		}
	}
	slices.SortFunc(out, time.Time.Compare)
	return out
}

// mostInFlight returns the largest number of requests with the method that were in flight at once.
func (w *world) mostInFlight(method string) (most int) {
	w.up.mu.Lock()
	defer w.up.mu.Unlock()
	for _, a := range w.up.ledger {
		n := 0
		for _, b := range w.up.ledger {
			if a.method == method && b.method == method && !b.at.After(a.at) && (b.end.IsZero() || b.end.After(a.at)) {
				n++
			}
		}
		most = max(most, n)
	}
	return most
}

// expectPace fails if two POSTs are closer together than the interval.
func (w *world) expectPace(t *testing.T, interval time.Duration) {
	t.Helper()
	sent := w.sentAt("POST")
	for i := 1; i < len(sent); i++ {
		if apart := sent[i].Sub(sent[i-1]); apart < interval-150*time.Millisecond {
			t.Errorf("requests %d and %d are %v apart, want %v", i-1, i, apart, interval)
		}
	}
}

func TestRouteRate(t *testing.T) {
	slow := governor.RouteLimit{Method: "POST", Path: "/*", Rate: governor.Rate{N: 6, Per: time.Minute}}
	scenario(t, "in order, everything waits", func(t *testing.T, w *world) {
		w.limiting(slow)
		a := w.create("s", stop, "POST", "GET", "POST", "GET")
		w.pass(9 * time.Second)
		expect(t, "before the second slot", w.outcome(a), "IN_PROGRESS 200 200 - -")
		w.pass(2 * time.Second)
		expect(t, "after", w.outcome(a), "200 200 200 200")
	})
	scenario(t, "in parallel, requests of other routes don't wait", func(t *testing.T, w *world) {
		w.limiting(slow)
		a := w.create("s", parallel, "POST", "POST", "POST", "GET", "GET")
		w.pass(time.Second)
		expect(t, "before the second slot", w.outcome(a), "IN_PROGRESS 200 - - 200 200")
		w.pass(20 * time.Second)
		expect(t, "after", w.outcome(a), "200 200 200 200 200")
		w.expectPace(t, 10*time.Second)
	})
	scenario(t, "a batch that waits holds no place", func(t *testing.T, w *world) {
		w.options.QueuesAtOnce = 1
		w.limiting(slow)
		a, b := w.create("s", parallel, posts(3)...), w.create("other", stop, gets(3)...)
		w.pass(time.Second)
		expect(t, "the other store", w.outcome(b), "200 200 200")
		if running := w.engine.State().Running; running != 0 {
			t.Errorf("%d queues hold a place", running)
		}
		w.pass(20 * time.Second)
		expect(t, "the one that waited", w.outcome(a), "200 200 200")
	})
	scenario(t, "a slot that is no longer needed delays nobody", func(t *testing.T, w *world) {
		all := slow
		all.Per = governor.PerAll
		w.limiting(all)
		w.create("a", stop, posts(1)...)
		w.pass(time.Second)
		b, c := w.create("b", stop, posts(1)...), w.create("c", stop, posts(1)...)
		w.pass(time.Second)
		w.stopBatch(b)
		w.pass(20 * time.Second)
		expect(t, "stopped and next", w.outcome(b)+", "+w.outcome(c), "-, 200")
	})
	scenario(t, "per store", func(t *testing.T, w *world) {
		each := slow
		each.Per = governor.PerStore
		w.limiting(each)
		a, b := w.create("a", stop, posts(2)...), w.create("b", stop, posts(2)...)
		w.pass(11 * time.Second)
		expect(t, "outcomes", w.outcome(a)+", "+w.outcome(b), "200 200, 200 200")
	})
	scenario(t, "for all, queues take turns", func(t *testing.T, w *world) {
		all := slow
		all.Per = governor.PerAll
		w.limiting(all)
		a, b := w.create("a", parallel, posts(50)...), w.create("b", stop, posts(5)...)
		w.pass(101 * time.Second)
		expect(t, "the short batch", w.outcome(b), all5)
		w.expectPace(t, 10*time.Second)
		w.await(t, a)
	})
	scenario(t, "several limits", func(t *testing.T, w *world) {
		first := governor.RouteLimit{Method: "*", Path: "/*/0", Rate: governor.Rate{N: 2, Per: time.Minute}, Per: governor.PerAll}
		w.limiting(slow, first)
		a, b, c := w.create("a", stop, posts(2)...), w.create("b", parallel, "POST", "POST", "GET"), w.create("c", stop, "PUT")
		w.pass(time.Second)
		out := w.outcome(a) + ", " + w.outcome(b) + ", " + w.outcome(c)
		if n := strings.Count(out, "200"); n < 2 || n > 3 { // depending on which batch gets the first slot
			t.Errorf("after a second: %s", out)
		}
		w.pass(3 * time.Minute)
		expect(t, "after three minutes", w.outcome(a)+", "+w.outcome(b)+", "+w.outcome(c), "200 200, 200 200 200, 200")
	})
	scenario(t, "after a crash", func(t *testing.T, w *world) {
		w.limiting(slow)
		a := w.create("s", stop, posts(5)...)
		w.pass(15 * time.Second)
		w.crash()
		w.start()
		w.pass(2 * time.Minute)
		expect(t, "outcome", w.outcome(a), all5)
		w.expectPace(t, 10*time.Second)
	})
	for name, limit := range map[string]governor.RouteLimit{
		"one a minute": {Method: "*", Path: "/*", Rate: governor.Rate{N: 1, Per: time.Minute}, Per: governor.PerAll},
		"one a second": {Method: "*", Path: "/*", Rate: governor.Rate{N: 1, Per: time.Second}, Per: governor.PerAll},
	} {
		scenario(t, "over nodes, "+name, func(t *testing.T, w *world) {
			w.limiting(limit)
			first := w.at(&host{})
			w.start()
			second := w.at(&host{})
			w.start()
			third := w.at(first)
			a, b := w.create("a", stop, posts(5)...), w.create("b", parallel, posts(5)...)
			w.at(second)
			c := w.create("c", stop, posts(5)...)
			w.at(third)
			took := w.await(t, a, b, c)
			t.Log(took)
			if most := 17 * limit.Rate.Per; took > most {
				t.Errorf("15 requests took %v, want at most %v", took, most)
			}
			w.expectPace(t, limit.Rate.Per)
			w.shutdown()
			w.at(second)
			w.shutdown()
			w.at(first)
		})
	}
}

const all5 = "200 200 200 200 200"

func TestRouteConcurrency(t *testing.T) {
	two := governor.RouteLimit{Method: "POST", Path: "/*", Concurrency: 2, Per: governor.PerAll}
	scenario(t, "other routes don't wait", func(t *testing.T, w *world) {
		w.limiting(two)
		w.slow(3, 10, time.Second)
		a := w.create("a", parallel, append(posts(10), gets(10)...)...)
		w.pass(1100 * time.Millisecond)
		if out := w.outcome(a); strings.Count(out, "200") != 12 {
			t.Errorf("after a second: %s", out)
		}
		w.pass(4 * time.Second)
		expect(t, "outcome", w.outcome(a), strings.TrimSpace(strings.Repeat("200 ", 20)))
		if most := w.mostInFlight("POST"); most != 2 {
			t.Errorf("%d requests in flight", most)
		}
	})
	scenario(t, "stores take turns", func(t *testing.T, w *world) {
		w.limiting(two)
		w.slow(3, 40, time.Second)
		a := w.create("a", parallel, posts(40)...)
		w.pass(100 * time.Millisecond)
		b, c := w.create("b", stop, posts(3)...), w.create("c", parallel, posts(3)...)
		took := w.await(t, b, c)
		if took > 8*time.Second {
			t.Errorf("6 requests took %v beside a batch of 40", took)
		}
		w.await(t, a)
		if most := w.mostInFlight("POST"); most != 2 {
			t.Errorf("%d requests in flight", most)
		}
	})
	scenario(t, "a batch that waits lets others run, and notices a stop", func(t *testing.T, w *world) {
		w.options.QueuesAtOnce = 3
		w.limiting(two)
		w.slow(3, 2, time.Minute)
		w.create("a", stop, posts(1)...)
		w.create("b", stop, posts(1)...)
		synctest.Wait()
		c := w.create("c", stop, posts(1)...)
		w.pass(time.Second)
		d := w.create("d", stop, gets(1)...)
		w.pass(3 * time.Second)
		expect(t, "another route", w.outcome(d), "200")
		w.stopBatch(c)
		synctest.Wait()
		expect(t, "the one that waited", w.outcome(c), "-")
		w.pass(2 * time.Minute)
	})
	scenario(t, "with a rate", func(t *testing.T, w *world) {
		both := two
		both.Rate = governor.Rate{N: 10, Per: time.Second}
		w.limiting(both)
		w.slow(1, 10, time.Second)
		a := w.create("a", parallel, posts(10)...)
		took := w.await(t, a)
		if most := w.mostInFlight("POST"); most != 2 || took > 6*time.Second {
			t.Errorf("%d requests in flight, %v", most, took)
		}
	})
}
