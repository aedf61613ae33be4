package engine

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// pair runs a scenario with two running nodes. The first one is the current host at the start.
func pair(t *testing.T, name string, f func(t *testing.T, w *world, other *host)) {
	t.Helper()
	scenario(t, name, func(t *testing.T, w *world) {
		first := w.at(&host{})
		w.start()
		second := w.at(first)
		defer func() {
			w.at(second)
			w.shutdown()
			w.at(first)
		}()
		f(t, w, second)
	})
}

// restart starts the node's engine again with other options.
func (w *world) restart(o Options) {
	before := w.options
	w.shutdown()
	w.options = o
	w.start()
	w.options = before
}

// nodesOf returns which of two hosts has sent each request of a batch, as in "1 2 2".
func (w *world) nodesOf(batch int, first, second *host) string {
	w.up.mu.Lock()
	defer w.up.mu.Unlock()
	names := map[any]string{first.node: "1", second.node: "2"}
	var out []string
	for _, e := range w.up.ledger {
		if e.batch == batch {
			out = append(out, names[e.node])
		}
	}
	return strings.Join(out, " ")
}

// TestOtherNode checks that a node that the database considers dead stops sending, and that its late
// answers change nothing.
func TestOtherNode(t *testing.T) {
	scenario(t, "takes over", func(t *testing.T, w *world) {
		w.up.script(0, 0, step{answered(201), time.Minute})
		a := w.create("s", goOn, posts(3)...)
		w.pass(time.Second)
		first, firstStop, firstEnded := w.node, w.stop, w.ended
		w.db.Expire(first)
		w.start()
		w.pass(2 * time.Second)
		synctest.Wait()
		expect(t, "outcome", w.outcome(a), "502! 200 200")
		w.pass(time.Minute)
		synctest.Wait()
		expect(t, "outcome after the late answer", w.outcome(a), "502! 200 200")
		expect(t, "ledger", w.sent(), "0/0 0/1 0/2")
		firstStop()
		<-firstEnded
	})
}

// TestOtherNodeParallel is TestOtherNode with many requests in flight. Their places are returned, although
// their answers are dropped.
func TestOtherNodeParallel(t *testing.T) {
	scenario(t, "takes over", func(t *testing.T, w *world) {
		for i := range 20 {
			w.up.script(0, i, step{answered(201), time.Duration(i) * time.Minute})
		}
		w.create("s", parallel, posts(20)...)
		w.pass(time.Second)
		first, firstStop, firstEnded := w.engine, w.stop, w.ended
		w.db.Expire(w.node)
		w.start()
		w.pass(time.Hour)
		firstStop()
		<-firstEnded
		first.checkPlaces(t)
	})
}

// TestOffer checks that a batch for which a node has no place runs at once on another node.
func TestOffer(t *testing.T) {
	full := func(w *world) {
		w.restart(Options{QueuesAtOnce: 1})
		w.up.script(len(w.batches), 0, step{answered(200), 10 * time.Second})
		w.create("busy", stop, "POST")
		synctest.Wait()
	}
	pair(t, "a new batch", func(t *testing.T, w *world, other *host) {
		full(w)
		a := w.create("s", stop, posts(2)...)
		synctest.Wait()
		expect(t, "outcome", w.outcome(a), "200 200")
		expect(t, "sent by", w.nodesOf(1, w.host, other), "2 2")
		b := w.create("s", stop, "POST") // its queue is in the line here
		synctest.Wait()
		expect(t, "the next one", w.outcome(b), "200")
		w.pass(time.Minute)
	})
	pair(t, "if no node has a place, the first one that gets one runs it", func(t *testing.T, w *world, other *host) {
		full(w)
		me := w.at(other)
		w.restart(Options{QueuesAtOnce: 1})
		w.up.script(1, 0, step{answered(200), 5 * time.Second})
		w.create("busy too", stop, "POST")
		synctest.Wait()
		w.at(me)
		a := w.create("s", stop, "POST")
		w.pass(4 * time.Second)
		synctest.Wait()
		expect(t, "while both are busy", w.outcome(a), "QUEUED -")
		w.pass(2 * time.Second)
		synctest.Wait()
		expect(t, "afterwards", w.outcome(a), "200")
	})
	pair(t, "through a node whose engine doesn't run", func(t *testing.T, w *world, _ *host) {
		w.shutdown()
		for range 2 {
			a := w.create("s", stop, "POST")
			synctest.Wait()
			expect(t, "outcome", w.outcome(a), "200")
		}
		w.start()
	})
	pair(t, "a lost one is found by the scan", func(t *testing.T, w *world, _ *host) {
		full(w)
		w.db.DropHints(true)
		a := w.create("s", stop, "POST")
		w.pass(time.Second)
		synctest.Wait()
		expect(t, "outcome", w.outcome(a), "200")
		w.pass(time.Minute)
	})
	pair(t, "a batch that waits for memory", func(t *testing.T, w *world, other *host) {
		w.restart(Options{Memory: 6 * 520})
		w.up.script(0, 0, step{answered(200), time.Minute})
		w.create("busy", stop, posts(5)...)
		synctest.Wait()
		a := w.create("s", stop, posts(5)...)
		synctest.Wait()
		expect(t, "outcome", w.outcome(a), "200 200 200 200 200")
		if busy, waited := w.nodesOf(0, w.host, other), w.nodesOf(1, w.host, other); strings.Contains(waited, busy[:1]) {
			t.Errorf("the waiting batch was sent by node %q, but %q is the busy node", waited, busy)
		}
		w.pass(2 * time.Minute)
	})
}

// TestHandover checks that a node that shuts down releases each queue as soon as its requests in flight are
// recorded, and offers the queues in its lines to other nodes at once.
func TestHandover(t *testing.T) {
	pair(t, "one by one", func(t *testing.T, w *world, other *host) {
		w.restart(Options{QueuesAtOnce: 3})
		w.db.DropHints(true)
		made := make([]*testBatch, 4)
		for b, takes := range []int{1500, 10_500, 20_500, 0} {
			w.up.script(b, 0, step{answered(201), time.Duration(takes) * time.Millisecond})
			made[b] = w.create(string(rune('a'+b)), stop, posts(2)...)
		}
		synctest.Wait()
		if n := len(strings.Fields(w.sent())); n != 3 {
			t.Fatalf("%s were sent, want one request of each of the first three batches", w.sent())
		}
		w.db.DropHints(false)
		w.stop()
		synctest.Wait()
		expect(t, "what stood in the line", w.outcome(made[3]), "201 200")
		for b, wait := range []int{1500, 9000, 10_000} {
			expect(t, "before", w.outcome(made[b]), "QUEUED - -")
			w.pass(time.Duration(wait) * time.Millisecond)
			synctest.Wait()
			expect(t, "after", w.outcome(made[b]), "201 200")
			expect(t, "sent by", w.nodesOf(b, w.host, other), "1 2")
		}
	})
}

// lateClaims is storage that returns from Claim one second after it made the claim.
type lateClaims struct{ Storage }

func (l *lateClaims) Claim(ctx context.Context, q storage.QueueID) (*storage.Claim, error) {
	c, err := l.Storage.Claim(context.WithoutCancel(ctx), q)
	select {
	case <-time.After(time.Second):
		return c, err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// TestHandoverOfNewClaim checks that a node that shuts down while it claims a queue also releases that queue,
// even while other work keeps the node running.
func TestHandoverOfNewClaim(t *testing.T) {
	pair(t, "at once", func(t *testing.T, w *world, _ *host) {
		w.wrap = func(s Storage) Storage { return &lateClaims{s} }
		w.restart(Options{})
		w.wrap = nil
		w.up.script(0, 0, step{answered(200), 20 * time.Second})
		w.create("busy", stop, "POST")
		w.pass(1500 * time.Millisecond)
		a := w.create("s", stop, "POST")
		w.pass(500 * time.Millisecond)
		w.stop()
		w.pass(500 * time.Millisecond)
		synctest.Wait()
		expect(t, "outcome", w.outcome(a), "200")
	})
}

// TestExpired checks that a node that is considered dead lets its requests in flight finish. It records their
// answers as long as no other node has claimed the queue.
func TestExpired(t *testing.T) {
	scenario(t, "one after the other", func(t *testing.T, w *world) {
		w.up.script(0, 0, step{answered(201), time.Minute})
		a := w.create("s", goOn, posts(3)...)
		w.pass(time.Second)
		w.expire()
		w.pass(time.Minute)
		synctest.Wait()
		expect(t, "outcome", w.outcome(a), "201 200 200")
		expect(t, "ledger", w.sent(), "0/0 0/1 0/2")
	})
	scenario(t, "in parallel", func(t *testing.T, w *world) {
		w.up.script(0, 0, step{answered(201), 5 * time.Second})
		for i := 1; i < 100; i++ {
			w.up.script(0, i, step{answered(200), time.Minute})
		}
		a := w.create("s", parallel, posts(102)...)
		w.pass(time.Second)
		w.expire()
		w.pass(5 * time.Second)
		synctest.Wait()
		if st := w.status(a); st.Completed != 1 {
			t.Errorf("%d results are recorded after the first answer", st.Completed)
		}
		if n := len(strings.Fields(w.sent())); n != 100 {
			t.Errorf("%d requests were sent, want the first 100", n)
		}
		w.pass(time.Minute)
		synctest.Wait()
		expect(t, "outcome", w.outcome(a), "201 "+strings.TrimSpace(strings.Repeat("200 ", 101)))
		if n := len(strings.Fields(w.sent())); n != 102 {
			t.Errorf("%d requests were sent, want 102", n)
		}
	})
	scenario(t, "the last request of a batch", func(t *testing.T, w *world) {
		w.up.script(0, 0, step{answered(201), time.Minute})
		a := w.create("s", goOn, "POST")
		b := w.create("s", goOn, "GET")
		w.pass(time.Second)
		w.expire()
		w.pass(time.Minute)
		synctest.Wait()
		expect(t, "outcome", w.outcome(a), "201")
		expect(t, "the next batch", w.outcome(b), "200")
	})
}

// TestUncertain checks that a node sends nothing while it doesn't know whether it owns its queues.
func TestUncertain(t *testing.T) {
	for _, method := range []string{"GET", "POST"} {
		scenario(t, method+" waits", func(t *testing.T, w *world) {
			w.up.script(0, 0, step{answered(201), time.Second})
			a := w.create("s", stop, method, method)
			synctest.Wait()
			w.node.SetCertain(false)
			w.pass(time.Hour)
			synctest.Wait()
			expect(t, "ledger", w.sent(), "0/0")
			w.node.SetCertain(true)
			synctest.Wait()
			expect(t, "outcome", w.outcome(a), "201 200")
		})
		scenario(t, method+" does not leave after a stop", func(t *testing.T, w *world) {
			w.node.SetCertain(false)
			a := w.create("s", stop, method, method)
			w.pass(time.Minute)
			w.stopBatch(a)
			w.node.SetCertain(true)
			synctest.Wait()
			expect(t, "outcome", w.outcome(a), "- -")
			expect(t, "ledger", w.sent(), "")
		})
		scenario(t, method+" is left to the next process", func(t *testing.T, w *world) {
			w.node.SetCertain(false)
			a := w.create("s", stop, method, method)
			w.pass(time.Minute)
			began := time.Now()
			w.shutdown()
			if d := time.Since(began); d != 0 {
				t.Errorf("the shutdown took %v", d)
			}
			expect(t, "ledger", w.sent(), "")
			w.start()
			expect(t, "outcome", w.outcome(a), "200 200")
		})
		pair(t, method+" is left to the next owner", func(t *testing.T, w *world, other *host) {
			w.node.SetCertain(false)
			a := w.create("s", goOn, method, method)
			w.pass(time.Minute)
			w.expire()
			w.pass(2 * time.Second)
			w.node.SetCertain(true)
			synctest.Wait()
			want, nodes := "200 200", "2 2"
			if method == "POST" {
				want, nodes = "502! 200", "2" // the intent was recorded, so the first POST is in doubt
			}
			expect(t, "outcome", w.outcome(a), want)
			expect(t, "sent by", w.nodesOf(0, w.host, other), nodes)
		})
	}
}

// TestWithheld checks that a request isn't sent if its permission has ended when its connection is ready. The
// engine then knows that it wasn't sent.
func TestWithheld(t *testing.T) {
	slow := func(w *world, options batch.Options, methods ...string) *testBatch {
		w.up.dial(0, 0, 2*time.Second)
		m := w.create("s", options, methods...)
		w.pass(time.Second)
		return m
	}
	expectWithheld := func(t *testing.T, w *world) {
		t.Helper()
		if w.up.withheld != 1 || w.sent() != "" {
			t.Errorf("%d requests were withheld, and sent was %q; want 1 and none", w.up.withheld, w.sent())
		}
	}
	for _, method := range []string{"GET", "POST"} {
		scenario(t, method+", for a moment", func(t *testing.T, w *world) {
			a := slow(w, stop, method, "POST")
			w.node.SetCertain(false)
			w.pass(time.Minute)
			synctest.Wait()
			expectWithheld(t, w)
			w.node.SetCertain(true)
			w.pass(2 * time.Second)
			synctest.Wait()
			expect(t, "outcome", w.outcome(a), "200 200")
			expect(t, "ledger", w.sent(), "0/0 0/1")
		})
		scenario(t, method+", for good, and nobody else is there", func(t *testing.T, w *world) {
			a := slow(w, stop, method, "POST")
			w.expire()
			w.pass(time.Second)
			synctest.Wait()
			expectWithheld(t, w)
			w.pass(2 * time.Second)
			synctest.Wait()
			expect(t, "outcome", w.outcome(a), "200 200")
			expect(t, "ledger", w.sent(), "0/0 0/1")
		})
	}
	scenario(t, "in parallel, stopped meanwhile", func(t *testing.T, w *world) {
		w.up.script(0, 1, step{answered(201), 3 * time.Second})
		a := slow(w, parallel, posts(2)...)
		w.node.SetCertain(false)
		w.stopBatch(a)
		w.pass(time.Minute)
		synctest.Wait()
		expect(t, "outcome", w.outcome(a), "- 201")
		if w.up.withheld != 1 {
			t.Errorf("%d requests were withheld", w.up.withheld)
		}
	})
	pair(t, "another node takes over", func(t *testing.T, w *world, other *host) {
		for b := range 2 {
			w.up.dial(b, 0, 5*time.Second)
		}
		a := w.create("s", goOn, "POST", "POST")
		b := w.create("other", goOn, "PUT", "POST")
		synctest.Wait()
		w.expire()
		w.pass(20 * time.Second)
		synctest.Wait()
		expect(t, "the POSTs", w.outcome(a), "502! 200")
		expect(t, "the PUT", w.outcome(b), "200 200")
		expect(t, "sent by", w.nodesOf(0, w.host, other)+", "+w.nodesOf(1, w.host, other), "2, 2 2")
		if w.up.withheld != 2 {
			t.Errorf("%d requests were withheld, want 2", w.up.withheld)
		}
	})
}

// TestStopElsewhere checks that a stop on another node reaches the node that runs the batch.
func TestStopElsewhere(t *testing.T) {
	for _, lost := range []bool{false, true} {
		name := map[bool]string{false: "told at once", true: "the hint is lost"}[lost]
		pair(t, name, func(t *testing.T, w *world, other *host) {
			w.up.script(0, 0, step{answered(429, "Retry-After", "60"), 0})
			w.up.script(0, 1, step{answered(200), 20 * time.Second})
			a := w.create("s", parallel, posts(3)...)
			w.pass(time.Second / 2)
			w.db.DropHints(lost)
			me := w.at(other)
			w.stopBatch(a)
			w.at(me)
			if lost {
				w.pass(2 * time.Second)
			}
			synctest.Wait()
			expect(t, "what waited", w.outcome(a), "IN_PROGRESS 429! - 200")
			w.pass(20 * time.Second)
			synctest.Wait()
			expect(t, "outcome", w.outcome(a), "429! 200 200")
		})
	}
	pair(t, "of a batch that waits in storage", func(t *testing.T, w *world, other *host) {
		w.up.script(0, 0, step{answered(429, "Retry-After", "60"), 0})
		a := w.create("s", stop, posts(2)...)
		w.pass(time.Second / 2)
		me := w.at(other)
		w.stopBatch(a)
		synctest.Wait()
		expect(t, "outcome", w.outcome(a), "429! -")
		w.at(me)
		w.pass(2 * time.Minute)
		synctest.Wait()
		expect(t, "ledger", w.sent(), "0/0")
	})
}
