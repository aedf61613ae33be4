package engine

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/budget"
	"github.com/sheafapi/sheaf/internal/governor"
	"github.com/sheafapi/sheaf/internal/storage"
)

// A run takes one claimed batch as far as it can get in its queue's turn. This file has the loop and
// the ways in which a run ends. choose.go selects the requests to start. attempt.go sends them and
// records the results. recover.go restores what earlier runs of the batch have recorded.

// run belongs to one goroutine. The senders share its channels and only read its other fields.
type run struct {
	// Set before the first attempt.
	e        *Engine
	c        *storage.Claim
	log      *slog.Logger
	news     <-chan struct{} // the creator may have stopped, paused or deleted the batch
	term     *term           // the time for which the queue holds its place
	policy   Policy          // the engine's, with the batch's options
	permit   func() bool     // reports whether a byte of a request may be written now
	trace    runTrace
	token    string
	upstream *governor.Credential // shared by all runs with this token; nil: nothing is sent

	// The batch.
	phase    phase
	lost     bool   // the node was considered dead after the claim, so it starts nothing more
	stuck    error  // why an answer that a request needs can't be read; nil: none is missing
	reason   string // why the remaining requests were not executed
	requests []request
	tally    tally

	// For choose.go.
	width   int       // maximum number of requests in flight
	next    int       // all requests below this index have been considered
	waits   []int     // requests that wait for their next attempt
	later   time.Time // when the governor allows the next attempt; zero: it has not refused one
	outage  time.Time // the latest time by which the outage that made the governor refuse must have ended; zero: there is none
	expired time.Time // when the credential expired; zero: that isn't why the governor refused
	graph   *graph    // nil: no request depends on another
	routes  *routing  // limits on parts of the API; nil: there are none
	share   *share    // the batch's share of the places for further attempts (see extras); nil: the batch runs in order

	// For attempt.go.
	inflight int
	pending  []storage.Mark  // marks that have not been recorded
	held     []*budget.Share // the memory of their answers, by index in pending; nil: none
	senders  int             // goroutines that send
	calls    chan int        // requests to send; has room for all that may be in flight
	answers  chan answer
}

// phase says what a run may still start. A run can go from active to paused and back, and from each
// phase to a later one. It never leaves cutOff, and leaves halted only for cutOff.
type phase uint8

const (
	active phase = iota // requests start
	paused              // nothing starts until the creator resumes the batch
	halted              // nothing more starts, after a failure, a stop or a delete: the batch ends
	cutOff              // the shutdown has cut off an attempt whose outcome is unknown; the next run decides about it
)

// tally counts requests that have ended.
type tally struct {
	ended     int
	failed    int
	inDoubt   int  // included in failed
	answered  bool // an attempt has ended under this claim
	available bool // one of them found the upstream available
}

// request is the progress of one request.
type request struct {
	state     storage.MarkState // 0: not sent
	tries     storage.Tries
	notBefore time.Time          // Waiting
	last      batch.Result       // Waiting: the last answer; storage has its body and headers
	allowed   time.Time          // when the governor allowed the attempt in flight
	end       batch.ResultStatus // Done
	memory    *budget.Share      // reserved for the answer to the attempt in flight
	outgoing  *batch.Request     // the request with its references filled; nil: it has none
}

func (e *Engine) newRun(c *storage.Claim, news <-chan struct{}, t *term) *run {
	r := &run{
		e: e, c: c, news: news, term: t, policy: e.Policy.of(&c.Options),
		log:      e.Logger.With("ticket", c.Ticket, "store", c.Store),
		width:    min(c.Options.Width(), len(c.Requests)),
		requests: make([]request, len(c.Requests)),
		graph:    newGraph(c.Requests),
	}
	if r.width > 1 {
		r.share = e.extras.join(c.Store)
	}
	// permit needs a copy, because the run's goroutine changes the claim.
	queue := &storage.Claim{Queue: c.Queue, Lease: c.Lease}
	r.permit = func() bool { return e.Storage.Authorized(queue) }
	r.calls, r.answers = make(chan int, r.width), make(chan answer, r.width)
	r.heed(c.Signals)
	r.restore()
	r.trace = e.startTrace(c)
	return r
}

// run runs the batch as far as it can get in this turn. It returns the claim of the queue's next
// batch if the turn continues, and otherwise what the queue does next.
//
// The order of the conditions matters:
//   - A halted batch first ends its waiting requests, because finish must find them ended.
//   - A run that was cut off never finishes, even if it is halted: an attempt is still in doubt.
//   - A batch that is halted or complete finishes even if its creator has paused it.
//   - Only then does pick choose requests. It takes a place, memory and the governor's permission for
//     each. Every path from there either starts the requests or returns all of these.
//   - pick can find that the batch is stuck. It can also end the last requests without sending them.
//   - With nothing in flight and nothing to start, a run waits only for a short pause (isPatient).
//     After a longer one, the batch is claimed again.
//   - If start fails because the node is shutting down, the loop continues: pick then chooses
//     nothing, and the batch is released once nothing is in flight.
//   - Nothing returns while a request is in flight, except through setAside and abandon. These
//     wait for the answers.
func (r *run) run() (*storage.Claim, followUp, error) {
	if err := r.unseal(); errors.Is(err, ErrNoKey) {
		return r.awaitKey(err)
	} else if err != nil {
		return r.setAside(err)
	}
	for {
		if r.phase == halted {
			r.endWaits()
		}
		if r.inflight == 0 {
			switch {
			case r.phase == cutOff:
				return r.release(time.Time{})
			case r.isOver():
				return r.finish()
			case r.phase == paused:
				return r.release(storage.Forever)
			}
		}
		begins, due := r.pick()
		if r.stuck != nil {
			r.returnReserved(begins)
			return r.setAside(r.stuck)
		}
		if r.inflight == 0 && len(begins) == 0 {
			if r.isOver() {
				continue
			}
			if !r.outage.IsZero() {
				return r.park()
			}
			if !r.expired.IsZero() {
				if until := r.expired.Add(r.e.Policy.CredentialLimit); until.After(time.Now()) {
					return r.awaitCredential(until)
				}
				r.reason = "the upstream no longer accepts the credential, and no new one came within " + r.e.Policy.CredentialLimit.String()
				r.enter(halted)
				continue
			}
			if !r.isPatient(due) {
				return r.release(due)
			}
		}
		switch err := r.start(begins); {
		case errors.Is(err, storage.ErrNotOwner):
			r.abandon()
			return nil, followUp{}, err
		case isGivenUp(err):
			return r.setAside(err)
		}
		if r.inflight > 0 || len(begins) == 0 {
			r.await(due)
		}
	}
}

// isOver reports whether the batch has nothing left to start.
func (r *run) isOver() bool { return r.phase == halted || r.tally.ended == len(r.requests) }

// enter enters a phase, unless the run is already in a later one.
func (r *run) enter(p phase) { r.phase = max(r.phase, p) }

// heed applies the creator's signals.
func (r *run) heed(s storage.Signals) {
	switch {
	case s.Stopped || s.Deleted:
		r.enter(halted)
	case r.phase <= paused && s.Paused:
		r.phase = paused
	case r.phase <= paused:
		r.phase = active
	}
}

// await waits until an answer or a signal from the creator arrives, due is reached, another batch
// frees a place, or the node shuts down.
func (r *run) await(due time.Time) {
	var timer <-chan time.Time
	if over := time.Now().Add(shortTurn); r.routes.isInLine() && (due.IsZero() || over.Before(due)) {
		due = over // then the run checks whether its turn is over
	}
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
	case <-r.routes.signal():
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
		r.readSignals()
	case <-timer:
	case <-drain:
	}
}

// readSignals reads the creator's signals from storage. If that fails, the next call of record
// returns the signals.
func (r *run) readSignals() {
	if s, err := r.e.Storage.Record(r.e.work, r.c, nil); err == nil {
		r.heed(s)
	}
}

// endWaits ends each request that waits for another attempt. Its last answer becomes its result. A
// request without an answer is not executed.
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

// finish ends the batch. It claims the queue's next batch if the turn continues.
func (r *run) finish() (*storage.Claim, followUp, error) {
	ctx, cancel := r.e.lastWords()
	defer cancel()
	if err := r.recordMost(ctx); isGivenUp(err) {
		return r.setAside(err)
	} else if err != nil {
		return nil, followUp{}, err
	}
	release := r.lost || r.e.drain.Err() != nil || r.e.over(r.term)
	var c *storage.Claim
	err := r.e.persist(ctx, "end a batch", "ticket", r.c.Ticket, func(ctx context.Context) (err error) {
		c, err = r.e.Storage.Finish(ctx, r.c, r.pending, r.reason, release)
		return err
	})
	if err == nil {
		r.reportEnd()
	}
	if isGivenUp(err) {
		return r.setAside(err)
	}
	return c, followUp{again: release}, err
}

// reportEnd reports the end of the batch to the log, the observer and the trace.
func (r *run) reportEnd() {
	skipped := 0
	if r.graph != nil {
		skipped = r.graph.skipped
	}
	n := &r.tally
	now, notExecuted := time.Now(), len(r.requests)-n.ended+skipped
	r.log.Info("batch ended", "requests", len(r.requests), "completed", n.ended-skipped-n.failed, "failed", n.failed, "in_doubt", n.inDoubt, "not_executed", notExecuted,
		"waited", r.c.StartedAt.Sub(r.c.CreatedAt).Round(time.Millisecond).String(), "took", now.Sub(r.c.StartedAt).Round(time.Millisecond).String())
	r.e.Observer.BatchEnded(r.c, n.failed, notExecuted, now)
	r.trace.recordWait(r.e, r.c)
}

// release returns the unfinished batch to storage because its turn is over, the node has lost it or
// is shutting down, or nothing can start before due.
func (r *run) release(due time.Time) (*storage.Claim, followUp, error) {
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
	return nil, followUp{again: true, notBefore: due, lost: r.lost && !r.tally.answered}, err
}

// park returns the batch to storage until the outage of the upstream ends.
func (r *run) park() (*storage.Claim, followUp, error) {
	r.c.Waits = storage.ForUpstream
	c, n, err := r.release(r.outage)
	n.outage = true
	return c, n, err
}

// abandon leaves a batch whose queue this node no longer owns. It waits for the attempts in flight
// and drops their answers.
func (r *run) abandon() {
	for ; r.inflight > 0; r.inflight-- {
		a := <-r.answers
		r.detachMemory(a.index).Release()
	}
}

// close releases what a run still holds when it ends: its senders, its memory and its extra places.
func (r *run) close() {
	close(r.calls)
	r.releaseMemory(len(r.held))
	r.trace.end()
	if r.share != nil {
		r.e.extras.leave(r.share)
	}
	if r.upstream == nil {
		return
	}
	r.routes.close(r.c.Queue, r.isOver())
	if r.later.IsZero() { // otherwise the queue still needs its slot
		r.upstream.Forget(r.c.Queue)
	}
	r.upstream.Detach()
}
