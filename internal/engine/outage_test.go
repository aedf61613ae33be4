package engine

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/outbound"
	"github.com/sheafapi/sheaf/internal/storage"
)

// The answers of an upstream that is unavailable.
var (
	refusedConnection = outbound.Answer{Outcome: outbound.NotSent, Code: 502, Line: "refused"}
	unavailable       = answered(503)
)

// outages runs a scenario in which outages may last for limit.
func outages(t *testing.T, name string, limit time.Duration, f func(t *testing.T, w *world)) {
	t.Helper()
	scenario(t, name, func(t *testing.T, w *world) {
		w.shutdown()
		w.policy.OutageLimit = limit
		w.start()
		f(t, w)
	})
}

// slow makes every answer take some time, unless the upstream is unavailable.
func (w *world) slow(batches, requests int, takes time.Duration) {
	for b := range batches {
		for i := range requests {
			w.up.script(b, i, step{answered(200), takes})
		}
	}
}

// successes returns the outcome of a batch whose n requests all succeed.
func successes(n int) string { return strings.TrimSpace(strings.Repeat("200 ", n)) }

// probes returns when attempts arrived after the given time, in whole seconds since then.
func (w *world) probes(since time.Time) (out []int) {
	w.up.mu.Lock()
	defer w.up.mu.Unlock()
	for _, a := range w.up.ledger {
		if a.at.After(since) {
			out = append(out, int(a.at.Sub(since).Round(time.Second).Seconds()))
		}
	}
	return out
}

// TestOutage checks that no request fails because of an outage, that almost nothing is sent in the
// meantime, and that requests aren't sent twice or out of order.
func TestOutage(t *testing.T) {
	for _, a := range []*outbound.Answer{&refusedConnection, &unavailable} {
		for _, lasts := range []time.Duration{time.Second, 10 * time.Second, 2 * time.Minute, 50 * time.Minute} {
			outages(t, fmt.Sprint(a.Outcome, lasts), time.Hour, func(t *testing.T, w *world) {
				const n = 50
				w.slow(6, n, 100*time.Millisecond)
				batches := []*testBatch{
					w.create("a", stop, posts(n)...), w.create("b", goOn, posts(n)...), w.create("c", parallel, posts(n)...),
					w.create("d", batch.Options{Parallel: true, StopOnFailure: true}, gets(n)...), w.create("e", stop, gets(n)...), w.create("f", goOn, posts(n)...),
				}
				w.pass(950 * time.Millisecond)
				began := time.Now()
				w.up.fail(a)
				w.pass(lasts)
				w.up.fail(nil)
				returned := time.Now()
				w.await(t, batches...)
				for i, b := range batches {
					expect(t, fmt.Sprint("outcome of ", i), w.outcome(b), successes(n))
				}
				w.checkLedger(t)
				during := 0
				for _, at := range w.probes(began) {
					if at <= int(lasts.Seconds()) {
						during++
					}
				}
				if limit := 310 + 8 + int(lasts/(25*time.Second)); during > limit {
					t.Errorf("%d attempts during the outage, want at most %d", during, limit)
				}
				if took := time.Since(returned); took > 45*time.Second {
					t.Errorf("the batches took %v after the upstream's return", took)
				}
			})
		}
	}
}

// checkLedger checks that no request was carried out twice, and that batches that aren't parallel ran
// in order.
func (w *world) checkLedger(t *testing.T) {
	t.Helper()
	w.up.mu.Lock()
	defer w.up.mu.Unlock()
	done, last := map[string]bool{}, map[int]int{}
	for _, a := range w.up.ledger {
		if a.answer.Code != 200 {
			continue
		}
		if done[a.key] {
			t.Errorf("request %d/%d was carried out twice", a.batch, a.index)
		}
		done[a.key] = true
		if !w.batches[a.batch].options.Parallel && a.index < last[a.batch] {
			t.Errorf("request %d/%d was carried out after %d", a.batch, a.index, last[a.batch])
		}
		last[a.batch] = a.index
	}
}

// TestOutageProbes checks when probes are sent, what a batch shows, and that nothing is counted.
func TestOutageProbes(t *testing.T) {
	outages(t, "one batch", time.Hour, func(t *testing.T, w *world) {
		w.up.fail(&refusedConnection)
		a := w.create("s", stop, posts(3)...)
		synctest.Wait()
		began := time.Now()
		w.pass(12*time.Second + 100*time.Millisecond) // five attempts, with 3 s in between
		w.pass(400 * time.Millisecond)
		if s := w.status(a); s.Wait.For != storage.ForUpstream || s.Status != batch.Queued {
			t.Errorf("during the outage: %+v", s)
		}
		w.pass(100 * time.Second)
		got := w.probes(began.Add(12500 * time.Millisecond))
		want := []int{1, 3, 7, 15, 31, 61, 91}
		if len(got) != len(want) {
			t.Fatalf("probes after %v s, want %v", got, want)
		}
		for i, at := range got {
			if diff := float64(at) - float64(want[i]); diff < -1-0.11*float64(want[i]) || diff > 1+0.11*float64(want[i]) {
				t.Errorf("probes after %v s, want about %v", got, want)
			}
		}
		w.up.fail(nil)
		w.pass(40 * time.Second)
		expect(t, "outcome", w.outcome(a), "200 200 200")
		s := w.status(a)
		if s.Wait != (storage.Wait{}) {
			t.Errorf("after the outage, the batch waits for %v", s.Wait)
		}
		if got := s.Results[0].Attempts; got != 5+7+1 {
			t.Errorf("%d attempts were recorded", got)
		}
	})
	outages(t, "many queues", time.Hour, func(t *testing.T, w *world) {
		for i := range 300 {
			w.create(fmt.Sprint("s", i), stop, posts(2)...)
		}
		w.pass(time.Minute)
		w.up.fail(&unavailable)
		for i := range 300 {
			w.create(fmt.Sprint("s", i), stop, posts(2)...)
		}
		w.pass(time.Second)
		calm := time.Now()
		w.pass(time.Minute)
		if got := w.probes(calm); len(got) > 7 {
			t.Errorf("probes after %v s", got)
		}
		if got := w.engine.State(); got.Parked != 300 || got.Outage.IsZero() || got.Running != 0 {
			t.Errorf("state: %+v", got)
		}
		w.up.fail(nil)
		w.await(t, w.batches...)
		for _, b := range w.batches {
			expect(t, "outcome", w.outcome(b), "200 200")
		}
	})
}

// TestUnreachable checks that the end of an outage without connections is noticed at once.
func TestUnreachable(t *testing.T) {
	outages(t, "probes", time.Hour, func(t *testing.T, w *world) {
		w.up.fail(&refusedConnection)
		a := w.create("s", stop, posts(3)...)
		w.pass(10 * time.Minute)
		w.up.fail(nil)
		w.pass(2 * time.Second)
		expect(t, "2 s after the end", w.outcome(a), "200 200 200")
	})
	outages(t, "connections only", time.Hour, func(t *testing.T, w *world) {
		w.up.fail(&refusedConnection)
		a := w.create("s", stop, posts(3)...)
		w.pass(10 * time.Minute)
		w.up.fail(&unavailable)
		began := time.Now()
		w.pass(10 * time.Minute)
		if got := w.probes(began); len(got) > 22 {
			t.Errorf("probes after %v s", got)
		}
		expect(t, "outcome", w.outcome(a), "QUEUED - - -")
	})
}

// TestOutageEndsSlowly checks that few requests are in flight at first when an outage ends.
func TestOutageEndsSlowly(t *testing.T) {
	outages(t, "parallel", time.Hour, func(t *testing.T, w *world) {
		w.slow(4, 200, 100*time.Millisecond)
		w.up.fail(&unavailable)
		for i := range 4 {
			w.create(fmt.Sprint("s", i), parallel, posts(200)...)
		}
		w.pass(500 * time.Millisecond)
		w.up.fail(nil)
		began := time.Now()
		w.await(t, w.batches...)
		for _, b := range w.batches {
			expect(t, "outcome", w.outcome(b), successes(200))
		}
		w.up.mu.Lock()
		defer w.up.mu.Unlock()
		rounds := map[int]int{}
		var first time.Time
		for _, a := range w.up.ledger {
			if a.at.Before(began) {
				continue
			}
			if first.IsZero() {
				first = a.at
			}
			rounds[int(a.at.Sub(first)/(100*time.Millisecond))]++
		}
		for r, limit := range []int{2, 4, 8, 16, 32, 64} {
			if rounds[r] > limit {
				t.Errorf("%d requests in round trip %d, want at most %d", rounds[r], r, limit)
			}
		}
		if took := time.Since(first); took > 3*time.Second {
			t.Errorf("the restart took %v", took)
		}
	})
}

// TestPoison checks that a request that always finds the upstream unavailable fails after its retries
// while other requests succeed.
func TestPoison(t *testing.T) {
	outages(t, "beside another batch", time.Hour, func(t *testing.T, w *world) {
		w.slow(1, 500, 100*time.Millisecond)
		w.create("busy", goOn, gets(500)...)
		w.up.script(1, 1, step{answer: unavailable})
		b := w.create("s", goOn, gets(3)...)
		w.pass(30 * time.Second)
		expect(t, "outcome", w.outcome(b), "200 503! 200")
		if got := w.status(b).Results[1].Attempts; got != 8 { // the first two failures don't count
			t.Errorf("%d attempts", got)
		}
	})
	outages(t, "in a parallel batch", 10*time.Minute, func(t *testing.T, w *world) {
		for i := range 500 {
			w.up.script(0, i, step{answered(200), 3*time.Second + time.Duration(i*37%4000)*time.Millisecond})
		}
		for i := range 5 {
			w.up.script(0, 7*i, step{answer: unavailable})
		}
		b := w.create("s", parallel, gets(500)...)
		w.await(t, b)
		if s := w.status(b); s.Failed != 5 {
			t.Errorf("%d failed", s.Failed)
		}
	})
	outages(t, "in a batch that stops", time.Hour, func(t *testing.T, w *world) {
		w.slow(1, 500, 100*time.Millisecond)
		w.create("busy", goOn, gets(500)...)
		w.up.script(1, 1, step{answer: unavailable})
		b := w.create("s", stop, gets(3)...)
		w.pass(30 * time.Second)
		expect(t, "outcome", w.outcome(b), "200 503! -")
	})
	outages(t, "alone, it ends with the limit of an outage", time.Minute, func(t *testing.T, w *world) {
		w.up.script(0, 1, step{answer: unavailable})
		b := w.create("s", goOn, gets(3)...)
		w.await(t, b)
		expect(t, "outcome", w.outcome(b), "200 503! 200")
	})
}

// TestHalfFails checks that a gateway that answers 502 to half of the calls makes no request fail
// because its retries are used up.
func TestHalfFails(t *testing.T) {
	outages(t, "parallel", time.Hour, func(t *testing.T, w *world) {
		coin := rand.New(rand.NewPCG(1, 2))
		for b := range 4 {
			for i := range 200 {
				var steps []step
				for coin.IntN(2) == 0 {
					steps = append(steps, step{answered(502), 50 * time.Millisecond})
				}
				w.up.script(b, i, append(steps, step{answered(200), 50 * time.Millisecond})...)
			}
		}
		for b := range 4 {
			w.create(fmt.Sprint("s", b), parallel, gets(200)...)
		}
		w.await(t, w.batches...)
		for _, b := range w.batches {
			expect(t, "outcome", w.outcome(b), successes(200))
		}
	})
}

// TestOutageLimit checks that an outage that lasts longer than the limit no longer excuses failures.
func TestOutageLimit(t *testing.T) {
	outages(t, "passes", 10*time.Minute, func(t *testing.T, w *world) {
		w.up.fail(&refusedConnection)
		a, b := w.create("a", goOn, gets(2)...), w.create("b", stop, gets(2)...)
		w.pass(9 * time.Minute)
		expect(t, "before the limit", w.outcome(a)+", "+w.outcome(b), "QUEUED - -, QUEUED - -")
		w.pass(2 * time.Minute)
		expect(t, "after the limit", w.outcome(a)+", "+w.outcome(b), "502! 502!, 502! -")
		w.up.fail(nil)
		c := w.create("c", stop, gets(1)...)
		w.pass(time.Second)
		expect(t, "afterwards", w.outcome(c), "200")
		w.up.fail(&refusedConnection)
		d := w.create("d", stop, gets(1)...)
		w.pass(9 * time.Minute)
		expect(t, "in the next outage", w.outcome(d), "QUEUED -")
	})
	outages(t, "0", 0, func(t *testing.T, w *world) {
		w.up.fail(&refusedConnection)
		a, b := w.create("a", goOn, gets(1)...), w.create("b", stop, gets(2)...)
		w.pass(time.Minute)
		expect(t, "outcome", w.outcome(a)+", "+w.outcome(b), "502!, 502! -")
		if got := len(w.probes(time.Time{})); got != 7 {
			t.Errorf("%d attempts", got)
		}
	})
}

// TestOutageSurvives checks that an outage is known after a crash, and that its end is noticed.
func TestOutageSurvives(t *testing.T) {
	outages(t, "a crash", time.Hour, func(t *testing.T, w *world) {
		w.up.fail(&unavailable)
		for i := range 20 {
			w.create(fmt.Sprint("s", i), stop, posts(2)...)
		}
		w.pass(20 * time.Second)
		w.crash()
		w.pass(2 * time.Second)
		crashed := time.Now()
		w.start()
		w.pass(10 * time.Second)
		if got := w.probes(crashed); len(got) > 2 {
			t.Errorf("attempts after the crash: %v", got)
		}
		w.up.fail(nil)
		w.pass(40 * time.Second)
		for _, b := range w.batches {
			expect(t, "outcome", w.outcome(b), "200 200")
		}
	})
	outages(t, "a crash that lasts longer than the outage", time.Hour, func(t *testing.T, w *world) {
		w.up.fail(&unavailable)
		a := w.create("s", stop, posts(2)...)
		w.pass(20 * time.Second)
		w.crash()
		w.up.fail(nil)
		w.pass(10 * time.Hour)
		w.start()
		w.pass(5 * time.Second)
		expect(t, "outcome", w.outcome(a), "200 200")
	})
}

// TestOutageOfNodes checks that two nodes send the probes of one, and that both notice the end.
func TestOutageOfNodes(t *testing.T) {
	pair(t, "share an outage", func(t *testing.T, w *world, other *host) {
		w.policy.OutageLimit = time.Hour
		first := w.host
		w.restart(w.options)
		w.at(other)
		w.restart(w.options)
		w.at(first)
		w.up.fail(&refusedConnection)
		for i := range 20 {
			w.create(fmt.Sprint("s", i), stop, posts(2)...)
		}
		w.at(other)
		for i := range 20 {
			w.create(fmt.Sprint("t", i), stop, posts(2)...)
		}
		w.pass(time.Second)
		calm := time.Now()
		w.pass(2 * time.Minute)
		if got := w.probes(calm); len(got) > 9 {
			t.Errorf("attempts after %v s", got)
		}
		for _, h := range []*host{first, other} {
			if s := h.engine.State(); s.Outage.IsZero() {
				t.Errorf("a node doesn't know of the outage: %+v", s)
			}
		}
		w.up.fail(nil)
		w.await(t, w.batches...)
		w.pass(time.Second)
		for _, b := range w.batches {
			expect(t, "outcome", w.outcome(b), "200 200")
		}
		for _, h := range []*host{first, other} {
			if s := h.engine.State(); !s.Outage.IsZero() {
				t.Errorf("a node doesn't know that the outage has ended: %+v", s)
			}
		}
		w.at(first)
	})
}

// TestOutageSteering checks that a batch can be stopped and paused during an outage.
func TestOutageSteering(t *testing.T) {
	outages(t, "stop and pause", time.Hour, func(t *testing.T, w *world) {
		w.up.fail(&unavailable)
		a, b, c := w.create("a", stop, gets(2)...), w.create("b", stop, gets(2)...), w.create("c", stop, gets(2)...)
		w.pass(30 * time.Second)
		w.stopBatch(a)
		insist(w, func() (storage.StopResult, error) {
			s, err := w.node.Pause(context.Background(), storage.PauseRequest{Key: b.key, Paused: true})
			w.engine.Notify(b.queue)
			return s, err
		})
		w.pass(time.Second)
		if got := w.status(a).Status; got != batch.Completed {
			t.Errorf("the stopped batch is %v", got)
		}
		w.up.fail(nil)
		w.pass(40 * time.Second)
		expect(t, "the paused batch", w.outcome(b), "QUEUED - -")
		expect(t, "the other batch", w.outcome(c), "200 200")
	})
}

// TestLongOutage checks that an outage of 12 hours needs no more memory than a short one.
func TestLongOutage(t *testing.T) {
	outages(t, "12 hours", 24*time.Hour, func(t *testing.T, w *world) {
		w.up.fail(&unavailable)
		for i := range 50 {
			w.create(fmt.Sprint("s", i), stop, posts(2)...)
		}
		w.pass(time.Minute)
		synctest.Wait()
		heap := func() uint64 {
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return m.HeapAlloc
		}
		began, before, routines := time.Now(), heap(), runtime.NumGoroutine()
		w.pass(12 * time.Hour)
		synctest.Wait()
		if after := heap(); after > before+2<<20 {
			t.Errorf("the heap grew from %d to %d bytes", before, after)
		}
		if n := runtime.NumGoroutine(); n > routines+5 {
			t.Errorf("%d goroutines, %d at the beginning", n, routines)
		}
		if got := len(w.probes(began)); got < 12*120*9/10 || got > 12*120*11/10 {
			t.Errorf("%d probes in 12 hours", got)
		}
		w.up.fail(nil)
		w.await(t, w.batches...)
		for _, b := range w.batches {
			expect(t, "outcome", w.outcome(b), "200 200")
		}
		w.checkLedger(t)
	})
}
