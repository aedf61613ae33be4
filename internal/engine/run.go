package engine

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/budget"
	"github.com/sheafapi/sheaf/internal/cpu"
	"github.com/sheafapi/sheaf/internal/governor"
	"github.com/sheafapi/sheaf/internal/outbound"
	"github.com/sheafapi/sheaf/internal/storage"
)

const (
	// patience is how long a batch waits where it is for the governor; briefly: although
	// others want its place.
	patience = 500 * time.Millisecond
	briefly  = 50 * time.Millisecond
	// overdue is the delay of an attempt from which on it does not count as throttled.
	overdue = time.Minute
)

// run is one claimed batch on its way. It belongs to one goroutine; the attempts
// under way talk to it through answers.
type run struct {
	e        *Engine
	c        *storage.Claim
	log      *slog.Logger
	token    string
	upstream *governor.Credential // what all who use the token share; nil: nothing is sent
	later    time.Time            // when the governor wants to be asked again; zero: it refused nothing
	news     <-chan struct{}
	term     *term // of the queue

	permit   func() bool // whether a request may be written now
	lost     bool        // the node was taken for dead since it made the claim: starts nothing more
	width    int         // requests at the same time
	requests []request
	next     int   // every request below was looked at
	waits    []int // requests that wait for their next attempt
	inflight int
	graph    *graph // nil: no request builds on another
	share    *share // of the places beyond its first; nil: not parallel
	refused  bool   // it was refused one of them
	ended    int
	failed   int
	inDoubt  int    // of failed
	paused   bool   // starts nothing more until its creator lets it go on
	halted   bool   // starts nothing more: a failure, a stop or a delete
	done     bool   // an answer came under this claim
	stuck    error  // why an answer that is needed can't be read
	cutOff   bool   // the shutdown has left a request in doubt, for the next runner to judge
	reason   string // why what was not executed was not
	pending  []storage.Mark
	held     []*budget.Share // the memory of the answers in pending, by its index; nil: none
	lent     int             // requests that have memory for an answer
	senders  int
	traced   traced
	calls    chan int // requests to send; room for all that may be under way
	answers  chan answer
}

// request is the progress of one request.
type request struct {
	state     storage.MarkState // 0: not sent
	tries     storage.Tries
	notBefore time.Time          // Waiting
	last      batch.Result       // Waiting: the last answer, without body and headers: storage has them
	allowed   time.Time          // when the governor allowed what is under way
	end       batch.ResultStatus // Done
	memory    *budget.Share      // what the attempt under way has for its answer
	outgoing  *batch.Request     // what is sent, where references were filled; nil: the request as it is
}

// answer is what came of one attempt.
type answer struct {
	index int
	outbound.Answer
}

func (e *Engine) newRun(c *storage.Claim, news <-chan struct{}, t *term) *run {
	r := &run{
		e: e, c: c, news: news, term: t,
		log:      e.Logger.With("ticket", c.Ticket, "store", c.Store),
		width:    1,
		requests: make([]request, len(c.Requests)),
	}
	if c.Options.Parallel {
		r.width = min(batch.MaxParallel, len(c.Requests))
	}
	if r.width > 1 {
		r.share = e.extras.join(c.Store)
	}
	// The claim itself changes in the hands of the run's own goroutine.
	queue := &storage.Claim{Queue: c.Queue, Lease: c.Lease}
	r.permit = func() bool { return e.Storage.Authorized(queue) }
	r.calls, r.answers = make(chan int, r.width), make(chan answer, r.width)
	r.graph = newGraph(c.Requests)
	r.heed(c.Signals)
	r.recover()
	r.trace()
	return r
}

// recover takes up what is recorded of the batch.
func (r *run) recover() {
	for _, m := range r.c.Marks {
		if m.State == storage.Done {
			r.apply(m)
		}
	}
	now := time.Now()
	for _, m := range r.c.Marks {
		switch m.State {
		case storage.Begun:
			m = r.e.Policy.recovered(&r.c.Requests[m.Index], m, r.halted, now)
			if m.State == storage.Done {
				r.e.Observer.Ended(r.c.Store, m.Result.Status, m.InDoubt())
			}
			r.note(m, nil)
			r.apply(m)
		case storage.Waiting:
			if r.correct(&m, now) {
				r.note(asStored(m), nil)
			}
			r.apply(m)
		case storage.Done:
		}
	}
}

// correct changes the moments of a mark that a wrong clock has left, and reports whether there
// were any.
func (r *run) correct(m *storage.Mark, now time.Time) (changed bool) {
	t := &m.Tries
	if ahead := t.EndedAt.Sub(now); ahead > 0 { // the clock was ahead when the mark was made
		t.EndedAt, m.NotBefore, changed = now, m.NotBefore.Add(-ahead), true
		if !t.ThrottledSince.IsZero() {
			t.ThrottledSince = t.ThrottledSince.Add(-ahead)
		}
	}
	if latest := now.Add(r.e.Policy.longest()); m.NotBefore.After(latest) {
		m.NotBefore, changed = latest, true
	}
	// Time that the request was not waiting for its next attempt, because the service was down
	// or its clock was set forward, is not the upstream's.
	if late := now.Sub(m.NotBefore); late > overdue && !t.ThrottledSince.IsZero() && !m.NotBefore.IsZero() {
		t.ThrottledSince, m.NotBefore, changed = t.ThrottledSince.Add(late), now, true
	}
	if t.ThrottledSince.After(now) {
		t.ThrottledSince, changed = now, true
	}
	return changed
}

// apply takes a mark into account that is, or is about to be, recorded.
func (r *run) apply(m storage.Mark) {
	q := &r.requests[m.Index]
	q.state, q.tries, q.notBefore, q.last = m.State, m.Tries, time.Time{}, batch.Result{}
	switch m.State {
	case storage.Waiting:
		// By the monotonic clock, so that the wait lasts as long when the wall clock is set.
		if now := time.Now(); m.NotBefore.After(now) {
			q.notBefore = now.Add(m.NotBefore.Sub(now))
		}
		q.last = m.Unread().Result
		r.waits = append(r.waits, m.Index)
	case storage.Done:
		q.end, q.outgoing = m.Result.Status, nil
		r.graph.end(m.Index, m.Result.Status)
		r.ended++
		if m.Result.Status == batch.Failed {
			r.failed++
			if m.InDoubt() {
				r.inDoubt++
			}
			r.halted = r.halted || r.c.Options.StopOnFailure
		}
	case storage.Begun:
	}
}

// heed takes the creator's wishes into account.
func (r *run) heed(s storage.Signals) {
	r.halted = r.halted || s.Stopped || s.Deleted
	r.paused = s.Paused
}

// run takes the batch as far as it goes in this turn. It returns the claim of the
// queue's next batch if the turn goes on, or what the queue is to do.
func (r *run) run() (*storage.Claim, next, error) {
	if err := r.unseal(); errors.Is(err, ErrNoKey) {
		return r.awaitKey(err)
	} else if err != nil {
		return r.setAside(err)
	}
	for {
		if r.halted {
			r.endWaits()
		}
		if r.inflight == 0 && r.cutOff {
			return r.release(time.Time{})
		}
		if r.inflight == 0 && (r.halted || r.ended == len(r.requests)) {
			return r.finish()
		}
		if r.inflight == 0 && r.paused {
			return r.release(storage.Forever)
		}
		begins, due := r.pick()
		if r.stuck != nil {
			r.e.outbound.Release(int64(len(begins))) // none was started
			for range begins {
				r.upstream.Undo(r.c.Queue)
			}
			return r.setAside(r.stuck)
		}
		if r.inflight == 0 && len(begins) == 0 && (r.halted || r.ended == len(r.requests)) {
			continue // all that was left has ended without being sent
		}
		if r.inflight == 0 && len(begins) == 0 && !r.patient(due) {
			return r.release(due)
		}
		switch err := r.start(begins); {
		case errors.Is(err, storage.ErrNotOwner):
			r.abandon()
			return nil, next{}, err
		case isGivenUp(err):
			return r.setAside(err)
		}
		if r.inflight > 0 || len(begins) == 0 {
			r.await(due)
		}
	}
}

// pick chooses what to start now and takes a place among the outbound attempts for
// each. due is the earliest moment at which a request that waits may be sent again;
// zero if none waits.
func (r *run) pick() (begins []int, due time.Time) {
	refused := r.refused
	r.later, r.refused = time.Time{}, false
	defer func() {
		if refused && !r.refused {
			r.e.extras.content(r.share)
		}
	}()
	if r.halted || r.paused || r.lost || r.e.drain.Err() != nil || r.e.over(r.term) {
		return nil, time.Time{}
	}
	now := time.Now()
	r.waits = slices.DeleteFunc(r.waits, func(i int) bool {
		q := &r.requests[i]
		if q.notBefore.After(now) {
			if due.IsZero() || q.notBefore.Before(due) {
				due = q.notBefore
			}
			return false
		}
		switch r.prepare(i) {
		case concluded:
			return true
		case undecided:
			return false
		case sendable:
		}
		if !r.room(i, len(begins), now) {
			return false
		}
		begins = append(begins, i)
		return true
	})
	if r.graph != nil {
		begins = r.unblock(begins, now)
	}
	// In order, nothing is judged before everything earlier has ended.
	for ; r.next < len(r.requests) && !r.halted && r.inflight+len(begins) < r.width; r.next++ {
		if r.width == 1 && len(r.waits) > 0 {
			break // in order: what comes after a request that waits, waits too
		}
		if r.requests[r.next].state != 0 {
			continue
		}
		if !r.free(r.next) {
			r.graph.blocked = append(r.graph.blocked, r.next)
			continue
		}
		is := r.prepare(r.next)
		if is == concluded {
			continue
		}
		if is == undecided || !r.room(r.next, len(begins), now) {
			break
		}
		begins = append(begins, r.next)
	}
	if due.IsZero() || !r.later.IsZero() && r.later.Before(due) {
		due = r.later
	}
	return begins, due
}

// room reports whether request i may start beside those that begin with it, and takes what
// it needs to: leave of the governor, and an outbound place. A batch with nothing under way
// waits for a place, with what it has recorded; one with something under way gets another
// chance when that ends.
func (r *run) room(i, begins int, now time.Time) bool {
	n := r.inflight + begins
	if n >= r.width || !r.later.IsZero() {
		return false
	}
	var ok bool
	r.later, ok = r.upstream.Try(r.e.drain, r.c.Queue, now)
	if !ok && n == 0 && r.later.IsZero() {
		r.later, ok = r.stand()
		now = time.Now()
	}
	r.requests[i].allowed = now
	if ok && !r.place(n == 0) {
		r.upstream.Undo(r.c.Queue)
		return false
	}
	if ok && !r.remember(i, n == 0) {
		r.unplace(n == 0)
		r.upstream.Undo(r.c.Queue)
		return false
	}
	return ok
}

// remember takes the memory that an attempt at request i has for its answer before it begins.
// A batch's first attempt waits for it, with what the batch has recorded.
func (r *run) remember(i int, first bool) bool {
	memory := r.e.answers.Share(r.c.Store)
	if !memory.TryGrow(r.e.advance) && (!first || r.record(r.pending) != nil || memory.Grow(r.e.drain, r.e.advance) != nil) {
		return false
	}
	r.requests[i].memory = memory
	r.lent++
	return true
}

// takeMemory returns the memory that request i has for its answer, and no longer has.
func (r *run) takeMemory(i int) *budget.Share {
	memory := r.requests[i].memory
	if memory != nil {
		r.requests[i].memory = nil
		r.lent--
	}
	return memory
}

// unplace gives back the place that place took.
func (r *run) unplace(first bool) {
	r.e.outbound.Release(1)
	if !first {
		r.e.extras.give(r.share, 1)
	}
}

// stand stands in line for one of the places that the governor leaves to the credential. It
// gives up when the batch is to end, the node shuts down, or the queue's turn is over.
func (r *run) stand() (later time.Time, ok bool) {
	if r.record(r.pending) != nil { // the next record fails in the same way
		return time.Time{}, false
	}
	place := r.upstream.Line()
	over := time.NewTicker(shortTurn)
	defer over.Stop()
	for {
		select {
		case <-place.Granted:
			return r.upstream.Claim(r.e.drain, r.c.Queue)
		case <-r.news:
			if r.ask(); !r.halted && !r.paused {
				continue
			}
		case <-over.C:
			if !r.e.over(r.term) {
				continue
			}
		case <-r.e.drain.Done():
		}
		r.upstream.Leave(place)
		return time.Time{}, false
	}
}

// place takes an outbound place: for a batch's first attempt, or for a further one. Those
// have a share of the places only, so that parallel batches leave some to everybody's
// first.
func (r *run) place(first bool) bool {
	if first {
		return r.e.outbound.TryAcquire(1) || r.record(r.pending) == nil && r.e.outbound.Acquire(r.e.drain, 1) == nil
	}
	if r.refused = !r.e.extras.take(r.share); r.refused {
		return false
	}
	if !r.e.outbound.TryAcquire(1) {
		r.e.extras.give(r.share, 1)
		return false
	}
	return true
}

// patient reports whether a batch with nothing under way waits where it is for the moment
// that the governor has named, instead of giving its place to others.
func (r *run) patient(due time.Time) bool {
	if r.later.IsZero() {
		return false
	}
	wait := time.Until(due)
	return wait <= briefly || wait <= patience && !r.e.contested()
}

// leave lets go of what a run that is over still holds: its senders, and the extra places
// of requests that were taken back or abandoned.
func (r *run) leave() {
	close(r.calls)
	r.forget(len(r.held))
	r.traced.end()
	if r.share != nil {
		r.e.extras.leave(r.share)
	}
	if r.upstream == nil {
		return
	}
	if r.later.IsZero() { // else the queue comes back for its slot
		r.upstream.Forget(r.c.Queue)
	}
	r.upstream.Detach()
}

// await waits until something happened: answers came, the creator wants something,
// a request that waited is due, or the node shuts down.
func (r *run) await(due time.Time) {
	var timer <-chan time.Time
	if !due.IsZero() {
		timer = time.After(time.Until(due))
	}
	drain := r.e.drain.Done()
	if r.e.drain.Err() != nil {
		drain = nil
	}
	var again <-chan struct{}
	if r.share != nil {
		again = r.share.again
	}
	select {
	case <-again:
	case a := <-r.answers:
		r.settle(a)
		for r.inflight > 0 {
			select {
			case a := <-r.answers:
				r.settle(a)
			default:
				return
			}
		}
	case <-r.news:
		r.ask()
	case <-timer:
	case <-drain:
	}
}

// listen looks whether there is news from the creator.
func (r *run) listen() {
	select {
	case <-r.news:
		r.ask()
	default:
	}
}

// ask looks what the creator wants. What it can't learn now the next record tells.
func (r *run) ask() {
	if s, err := r.e.Storage.Record(r.e.work, r.c, nil); err == nil {
		r.heed(s)
	}
}

// settle decides what an answer means.
func (r *run) settle(a answer) {
	if r.inflight--; r.share != nil {
		r.e.extras.give(r.share, 1)
	}
	if a.Outcome == outbound.Withheld {
		r.unsend(a.index) // the next start finds out why
		return
	}
	complete := a.Outcome == outbound.Answered && !(a.Incomplete && r.c.Requests[a.index].Repeatable())
	if r.e.work.Err() != nil && !complete {
		// We cut it off ourselves. If it may have reached the upstream, its intent
		// stays for the next runner to judge.
		if a.Outcome == outbound.NotSent || a.Outcome == outbound.Refused {
			r.unsend(a.index)
		} else {
			r.takeMemory(a.index).Release()
			r.cutOff = true
		}
		return
	}
	r.done = true
	now := time.Now()
	m := r.judge(&a, now)
	m.Index = a.index
	if m.State == storage.Done {
		m.NotBefore = r.requests[a.index].allowed
	}
	r.observe(&m, &a.Answer, now)
	memory := r.takeMemory(a.index)
	memory.Keep(int64(storage.Size([]storage.Mark{m})))
	r.note(m, memory)
	r.apply(m)
	r.learn(&a.Answer)
}

// judge is Policy.judge. For a large answer it waits for the store's turn at the processors, because
// recognizing a large body as JSON takes milliseconds.
func (r *run) judge(a *answer, now time.Time) storage.Mark {
	if size := int64(len(a.Body)); size >= cpu.Large {
		if leave, err := r.e.CPU.Enter(r.e.work, size, r.c.Store); err == nil {
			defer leave()
		}
	}
	return r.e.Policy.judge(&r.c.Requests[a.index], r.c.Options, r.requests[a.index].tries, &a.Answer, now)
}

// endWaits ends the requests that wait for another attempt with the answer that
// they have: the batch starts nothing more. One without an answer was not executed.
func (r *run) endWaits() {
	for _, i := range r.waits {
		q := &r.requests[i]
		if q.last.Status == 0 {
			continue
		}
		m := storage.Mark{Index: i, State: storage.Done, Tries: q.tries, Result: q.last}
		r.e.Observer.Ended(r.c.Store, m.Result.Status, m.InDoubt())
		r.note(asStored(m), nil)
		r.apply(m)
	}
	r.waits = nil
}

// finish ends the batch and goes on with the queue's next one if the turn allows.
func (r *run) finish() (*storage.Claim, next, error) {
	ctx, cancel := r.e.lastWords()
	defer cancel()
	if err := r.recordMost(ctx); isGivenUp(err) {
		return r.setAside(err)
	} else if err != nil {
		return nil, next{}, err
	}
	release := r.lost || r.e.drain.Err() != nil || r.e.over(r.term)
	var c *storage.Claim
	err := r.e.persist(ctx, "end a batch", "ticket", r.c.Ticket, func(ctx context.Context) (err error) {
		c, err = r.e.Storage.Finish(ctx, r.c, r.pending, r.reason, release)
		return err
	})
	if err == nil {
		skipped := 0
		if r.graph != nil {
			skipped = r.graph.skipped
		}
		now, left := time.Now(), len(r.requests)-r.ended+skipped
		r.log.Info("batch ended", "requests", len(r.requests), "completed", r.ended-skipped-r.failed, "failed", r.failed, "in_doubt", r.inDoubt, "not_executed", left,
			"waited", r.c.StartedAt.Sub(r.c.CreatedAt).Round(time.Millisecond).String(), "took", now.Sub(r.c.StartedAt).Round(time.Millisecond).String())
		r.e.Observer.BatchEnded(r.c, r.failed, left, now)
		r.traced.queued(r.e, r.c)
	}
	if isGivenUp(err) {
		return r.setAside(err)
	}
	return c, next{again: release}, err
}

// release gives the batch back to storage, unfinished: its turn is over, the node has
// lost it or shuts down, or it has nothing to do before the given moment.
func (r *run) release(due time.Time) (*storage.Claim, next, error) {
	ctx, cancel := r.e.lastWords()
	defer cancel()
	err := r.recordMost(ctx)
	if err == nil {
		r.progress()
		err = r.e.handBack(r.c, r.pending, due)
	}
	if isGivenUp(err) {
		return r.setAside(err)
	}
	return nil, next{again: true, notBefore: due, lost: r.lost && !r.done}, err
}

// abandon leaves a batch that another node runs now, or that can't be recorded
// because the node shuts down: what was written to the upstream is let end, and its
// answer dropped.
func (r *run) abandon() {
	for ; r.inflight > 0; r.inflight-- {
		a := <-r.answers
		r.takeMemory(a.index).Release()
	}
}
