package engine

import (
	"context"
	"slices"
	"time"

	"github.com/sheafapi/sheaf/internal/storage"
)

// During an outage of the upstream, queues are parked: storage has their batches, and the engine keeps
// only their IDs. At the time of each probe, one parked queue runs, and its first request is the probe.
// At the end of the outage, all of them run, but with few requests in flight at first.

// reachInterval is the time between two attempts to connect to an upstream that is unreachable.
const reachInterval = time.Second

// slowRestart is the longest time after an outage for which requests in flight are limited.
const slowRestart = time.Minute

// probeRetry is how long a queue may take to send a probe before another queue tries.
const probeRetry = time.Second

// outageLoop runs parked queues when a probe is due and when an outage ends.
func (e *Engine) outageLoop(ctx context.Context) {
	var timer <-chan time.Time
	slow := false         // an outage has ended, and few requests may be in flight
	var reached chan bool // the result of a call of Reach; nil: none is running
	after := func(t ...time.Duration) { timer = time.After(slices.Min(t)) }
	for {
		changed := false
		select {
		case <-ctx.Done():
			e.restart(int64(e.MaxOutbound))
			return
		case <-e.Governor.Changed():
			changed = true
		case <-timer:
		case ok := <-reached:
			if reached = nil; ok {
				e.Governor.Hurry()
				continue // Changed follows
			}
		}
		now := time.Now()
		o, out := e.Governor.Outage(now)
		switch {
		case out && now.Before(o.ProbeAt):
			slow = false
			after(o.ProbeAt.Sub(now), o.EndsBy.Sub(now))
			if o.Unreachable && reached == nil {
				reached = e.reach(ctx)
			}
		case out:
			e.withhold()
			e.probe()
			slow = false
			after(probeRetry, o.EndsBy.Sub(now))
		case changed || !slow:
			e.unpark()
			slow = true
			after(slowRestart)
		default:
			e.restart(int64(e.MaxOutbound))
			timer, slow = nil, false
		}
	}
}

// reach checks once whether the upstream accepts connections again, so that the next probe needn't wait.
// The result comes after reachInterval at the earliest, unless it is true.
func (e *Engine) reach(ctx context.Context) chan bool {
	result := make(chan bool, 1)
	go func() {
		ctx, cancel := context.WithTimeout(ctx, reachInterval)
		defer cancel()
		err := e.Upstream.Reach(ctx)
		if err != nil {
			<-ctx.Done()
		}
		result <- err == nil
	}()
	return result
}

// park makes a queue wait for the end of an outage. It returns false if there is none. e.mu is held.
func (e *Engine) park(id storage.QueueID, q *queue) bool {
	if _, out := e.Governor.Outage(time.Now()); !out {
		return false
	}
	q.state = parked
	e.queues[id] = q
	e.parked = append(e.parked, id)
	return true
}

// probe runs the queue that has been parked longest.
func (e *Engine) probe() {
	e.mu.Lock()
	defer e.unlock()
	for len(e.parked) > 0 {
		id := e.parked[0]
		e.parked = e.parked[1:]
		if q := e.queues[id]; q != nil && q.state == parked {
			q.fresh = true // before all queues that wait for a place
			e.enqueue(id, q)
			return
		}
	}
}

// unpark runs all parked queues.
func (e *Engine) unpark() {
	e.mu.Lock()
	defer e.unlock()
	ids := e.parked
	e.parked = nil
	for _, id := range ids {
		if q := e.queues[id]; q != nil && q.state == parked {
			e.line(id, q) // without an offer, because the outage has ended for the other nodes too
		}
	}
}

// withhold limits the requests in flight to one, or to those that are in flight already. After the outage,
// each answer allows one more.
func (e *Engine) withhold() {
	for n := int64(e.MaxOutbound) - 1 - e.withheld.Load(); n > 0; n /= 2 {
		if e.outbound.TryAcquire(n + 1) {
			e.outbound.Release(1) // for the next request
			e.withheld.Add(n)
			return
		}
	}
}

// restart allows up to n more requests in flight after an outage.
func (e *Engine) restart(n int64) {
	for {
		held := e.withheld.Load()
		n = min(n, held)
		if n == 0 {
			return
		}
		if e.withheld.CompareAndSwap(held, held-n) {
			e.outbound.Release(n)
			return
		}
	}
}
