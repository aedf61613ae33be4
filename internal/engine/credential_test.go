package engine

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// expiring runs a scenario in which batches wait for a new credential for at most limit.
func expiring(t *testing.T, name string, limit time.Duration, f func(t *testing.T, w *world)) {
	t.Helper()
	scenario(t, name, func(t *testing.T, w *world) {
		w.shutdown()
		w.policy.CredentialLimit = limit
		w.start()
		f(t, w)
	})
}

// TestCredentialExpires checks that batches wait for a new credential once the upstream no longer
// accepts theirs, and that almost nothing is sent in the meantime.
func TestCredentialExpires(t *testing.T) {
	unauthorized := answered(401)
	expiring(t, "and its limit passes", 24*time.Hour, func(t *testing.T, w *world) {
		const n = 100
		w.sharing()
		w.restart(w.options)
		w.slow(2, n, 100*time.Millisecond)
		for b := range 2 {
			for i := range 300 {
				w.up.script(2+b, i, step{answered(200), 700 * time.Millisecond})
			}
		}
		batches := []*testBatch{
			w.create("a", stop, posts(n)...), w.create("b", goOn, posts(n)...), w.create("c", parallel, gets(300)...),
			w.create("d", batch.Options{Parallel: true, StopOnFailure: true}, posts(300)...),
		}
		w.pass(time.Second)
		w.up.fail(&unauthorized)
		w.pass(time.Second)
		calm := time.Now()
		later := w.create("e", stop, posts(n)...)
		w.pass(time.Hour)
		if got := w.probes(calm); len(got) > 0 {
			t.Errorf("requests were sent after %v s", got)
		}
		for i, b := range append(batches, later) {
			if s := w.status(b); s.Wait.For != storage.ForCredential || s.Failed > 0 {
				t.Errorf("batch %d waits for %v since %v; %d failed", i, s.Wait.For, s.Wait.Since, s.Failed)
			}
		}
		w.pass(24 * time.Hour)
		for i, b := range append(batches, later) {
			if s := w.status(b); s.Status != batch.Completed || s.Reason != "the upstream no longer accepts the credential, and no new one came within 24h0m0s" {
				t.Errorf("batch %d after the limit: %v, %q", i, s.Status, s.Reason)
			}
		}
		w.checkLedger(t)
	})
	expiring(t, "and is accepted again by chance", 24*time.Hour, func(t *testing.T, w *world) {
		w.slow(1, 3, time.Minute)
		a := w.create("s", parallel, gets(3)...)
		w.pass(time.Second)
		w.up.script(1, 0, step{answer: unauthorized})
		w.pass(time.Hour)
		expect(t, "outcome", w.outcome(a), "200 200 200")
	})
	expiring(t, "and was never valid", 24*time.Hour, func(t *testing.T, w *world) {
		w.up.fail(&unauthorized)
		a, b := w.create("a", stop, posts(3)...), w.create("b", goOn, posts(3)...)
		w.pass(time.Minute)
		expect(t, "outcome", w.outcome(a)+", "+w.outcome(b), "401! - -, 401! 401! 401!")
	})
	expiring(t, "0", 0, func(t *testing.T, w *world) {
		a := w.create("s", goOn, posts(1)...)
		w.pass(time.Second)
		w.up.fail(&unauthorized)
		b := w.create("s", goOn, posts(2)...)
		w.pass(time.Second)
		expect(t, "outcome", w.outcome(a)+", "+w.outcome(b), "200, 401! 401!")
	})
}

// TestExpiryIsKnown checks that other nodes, and a process after a crash, know that a credential was
// accepted and that it has expired.
func TestExpiryIsKnown(t *testing.T) {
	unauthorized := answered(401)
	expiring(t, "after a crash", 24*time.Hour, func(t *testing.T, w *world) {
		w.create("s", goOn, posts(1)...)
		w.pass(time.Second)
		w.crash()
		w.pass(time.Minute)
		w.start()
		w.up.fail(&unauthorized)
		a := w.create("s", stop, posts(3)...)
		w.pass(time.Minute)
		expect(t, "a credential that was accepted before the crash", w.outcome(a), "QUEUED - - -")
		sent := len(w.probes(time.Time{}))
		w.crash()
		w.start()
		w.pass(time.Hour)
		if n := len(w.probes(time.Time{})); n != sent || sent != 2 {
			t.Errorf("%d requests were sent, %d after another crash", sent, n)
		}
	})
	pair(t, "to another node", func(t *testing.T, w *world, other *host) {
		w.policy.CredentialLimit = 24 * time.Hour
		first := w.host
		w.sharing()
		w.restart(w.options)
		w.at(other)
		w.restart(w.options)
		w.at(first)
		w.create("a", goOn, posts(1)...)
		w.pass(time.Second)
		w.up.fail(&unauthorized)
		w.create("a", goOn, posts(3)...)
		w.pass(time.Second)
		calm := time.Now()
		w.at(other)
		for i := range 20 {
			w.create(fmt.Sprint("b", i), goOn, posts(3)...)
		}
		w.pass(time.Hour)
		synctest.Wait()
		if got := w.probes(calm); len(got) > 0 {
			t.Errorf("requests were sent after %v s", got)
		}
		w.at(first)
	})
}
