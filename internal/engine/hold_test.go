package engine

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sheafapi/sheaf/internal/outbound"
)

// refusingUpstream is an upstream that refuses the first attempts of some stores' requests.
type refusingUpstream struct {
	reachable
	after map[string]string // by store: its Retry-After

	mu    sync.Mutex
	tried map[string]bool // by Idempotency-Key: the first attempt was refused
}

func (u *refusingUpstream) Do(_ context.Context, c *outbound.Call) outbound.Answer {
	u.mu.Lock()
	defer u.mu.Unlock()
	if after := u.after[c.Store]; after != "" && !u.tried[c.Key] {
		u.tried[c.Key] = true
		return answered(429, "Retry-After", after)
	}
	return answered(200)
}

// refuse restarts the world with a refusing upstream and one credential for all stores.
func (w *world) refuse(after map[string]string) {
	w.shutdown()
	w.sharing()
	w.options.Upstream = &refusingUpstream{after: after, tried: map[string]bool{}}
	w.start()
}

// TestThrottledStore checks that a hold of one store delays other stores with the same credential by one
// second, and that holds of several stores delay all of them.
func TestThrottledStore(t *testing.T) {
	scenario(t, "other stores continue", func(t *testing.T, w *world) {
		w.refuse(map[string]string{"throttled": "600"})
		a := w.create("throttled", stop, posts(1)...)
		synctest.Wait()
		b := w.create("free", goOn, posts(3)...)
		w.pass(2 * time.Second)
		expect(t, "another store", w.outcome(b), "200 200 200")
		w.pass(9 * time.Minute)
		expect(t, "the throttled one", w.outcome(a), "QUEUED -")
		w.pass(time.Minute)
		expect(t, "the throttled one after its wait", w.outcome(a), "200")
	})
	scenario(t, "also after a crash", func(t *testing.T, w *world) {
		w.refuse(map[string]string{"throttled": "200"})
		a := w.create("throttled", stop, posts(1)...)
		w.pass(time.Second)
		w.crash()
		w.start()
		b := w.create("free", stop, posts(1)...)
		w.pass(2 * time.Second)
		expect(t, "another store", w.outcome(b), "200")
		expect(t, "the throttled one", w.outcome(a), "QUEUED -")
		w.pass(200 * time.Second)
		expect(t, "the throttled one after its wait", w.outcome(a), "200")
	})
	scenario(t, "several refused stores hold back all, until one succeeds", func(t *testing.T, w *world) {
		w.refuse(map[string]string{"a": "100", "b": "100"})
		a := w.create("a", stop, posts(1)...)
		b := w.create("b", stop, posts(1)...)
		w.pass(1500 * time.Millisecond)
		c := w.create("c", stop, posts(1)...)
		w.pass(time.Second)
		expect(t, "a third store", w.outcome(c), "QUEUED -")
		w.pass(10 * time.Second)
		expect(t, "a third store when it may try", w.outcome(c), "200")
		d := w.create("d", stop, posts(1)...)
		w.pass(100 * time.Millisecond)
		expect(t, "a fourth store after that", w.outcome(d), "200")
		expect(t, "the throttled ones", w.outcome(a)+w.outcome(b), "QUEUED -QUEUED -")
	})
	scenario(t, "a store that is always refused barely slows others", func(t *testing.T, w *world) {
		w.refuse(map[string]string{"mallory": "1"})
		w.create("mallory", goOn, posts(100)...)
		w.pass(10 * time.Second)
		b := w.create("bob", goOn, posts(200)...)
		w.pass(10 * time.Second)
		if done := w.status(b).Completed; done < 200 {
			t.Errorf("%d of 200 requests have ended after 10 s", done)
		}
	})
}
