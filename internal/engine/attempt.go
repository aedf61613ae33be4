package engine

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/budget"
	"github.com/sheafapi/sheaf/internal/cpu"
	"github.com/sheafapi/sheaf/internal/governor"
	"github.com/sheafapi/sheaf/internal/outbound"
	"github.com/sheafapi/sheaf/internal/storage"
)

// Before a byte of request i leaves, all of this holds:
//
//	The batch is not stopped, paused, deleted or halted.        TestStop, TestPause, TestFailure
//	If the batch runs in order, all requests before i have
//	ended.                                                      TestOrder, TestModel
//	All dependencies of i have ended, and its condition holds.  TestGraph, TestGraphStops
//	The answers from which i takes values are durable.          TestAnswersAreRecordedBeforeValuesAreTaken
//	i has the governor's permission and an outbound place.      TestGovernorPace, TestPlaces
//	i has memory for its answer.                                TestAnswersShareMemory
//	The intent of i is durable, unless i is a GET or HEAD.      TestCrash, TestStorageFails
//	Earlier answers are durable, unless i and their requests
//	only read.                                                  TestStorageDown
//	After these commits, the node has confirmed that it owns
//	the queue.                                                  TestExpired, TestUncertain
//	When the connection is ready, the node still owns it.       TestWithheld
//	If i is a POST or PATCH, no earlier attempt can have been
//	carried out, unless Policy.RetryInDoubt is set.             TestFailure, TestRecovered, TestModel

// start sends the requests. Before anything but a GET or HEAD leaves, every earlier answer becomes
// durable, and then its intent, usually in one commit. That commit also returns a stop, so nothing
// leaves after the stop was acknowledged. If the pending marks are of reads too, reads leave at
// once, and the marks are recorded while they are in flight.
//
// If start returns an error, nothing but reads has left. Unless the error is ErrNotOwner or one
// that isGivenUp reports, it means that the node is shutting down.
func (r *run) start(begins []int) error {
	if len(begins) == 0 {
		return r.record(r.pending)
	}
	now := time.Now()
	safe := true
	for _, i := range begins {
		t := &r.requests[i].tries
		if t.Attempts++; t.StartedAt.IsZero() {
			t.StartedAt = now
		}
		safe = safe && r.c.Requests[i].Safe()
	}
	if safe && r.isPendingSafe() {
		select {
		case <-r.news:
			r.readSignals()
		default:
		}
		if err := r.authorize(); err != nil || r.mustStay() {
			r.takeBack(begins)
			return err
		}
		r.dispatch(begins)
		return r.record(r.pending)
	}
	marks := r.pending
	for _, i := range begins {
		if !r.c.Requests[i].Safe() {
			marks = append(marks, storage.Mark{Index: i, State: storage.Begun, Tries: r.requests[i].tries})
		}
	}
	err := r.record(marks)
	if err == nil {
		err = r.authorize()
	}
	if err != nil || r.mustStay() {
		r.takeBack(begins)
		return err
	}
	if r.width == 1 {
		r.call(begins[0])
	} else {
		r.dispatch(begins)
	}
	return nil
}

// isPendingSafe reports whether all pending marks belong to requests that only read.
func (r *run) isPendingSafe() bool {
	return !slices.ContainsFunc(r.pending, func(m storage.Mark) bool { return !r.c.Requests[m.Index].Safe() })
}

// mustStay reports whether requests that were chosen must not leave after all.
func (r *run) mustStay() bool { return r.phase != active || r.lost || r.e.work.Err() != nil }

// authorize confirms that the node still owns the queue, or sets r.lost. It waits until storage
// answers, so it reads the creator's signals afterwards.
func (r *run) authorize() error {
	for r.phase == active && !r.e.Storage.Authorized(r.c) {
		err := r.e.persist(r.e.drain, "confirm the owner of a queue", "ticket", r.c.Ticket, func(ctx context.Context) error {
			return r.e.Storage.Authorize(ctx, r.c)
		})
		if errors.Is(err, storage.ErrNotOwner) {
			r.log.Warn("this node was considered dead; it starts no more requests of the batch")
			r.lost = true
			r.e.Observer.Lost()
			return nil
		}
		if err == nil {
			err = r.recordUnder(r.e.work, r.pending)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// takeBack undoes the start of requests that have not left, even if their intent is recorded. They
// wait again and keep their earlier answer, if any.
func (r *run) takeBack(begins []int) {
	r.returnReserved(begins)
	for _, i := range begins {
		r.unsend(i)
	}
}

// returnReserved gives back what pick has reserved for requests that have not left.
func (r *run) returnReserved(begins []int) {
	r.e.outbound.Release(int64(len(begins)))
	if extra := r.inflight + len(begins) - 1; r.share != nil && extra > 0 {
		r.e.extras.give(r.share, min(extra, len(begins))) // the first attempt takes no extra place
	}
	for _, i := range begins {
		r.upstream.Undo(r.c.Queue)
		r.routes.undo(i, r.c.Queue)
		r.detachMemory(i).Release()
	}
}

// unsend records that a request was not sent. The request waits for its next attempt.
func (r *run) unsend(i int) {
	r.detachMemory(i).Release()
	q := &r.requests[i]
	q.tries.Attempts--
	m := storage.Mark{Index: i, State: storage.Waiting, Tries: q.tries, Result: q.last}
	r.note(asStored(m), nil)
	r.apply(m)
}

// asStored returns a mark that leaves the stored answer unchanged.
func asStored(m storage.Mark) storage.Mark {
	m.Result = batch.Result{}
	return m
}

// dispatch hands requests to the senders. A run has as many senders as the most requests that it
// has dispatched at the same time.
func (r *run) dispatch(begins []int) {
	for _, i := range begins {
		r.requests[i].state = storage.Begun
		if r.inflight++; r.inflight > r.senders {
			r.senders++
			go r.sendAll()
		}
		r.calls <- i
	}
}

// call sends one request and waits for its answer. Without a sender, this saves two switches between
// goroutines. It reads no signals while it waits; the next record returns them.
func (r *run) call(i int) {
	r.requests[i].state = storage.Begun
	r.inflight++
	r.settle(r.send(i))
}

// sendAll is a sender. It makes attempts until the run ends, because a new goroutine would have to
// grow its stack to the size that the HTTP client needs.
func (r *run) sendAll() {
	for i := range r.calls {
		r.answers <- r.send(i)
	}
}

// answer is the outcome of one attempt.
type answer struct {
	index   int
	verdict governor.Verdict // whether a failure counts
	outbound.Answer
}

// send makes one attempt and releases its outbound place.
func (r *run) send(i int) answer {
	req := &r.c.Requests[i]
	if filled := r.requests[i].outgoing; filled != nil {
		req = filled
	}
	var headers []batch.Header
	if req.Links != nil {
		headers = req.Links.Headers
	}
	passed, end := r.trace.attempt(r.e, req, i, r.requests[i].tries.Attempts-1)
	if len(passed) > 0 && !slices.ContainsFunc(headers, isTraceHeader) {
		headers = append(passed, headers...)
	}
	r.e.inFlight.Add(1)
	began := time.Now()
	a := r.e.Upstream.Do(r.e.work, &outbound.Call{
		Store: r.c.Store, Method: req.Method, Path: req.Path, Body: req.Body,
		Token: r.token, Headers: headers, Key: batch.IdempotencyKey(r.c.Ticket, i), Permit: r.permit,
		Memory: r.requests[i].memory,
	})
	finished := time.Now()
	r.e.inFlight.Add(-1)
	r.e.outbound.Release(1)
	if end != nil {
		end(&a)
	}
	if a.Outcome == outbound.Withheld {
		r.upstream.Undo(r.c.Queue)
		r.routes.undo(i, r.c.Queue)
		return answer{index: i, Answer: a}
	}
	learned := r.policy.lesson(&a, r.requests[i].allowed, began, finished)
	learned.Store, learned.Request = r.c.Store, governor.RequestID{Ticket: r.c.Ticket, Index: i}
	learned.Unavailable = isUnavailable(&a) && r.e.work.Err() == nil
	learned.Unreachable = a.Outcome == outbound.NotSent
	learned.Accepted, learned.Unauthorized = a.Outcome == outbound.Answered && a.Code/100 == 2, isUnauthorized(&a)
	r.routes.done(i)
	verdict := r.upstream.Done(r.e.work, learned)
	if !learned.Unavailable {
		r.e.restart(1)
	}
	r.e.Observer.Attempted(a.Outcome, a.Code, finished.Sub(began))
	if (a.Outcome == outbound.NotSent || a.Outcome == outbound.Doubt) && r.e.work.Err() == nil {
		if n, due := r.e.silence.Failed(finished); due {
			r.log.Warn("the upstream does not answer", "index", i, "problem", a.Line, "since_last_log", n)
		}
	}
	return answer{i, verdict, a}
}

// settle decides what an answer means.
func (r *run) settle(a answer) {
	if r.inflight--; r.share != nil {
		r.e.extras.give(r.share, 1)
	}
	if a.Outcome == outbound.Withheld {
		r.unsend(a.index) // the next start checks whether the node still owns the queue
		return
	}
	complete := a.Outcome == outbound.Answered && !(a.Incomplete && r.c.Requests[a.index].Repeatable())
	if r.e.work.Err() != nil && !complete {
		// This node has cut the attempt off. If the request may have reached the upstream, its
		// intent stays, and the next run decides about it.
		if a.Outcome == outbound.NotSent || a.Outcome == outbound.Refused {
			r.unsend(a.index)
		} else {
			r.detachMemory(a.index).Release()
			r.enter(cutOff)
		}
		return
	}
	r.tally.answered = true
	r.tally.available = r.tally.available || !isUnavailable(&a.Answer) && a.verdict == governor.Counts
	now := time.Now()
	m := r.judge(&a, now)
	m.Index = a.index
	if _, out := r.e.Governor.Outage(now); out && a.verdict == governor.Unavailable && m.State == storage.Waiting {
		m.NotBefore = storage.CeilMillis(now) // it waits for the end of the outage instead
	}
	if m.State == storage.Done {
		m.NotBefore = r.requests[a.index].allowed
	}
	r.reportMark(&m, &a.Answer, now)
	memory := r.detachMemory(a.index)
	memory.Keep(int64(storage.Size([]storage.Mark{m})))
	r.note(m, memory)
	r.apply(m)
	r.learn(&a.Answer)
}

// judge calls Policy.judge. If the answer is large, it first waits for the store's turn at the
// processors, because checking whether a large body is JSON takes milliseconds.
func (r *run) judge(a *answer, now time.Time) storage.Mark {
	if size := int64(len(a.Body)); size >= cpu.Large {
		if leave, err := r.e.CPU.Enter(r.e.work, size, r.c.Store); err == nil {
			defer leave()
		}
	}
	return r.policy.judge(&r.c.Requests[a.index], r.requests[a.index].tries, &a.Answer, a.verdict, now)
}

// note adds a mark, and the memory of its answer, to those that must be recorded.
func (r *run) note(m storage.Mark, memory *budget.Share) {
	r.pending, r.held = append(r.pending, m), append(r.held, memory)
}

// portionBytes limits the size of the marks that one call records, unless it records only one.
const portionBytes = 2 << 20

// record makes marks durable and applies the creator's signals. marks is r.pending, or r.pending
// followed by more marks.
func (r *run) record(marks []storage.Mark) error {
	if len(marks) == 0 {
		return nil
	}
	return r.recordUnder(r.e.work, marks)
}

// recordUnder is record with a context. It also reads the creator's signals if there are no marks.
// It records the marks in order, one portion per call, so that storage can finish each call in
// time. After a failure, the portions get smaller, down to a single mark.
func (r *run) recordUnder(ctx context.Context, marks []storage.Mark) error {
	most := portionBytes
	for rest := marks; ; {
		var n int
		err := r.e.persist(ctx, "record results", "ticket", r.c.Ticket, func(ctx context.Context) error {
			n = storage.Portion(rest, most)
			s, err := r.e.Storage.Record(ctx, r.c, rest[:n])
			if err == nil {
				r.heed(s)
			} else {
				most = max(1, min(most, storage.Size(rest[:n]))/2)
			}
			return err
		})
		if err != nil {
			return err
		}
		r.takeRecorded(rest[:n])
		recorded := min(n, len(r.pending))
		r.releaseMemory(recorded)
		r.pending, r.held = r.pending[recorded:], r.held[recorded:]
		if rest = rest[n:]; len(rest) == 0 {
			break
		}
	}
	clear(marks) // storage has the answers' bodies now
	r.pending, r.held = marks[:0], r.held[:0]
	r.progress()
	return nil
}

// releaseMemory releases the memory of the first n pending answers.
func (r *run) releaseMemory(n int) {
	for i, memory := range r.held[:n] {
		memory.Release()
		r.held[i] = nil
	}
}

// recordMost records the pending marks if they are too large for the call that ends the batch or
// returns it.
func (r *run) recordMost(ctx context.Context) error {
	if storage.Size(r.pending) <= portionBytes {
		return nil
	}
	return r.recordUnder(ctx, r.pending)
}
