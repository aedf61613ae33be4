package engine

import (
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/budget"
	"github.com/sheafapi/sheaf/internal/storage"
)

// patience is how long a batch with nothing in flight keeps its queue's place while the governor
// makes it wait. If other queues wait for the place, briefly applies instead.
const (
	patience = 500 * time.Millisecond
	briefly  = 50 * time.Millisecond
)

// pick chooses the requests to start now, and reserves what each of them needs. due is the earliest
// time at which another one may start; zero if none waits for a set time.
func (r *run) pick() (begins []int, due time.Time) {
	if r.share == nil {
		return r.choose()
	}
	refused := r.share.refused
	r.share.refused = false
	begins, due = r.choose()
	if refused && !r.share.refused {
		r.e.extras.content(r.share)
	}
	return begins, due
}

// choose is pick without the report to extras. It considers the requests that wait for another
// attempt first, then those whose dependencies have ended, then the others in their order.
func (r *run) choose() (begins []int, due time.Time) {
	r.later, r.outage, r.expired = time.Time{}, time.Time{}, time.Time{}
	r.routes.begin()
	if r.phase != active || r.lost || r.e.drain.Err() != nil || r.e.over(r.term) {
		return nil, time.Time{}
	}
	now := time.Now()
	r.waits = slices.DeleteFunc(r.waits, func(i int) bool {
		if at := r.requests[i].notBefore; at.After(now) {
			if due.IsZero() || at.Before(due) {
				due = at
			}
			return false
		}
		switch r.tryStart(i, len(begins), now) {
		case ended:
			return true
		case chosen:
			begins = append(begins, i)
			return true
		case refused, skipped:
		}
		return false
	})
	if r.graph != nil {
		begins = r.unblock(begins, now)
	}
	if r.routes != nil {
		begins = r.reconsider(begins, now)
	}
	// In a batch that runs in order, width is 1, so this considers a request only once all requests
	// before it have ended.
	for ; r.next < len(r.requests) && r.phase < halted && r.inflight+len(begins) < r.width; r.next++ {
		if r.width == 1 && len(r.waits) > 0 {
			break // the batch runs in order, so the requests after a waiting one wait too
		}
		if r.requests[r.next].state != 0 {
			continue
		}
		if !r.graph.isFree(r.next) {
			r.graph.blocked = append(r.graph.blocked, r.next)
			continue
		}
		is := r.tryStart(r.next, len(begins), now)
		if is == refused || is == skipped && r.width == 1 {
			break
		}
		switch is {
		case chosen:
			begins = append(begins, r.next)
		case skipped:
			r.routes.skipped = append(r.routes.skipped, r.next)
		case ended, refused:
		}
	}
	for _, at := range []time.Time{r.later, r.routes.dueAt()} {
		if due.IsZero() || !at.IsZero() && at.Before(due) {
			due = at
		}
	}
	return begins, due
}

// reconsider adds the requests that waited for their routes and can start now to begins.
func (r *run) reconsider(begins []int, now time.Time) []int {
	full := false
	r.routes.skipped = slices.DeleteFunc(r.routes.skipped, func(i int) bool {
		if full || r.phase >= halted {
			return false
		}
		switch r.tryStart(i, len(begins), now) {
		case ended:
			return true
		case chosen:
			begins = append(begins, i)
			return true
		case refused:
			full = true
		case skipped:
		}
		return false
	})
	return begins
}

// unblock adds the blocked requests that can start now to begins.
func (r *run) unblock(begins []int, now time.Time) []int {
	full := false
	r.graph.blocked = slices.DeleteFunc(r.graph.blocked, func(i int) bool {
		switch {
		case r.requests[i].state != 0:
			return true
		case full || r.phase >= halted || !r.graph.isFree(i):
			return false
		}
		switch r.tryStart(i, len(begins), now) {
		case ended:
			return true
		case chosen:
			begins = append(begins, i)
			return true
		case refused:
			full = true
		case skipped:
		}
		return false
	})
	return begins
}

// choice says what tryStart did with a request.
type choice int

const (
	chosen  choice = iota // the request has everything that it needs and will start
	ended                 // the request has ended without being sent
	refused               // no request can start now
	skipped               // the request must wait for its route
)

// tryStart prepares request i and reserves what it needs. begins is the number of requests that
// have been chosen to start before it.
func (r *run) tryStart(i, begins int, now time.Time) choice {
	if is := r.prepare(i); is != chosen {
		return is
	}
	is := r.reserve(i, begins, now)
	if is == refused && r.giveUp(i, now) {
		return ended
	}
	return is
}

// giveUp ends request i unsent if the upstream has refused a request of its store and named a time that
// lies beyond the throttle limit.
func (r *run) giveUp(i int, now time.Time) bool {
	if r.later.IsZero() {
		return false
	}
	until := r.upstream.HeldUntil(r.c.Queue)
	// A hold of at most firstThrottle may be one for which the upstream has named no time.
	if until.Sub(now) <= firstThrottle || !r.e.Policy.isTooLate(until, &r.requests[i].tries, now) {
		return false
	}
	r.later = time.Time{} // the next request may have an earlier limit
	r.endUnsent(i, batch.Result{
		Status: batch.Failed, Code: http.StatusTooManyRequests,
		Line: http.StatusText(http.StatusTooManyRequests) + ": not sent, because " + acceptsNothing(until),
	})
	return true
}

// prepare fills the references of request i after all its dependencies have ended. It ends the
// request if its condition doesn't hold or a reference can't be filled. It returns refused if a
// value that the request needs could not be read.
func (r *run) prepare(i int) choice {
	req := &r.c.Requests[i]
	if req.Links == nil || r.requests[i].outgoing != nil {
		return chosen
	}
	ends := make([]batch.ResultStatus, len(req.Links.DependsOn))
	for n, j := range req.Links.DependsOn {
		ends[n] = r.requests[j].end
	}
	if ok, why := req.Links.RunIf.Holds(ends); !ok {
		r.endUnsent(i, batch.Result{Status: batch.NotExecuted, Line: why})
		return ended
	}
	if len(req.Links.Refs) == 0 {
		return chosen
	}
	if err := r.gather(i); err != nil {
		switch {
		case errors.Is(err, storage.ErrNotFound): // the creator has deleted the batch
			r.enter(halted)
		case isGivenUp(err), isFinal(err):
			r.stuck = err
		}
		return refused
	}
	leave, err := r.e.CPU.Enter(r.e.drain, int64(len(req.Body)), r.c.Store)
	if err != nil {
		return refused
	}
	filled, err := req.Fill(r.graph.values.Of(i))
	leave()
	if err != nil {
		r.endUnsent(i, batch.Result{
			Status: batch.Failed, Code: http.StatusFailedDependency, Line: http.StatusText(http.StatusFailedDependency) + ": " + err.Error(),
		})
		return ended
	}
	r.requests[i].outgoing = filled
	return chosen
}

// endUnsent ends a request that is not sent. References to it can't be filled.
func (r *run) endUnsent(i int, result batch.Result) {
	m := storage.Mark{Index: i, State: storage.Done, Tries: r.requests[i].tries, Result: result}
	r.e.Observer.Ended(r.c.Store, result.Status, m.InDoubt())
	r.note(m, nil)
	r.apply(m)
	if r.graph != nil {
		r.graph.values.Take(i, &m.Result)
	}
}

// reserve takes what an attempt at request i needs: the governor's permission, an outbound place and
// memory for the answer. It takes either all of these or none. If nothing is in flight, it records
// the answers so far and waits for a place and for memory. Otherwise it doesn't wait, because the
// run tries again when an attempt ends.
//
// If the governor refuses, r.later says when it allows an attempt. Until choose resets r.later,
// reserve refuses every request. If only a route of the request refuses, reserve returns skipped.
func (r *run) reserve(i, begins int, now time.Time) choice {
	n := r.inflight + begins
	if n >= r.width || !r.later.IsZero() {
		return refused
	}
	if !r.enterRoutes(i, now) {
		return skipped
	}
	first := n == 0
	var ok bool
	r.later, ok = r.upstream.Try(r.e.drain, r.c.Queue, now)
	if !ok {
		r.routes.undo(i, r.c.Queue)
	}
	if !ok && first && r.later.IsZero() {
		r.later, ok = r.stand()
		now = time.Now()
		if ok && !r.enterRoutes(i, now) {
			r.upstream.Undo(r.c.Queue)
			return skipped
		}
	}
	r.requests[i].allowed = now
	if !ok {
		if o, out := r.e.Governor.Outage(time.Now()); out {
			r.outage = o.EndsBy
		} else {
			r.expired = r.upstream.Expired()
		}
		return refused
	}
	if !r.takePlace(first) {
		r.upstream.Undo(r.c.Queue)
		r.routes.undo(i, r.c.Queue)
		return refused
	}
	if !r.takeMemory(i, first) {
		r.e.outbound.Release(1)
		if !first {
			r.e.extras.give(r.share, 1)
		}
		r.upstream.Undo(r.c.Queue)
		r.routes.undo(i, r.c.Queue)
		return refused
	}
	return chosen
}

// enterRoutes takes a place and a slot from each route of request i. It takes all of them or none.
func (r *run) enterRoutes(i int, now time.Time) bool {
	req := &r.c.Requests[i]
	if filled := r.requests[i].outgoing; filled != nil {
		req = filled
	}
	return r.routes.enter(r.e.drain, i, req, r.c.Queue, now)
}

// stand waits in line for one of the credential's places in flight. It gives up if the batch is
// halted or paused, the node shuts down, or the queue's turn is over.
func (r *run) stand() (later time.Time, ok bool) {
	if r.record(r.pending) != nil { // start records again and returns the error
		return time.Time{}, false
	}
	waiter := r.upstream.Line()
	over := time.NewTicker(shortTurn)
	defer over.Stop()
	for {
		select {
		case <-waiter.Granted:
			return r.upstream.Claim(r.e.drain, r.c.Queue)
		case <-r.news:
			if r.readSignals(); r.phase == active {
				continue
			}
		case <-over.C:
			if !r.e.over(r.term) {
				continue
			}
		case <-r.e.drain.Done():
		}
		r.upstream.Leave(waiter)
		return time.Time{}, false
	}
}

// takePlace takes an outbound place. An attempt that isn't its batch's first in flight also takes
// one of the extras, so that parallel batches leave places for the first attempts of others.
func (r *run) takePlace(first bool) bool {
	if first {
		return r.e.outbound.TryAcquire(1) || r.record(r.pending) == nil && r.e.outbound.Acquire(r.e.drain, 1) == nil
	}
	if r.share.refused = !r.e.extras.take(r.share); r.share.refused {
		return false
	}
	if !r.e.outbound.TryAcquire(1) {
		r.e.extras.give(r.share, 1)
		return false
	}
	return true
}

// takeMemory reserves memory for the answer to request i before the attempt begins.
func (r *run) takeMemory(i int, first bool) bool {
	memory := r.e.answers.Share(r.c.Store)
	if !memory.TryGrow(r.e.advance) && (!first || r.record(r.pending) != nil || memory.Grow(r.e.drain, r.e.advance) != nil) {
		return false
	}
	r.requests[i].memory = memory
	return true
}

// detachMemory removes the memory for the answer from request i and returns it.
func (r *run) detachMemory(i int) *budget.Share {
	memory := r.requests[i].memory
	r.requests[i].memory = nil
	return memory
}

// isPatient reports whether a batch with nothing in flight keeps its queue's place until the time
// that the governor has named. In the line of a route, it keeps the place until its turn is over.
func (r *run) isPatient(due time.Time) bool {
	switch {
	case r.later.IsZero() && r.routes.isInLine():
		return !r.e.over(r.term)
	case r.later.IsZero() && r.routes.dueAt().IsZero():
		return false
	}
	wait := time.Until(due)
	return wait <= briefly || wait <= patience && !r.e.contested()
}
