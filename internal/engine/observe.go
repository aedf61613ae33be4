package engine

import (
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/outbound"
	"github.com/sheafapi/sheaf/internal/storage"
)

// Observer counts events. Its methods are called from many goroutines and must not block.
type Observer interface {
	// Attempted reports an attempt and its outcome.
	Attempted(outcome outbound.Outcome, code int, took time.Duration)
	// Waits reports that a request waits for its next attempt. throttled means that the upstream
	// refused it because of a rate limit.
	Waits(throttled bool, pause time.Duration)
	// Ended reports the end of a request. If inDoubt is set, the upstream may have carried it out.
	Ended(store string, status batch.ResultStatus, inDoubt bool)
	// BatchEnded reports the end of a batch, with how many requests failed or were not executed.
	BatchEnded(c *storage.Claim, failed, notExecuted int, now time.Time)
	// Quarantined reports that a batch was quarantined.
	Quarantined(c *storage.Claim)
	// Claimed reports that a queue was claimed.
	Claimed()
	// Lost reports that a batch stopped running because the node was considered dead.
	Lost()
}

// nobody is an Observer that does nothing.
type nobody struct{}

func (nobody) Attempted(outbound.Outcome, int, time.Duration)       {}
func (nobody) Waits(bool, time.Duration)                            {}
func (nobody) Ended(string, batch.ResultStatus, bool)               {}
func (nobody) BatchEnded(c *storage.Claim, _, _ int, now time.Time) {}
func (nobody) Quarantined(*storage.Claim)                           {}
func (nobody) Claimed()                                             {}
func (nobody) Lost()                                                {}

// State describes an engine at one moment.
type State struct {
	Running     int // queues that hold a place
	Places      int // places for queues
	InFlight    int // requests in flight
	MaxInFlight int
	Held        int       // credentials that must wait because the upstream asked for it
	HeldUntil   time.Time // when the last of these waits ends; zero: none
	Parked      int       // queues that wait on this node for the end of the outage
	Outage      time.Time // since when the upstream is unavailable; zero: it isn't, or for too long
}

// State returns the current state.
func (e *Engine) State() State {
	now := time.Now()
	e.mu.Lock()
	running, waits := e.running, 0
	for _, id := range e.parked {
		if q := e.queues[id]; q != nil && q.state == parked {
			waits++
		}
	}
	e.mu.Unlock()
	held, until := e.Governor.Held(now)
	o, out := e.Governor.Outage(now)
	if !out {
		o.Since = time.Time{}
	}
	return State{
		Running: running, Places: e.QueuesAtOnce,
		InFlight: int(e.inFlight.Load()), MaxInFlight: e.MaxOutbound, Held: held, HeldUntil: until, Parked: waits, Outage: o.Since,
	}
}

// reportMark reports the mark of an attempt to the observer.
func (r *run) reportMark(m *storage.Mark, a *outbound.Answer, now time.Time) {
	if m.State == storage.Waiting {
		_, throttled := r.policy.refused(a, now)
		r.e.Observer.Waits(throttled, m.NotBefore.Sub(now))
		return
	}
	r.e.Observer.Ended(r.c.Store, m.Result.Status, m.InDoubt())
}
