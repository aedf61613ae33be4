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
// makes it wait; briefly is the same while others want the place.
const (
	patience = 500 * time.Millisecond
	briefly  = 50 * time.Millisecond
)

// pick chooses the requests to start now, and reserves what each of them needs. due is the earliest
// moment at which another one may start; zero if none waits for a moment.
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

// choose takes the requests that wait for another attempt first, then those whose dependencies have
// ended, then the others in their order.
func (r *run) choose() (begins []int, due time.Time) {
	r.later = time.Time{}
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
		case refused:
		}
		return false
	})
	if r.graph != nil {
		begins = r.unblock(begins, now)
	}
	// In order, a request is considered only once everything before it has ended.
	for ; r.next < len(r.requests) && r.phase < halted && r.inflight+len(begins) < r.width; r.next++ {
		if r.width == 1 && len(r.waits) > 0 {
			break // in order, whatever follows a waiting request waits too
		}
		if r.requests[r.next].state != 0 {
			continue
		}
		if !r.graph.isFree(r.next) {
			r.graph.blocked = append(r.graph.blocked, r.next)
			continue
		}
		is := r.tryStart(r.next, len(begins), now)
		if is == refused {
			break
		}
		if is == chosen {
			begins = append(begins, r.next)
		}
	}
	if due.IsZero() || !r.later.IsZero() && r.later.Before(due) {
		due = r.later
	}
	return begins, due
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
		}
		return false
	})
	return begins
}

// choice is what becomes of a request that could start.
type choice int

const (
	chosen  choice = iota // it starts, and has everything that it needs
	ended                 // it has ended without being sent
	refused               // it can't start now
)

// tryStart prepares request i and reserves what it needs. begins is the number of requests that are
// to start with it.
func (r *run) tryStart(i, begins int, now time.Time) choice {
	if is := r.prepare(i); is != chosen {
		return is
	}
	if !r.reserve(i, begins, now) {
		return refused
	}
	return chosen
}

// prepare fills the references of request i, all of whose dependencies have ended. It ends the request
// if its condition doesn't hold, or a reference can't be filled. It refuses if storage hasn't
// returned a value that the request needs.
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

// endUnsent ends a request that is not sent. No value can be taken from such an end.
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
// memory for the answer. It takes all of it or nothing. The first attempt of a batch with nothing in
// flight waits for a place and for memory, after recording the answers so far. Further attempts
// don't wait: they get another chance when an attempt ends.
func (r *run) reserve(i, begins int, now time.Time) bool {
	n := r.inflight + begins
	if n >= r.width || !r.later.IsZero() {
		return false
	}
	first := n == 0
	var ok bool
	r.later, ok = r.upstream.Try(r.e.drain, r.c.Queue, now)
	if !ok && first && r.later.IsZero() {
		r.later, ok = r.stand()
		now = time.Now()
	}
	r.requests[i].allowed = now
	if !ok {
		return false
	}
	if !r.takePlace(first) {
		r.upstream.Undo(r.c.Queue)
		return false
	}
	if !r.takeMemory(i, first) {
		r.e.outbound.Release(1)
		if !first {
			r.e.extras.give(r.share, 1)
		}
		r.upstream.Undo(r.c.Queue)
		return false
	}
	return true
}

// stand waits in line for one of the slots that the governor leaves to the credential. It gives up
// if the batch is halted or paused, the node shuts down, or the queue's turn is over.
func (r *run) stand() (later time.Time, ok bool) {
	if r.record(r.pending) != nil { // the next record fails in the same way
		return time.Time{}, false
	}
	slot := r.upstream.Line()
	over := time.NewTicker(shortTurn)
	defer over.Stop()
	for {
		select {
		case <-slot.Granted:
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
		r.upstream.Leave(slot)
		return time.Time{}, false
	}
}

// takePlace takes an outbound place. A batch's further attempts use only a part of the places, so
// that parallel batches leave some for the first attempts of others.
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

// takeMemory takes the memory that an attempt at request i has for its answer before it begins.
func (r *run) takeMemory(i int, first bool) bool {
	memory := r.e.answers.Share(r.c.Store)
	if !memory.TryGrow(r.e.advance) && (!first || r.record(r.pending) != nil || memory.Grow(r.e.drain, r.e.advance) != nil) {
		return false
	}
	r.requests[i].memory = memory
	return true
}

// detachMemory returns the memory that request i has for its answer, and takes it from the request.
func (r *run) detachMemory(i int) *budget.Share {
	memory := r.requests[i].memory
	r.requests[i].memory = nil
	return memory
}

// isPatient reports whether a batch with nothing in flight waits for the moment that the governor has
// named, instead of leaving its queue's place to others.
func (r *run) isPatient(due time.Time) bool {
	if r.later.IsZero() {
		return false
	}
	wait := time.Until(due)
	return wait <= briefly || wait <= patience && !r.e.contested()
}
