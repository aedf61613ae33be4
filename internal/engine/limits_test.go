package engine

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sheafapi/sheaf/internal/outbound"
)

// exhausted is a success after which no requests remain for a while.
func exhausted(seconds string) outbound.Answer {
	return answered(200, "X-RateLimit-Remaining", "0", "X-RateLimit-Reset", seconds)
}

// lines returns the status lines of a batch's results.
func (w *world) lines(b *testBatch) string {
	var out []string
	for _, r := range w.status(b).Results {
		out = append(out, r.Line)
	}
	return strings.Join(out, "\n")
}

// TestLimitsWait checks that a 403 or 503 that says how long to wait is treated like a 429.
func TestLimitsWait(t *testing.T) {
	for name, refusal := range map[string]outbound.Answer{
		"403 with Retry-After":  answered(403, "Retry-After", "900"),
		"403, none remain":      answered(403, "X-RateLimit-Remaining", "0", "X-RateLimit-Reset", "900"),
		"503 with Retry-After":  answered(503, "Retry-After", "900"),
		"503, none remain":      answered(503, "RateLimit", `"day";r=0;t=900`),
		"429 with a reset only": answered(429, "X-RateLimit-Reset", "900"),
	} {
		scenario(t, name, func(t *testing.T, w *world) {
			w.shutdown()
			w.policy.RetryLimit = 0
			w.start()
			w.up.script(0, 0, step{refusal, 0}, step{answered(200), 0})
			a := w.create("s", stop, posts(2)...)
			b := w.create("s", goOn, posts(1)...)
			w.pass(899 * time.Second)
			expect(t, "before the time", w.outcome(a)+", "+w.outcome(b), "QUEUED - -, QUEUED -")
			w.pass(time.Second)
			synctest.Wait()
			expect(t, "after", w.outcome(a)+", "+w.outcome(b), "200 200, 200")
			expect(t, "ledger", w.sent(), "0/0 0/0 0/1 1/0")
		})
	}
}

// TestLimitsBeforeRefusal checks that nothing is sent after an answer that says that no requests remain.
func TestLimitsBeforeRefusal(t *testing.T) {
	scenario(t, "the rest of the batch waits until the reset", func(t *testing.T, w *world) {
		w.up.script(0, 0, step{exhausted("60"), 0})
		a := w.create("s", stop, posts(2)...)
		w.pass(59 * time.Second)
		expect(t, "before the reset", w.outcome(a), "IN_PROGRESS 200 -")
		w.pass(time.Second)
		synctest.Wait()
		expect(t, "after", w.outcome(a), "200 200")
	})
	scenario(t, "so do those of other batches, in parallel, and after a failure", func(t *testing.T, w *world) {
		w.up.script(0, 1, step{answered(404, "RateLimit", `"minute";r=0;t=60`), time.Millisecond})
		w.create("s", goOn, posts(2)...)
		w.pass(time.Second)
		b := w.create("s", parallel, posts(20)...)
		w.pass(58 * time.Second)
		expect(t, "before the reset", w.sentOf("1"), "")
		w.pass(2 * time.Second)
		synctest.Wait()
		expect(t, "after", w.outcome(b), strings.TrimSpace(strings.Repeat("200 ", 20)))
	})
	scenario(t, "a reset beyond the limit fails nothing that wasn't refused", func(t *testing.T, w *world) {
		w.up.script(0, 0, step{exhausted("86400"), 0})
		a := w.create("s", stop, posts(2)...)
		synctest.Wait()
		expect(t, "outcome", w.outcome(a), "200 200")
	})
	scenario(t, "a success that allows more holds nothing", func(t *testing.T, w *world) {
		w.up.script(0, 0, step{answered(200, "X-RateLimit-Remaining", "1", "X-RateLimit-Reset", "60"), 0})
		a := w.create("s", stop, posts(2)...)
		synctest.Wait()
		expect(t, "outcome", w.outcome(a), "200 200")
	})
	pair(t, "other nodes wait too", func(t *testing.T, w *world, other *host) {
		w.up.script(0, 0, step{exhausted("60"), 0})
		w.create("s", stop, posts(1)...)
		w.pass(time.Second)
		me := w.at(other)
		b := w.create("s", stop, posts(1)...)
		w.at(me)
		w.pass(57 * time.Second)
		expect(t, "before the reset", w.outcome(b), "QUEUED -")
		w.pass(3 * time.Second)
		synctest.Wait()
		expect(t, "after", w.outcome(b), "200")
	})
}

// TestLimitsBeyond checks that a request fails at once if the API names a time beyond the throttle limit,
// and that others of the store aren't sent to learn the same.
func TestLimitsBeyond(t *testing.T) {
	const day = 24 * time.Hour
	refusal := answered(429, "Retry-After", "86400")
	scenario(t, "the request, its batch and later ones", func(t *testing.T, w *world) {
		w.up.script(0, 1, step{refusal, 0})
		until := time.Now().Add(day).UTC().Format(time.RFC3339)
		a := w.create("s", goOn, posts(5)...)
		b := w.create("s", parallel, posts(3)...)
		c := w.create("s", stop, posts(3)...)
		synctest.Wait()
		expect(t, "outcomes", w.outcome(a)+", "+w.outcome(b)+", "+w.outcome(c), "200 429! 429! 429! 429!, 429! 429! 429!, 429! - -")
		expect(t, "ledger", w.sent(), "0/0 0/1")
		for _, line := range strings.Split(w.lines(a)+"\n"+w.lines(b), "\n")[1:] {
			if !strings.Contains(line, until) {
				t.Errorf("the line %q doesn't say until when", line)
			}
		}
	})
	scenario(t, "a batch that can wait for the time waits", func(t *testing.T, w *world) {
		w.up.script(0, 0, step{refusal, 0})
		w.create("s", stop, posts(1)...)
		w.pass(day - 19*time.Minute)
		b := w.create("s", stop, posts(1)...)
		synctest.Wait()
		expect(t, "before the time", w.outcome(b), "QUEUED -")
		w.pass(19 * time.Minute)
		synctest.Wait()
		expect(t, "after", w.outcome(b), "200")
	})
	scenario(t, "what waits for a shorter time fails when a longer one is named", func(t *testing.T, w *world) {
		w.up.script(0, 0, step{answered(429, "Retry-After", "60"), 0}, step{answered(200), 0})
		w.up.script(0, 1, step{refusal, time.Second})
		a := w.create("s", parallel, posts(3)...)
		w.pass(30 * time.Second)
		expect(t, "before its own time", w.outcome(a), "IN_PROGRESS - 429! 200")
		w.pass(31 * time.Second)
		synctest.Wait()
		expect(t, "after", w.outcome(a), "429! 429! 200")
		if sent := strings.Fields(w.sent()); len(sent) != 3 {
			t.Errorf("requests were sent: %v", sent)
		}
	})
	scenario(t, "after a crash", func(t *testing.T, w *world) {
		w.up.script(0, 0, step{refusal, 0})
		w.create("s", stop, posts(1)...)
		w.pass(time.Second)
		w.crash()
		w.start()
		b := w.create("s", goOn, posts(2)...)
		synctest.Wait()
		expect(t, "outcome", w.outcome(b), "429! 429!")
		expect(t, "ledger", w.sent(), "0/0")
	})
	pair(t, "on other nodes", func(t *testing.T, w *world, other *host) {
		w.up.script(0, 0, step{refusal, 0})
		w.create("s", stop, posts(1)...)
		w.pass(time.Second)
		me := w.at(other)
		b := w.create("s", goOn, posts(2)...)
		w.at(me)
		w.pass(2 * time.Second)
		expect(t, "outcome", w.outcome(b), "429! 429!")
		expect(t, "ledger", w.sent(), "0/0")
	})
	scenario(t, "other stores find out on their own", func(t *testing.T, w *world) {
		w.refuse(map[string]string{"a": "86400", "b": "86400"})
		a, b := w.create("a", goOn, posts(3)...), w.create("b", goOn, posts(3)...)
		w.pass(2 * time.Second)
		expect(t, "those that were refused", w.outcome(a)+", "+w.outcome(b), "429! 429! 429!, 429! 429! 429!")
		c := w.create("c", goOn, posts(3)...)
		w.pass(10 * time.Second)
		expect(t, "another one", w.outcome(c), "200 200 200")
	})
}

// TestLimitsInOutage checks that an outage in which the API names a wait is an outage: requests wait for
// its end, although it lasts longer than the throttle limit.
func TestLimitsInOutage(t *testing.T) {
	for _, after := range []string{"20", "86400"} {
		outages(t, after, time.Hour, func(t *testing.T, w *world) {
			w.slow(2, 20, 100*time.Millisecond)
			a, b := w.create("a", stop, posts(20)...), w.create("b", parallel, posts(20)...)
			w.pass(50 * time.Millisecond)
			down := answered(503, "Retry-After", after)
			w.up.fail(&down)
			w.pass(50 * time.Minute)
			w.up.fail(nil)
			if took := w.await(t, a, b); took > 45*time.Second {
				t.Errorf("the batches took %v after the upstream's return", took)
			}
			expect(t, "outcomes", w.outcome(a)+", "+w.outcome(b), successes(20)+", "+successes(20))
			w.checkLedger(t)
		})
	}
}
