package engine

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/outbound"
	"github.com/sheafapi/sheaf/internal/storage"
)

// start sends the requests. Before anything but a GET or HEAD leaves, its intent
// and every earlier answer are durable, in one commit; that is also where a stop is
// noticed, so that nothing leaves after the answer to it. Reads leave at once, and
// what is pending is recorded while they are under way. Neither leaves while it is not
// certain that the queue is still the node's. On an error nothing unsafe has left; any
// but ErrNotOwner means that the node shuts down.
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
	if safe && r.pendingSafe() {
		r.listen()
		if err := r.authorize(); err != nil || r.stays() {
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
	if err != nil || r.stays() {
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

// stays reports whether what is about to leave has to stay.
func (r *run) stays() bool { return r.halted || r.paused || r.lost || r.e.work.Err() != nil }

// authorize makes sure that the queue is still the node's, or finds out that it is lost.
// That may take as long as storage does not answer, so that what the creator wants is
// asked for afterwards.
func (r *run) authorize() error {
	for !r.halted && !r.paused && !r.e.Storage.Authorized(r.c) {
		err := r.e.persist(r.e.drain, "make sure of a queue", "ticket", r.c.Ticket, func(ctx context.Context) error {
			return r.e.Storage.Authorize(ctx, r.c)
		})
		if errors.Is(err, storage.ErrNotOwner) {
			r.log.Warn("the node was taken for dead; the batch starts nothing more here")
			r.lost = true
			r.e.Observer.Lost()
			return nil
		}
		if err == nil {
			err = r.recordAndAsk(r.pending)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// pendingSafe reports whether everything that is not recorded yet only read.
func (r *run) pendingSafe() bool {
	return !slices.ContainsFunc(r.pending, func(m storage.Mark) bool { return !r.c.Requests[m.Index].Safe() })
}

// takeBack undoes the start of requests that have not left, though their intent may
// be recorded: they wait again, with the answer that they had, if any.
func (r *run) takeBack(begins []int) {
	r.e.outbound.Release(int64(len(begins)))
	for _, i := range begins {
		r.upstream.Undo(r.c.Queue)
		r.unsend(i)
	}
}

// unsend makes a request that certainly was not sent wait for its next attempt.
func (r *run) unsend(i int) {
	r.takeMemory(i).Release()
	q := &r.requests[i]
	q.tries.Attempts--
	m := storage.Mark{Index: i, State: storage.Waiting, Tries: q.tries, Result: q.last}
	r.note(asStored(m), nil)
	r.apply(m)
}

// asStored returns a mark that leaves the stored answer as it is.
func asStored(m storage.Mark) storage.Mark {
	m.Result = batch.Result{}
	return m
}

// dispatch lets the requests leave. There are as many senders as requests have been
// under way at once.
func (r *run) dispatch(begins []int) {
	for _, i := range begins {
		r.requests[i].state = storage.Begun
		if r.inflight++; r.inflight > r.senders {
			r.senders++
			go r.sender()
		}
		r.calls <- i
	}
}

// call lets one request leave and waits for its answer, which spares two changes of
// goroutine where nothing else is to be done meanwhile: what the creator wants in that time,
// the next record tells.
func (r *run) call(i int) {
	r.requests[i].state = storage.Begun
	r.inflight++
	r.settle(answer{i, r.send(i)})
}

// sender makes attempts until the run ends. It is kept for that long because its stack
// has grown to what the HTTP client needs.
func (r *run) sender() {
	for i := range r.calls {
		r.answers <- answer{i, r.send(i)}
	}
}

// send makes one attempt and gives its place back.
func (r *run) send(i int) outbound.Answer {
	req := r.request(i)
	var headers []batch.Header
	if req.Links != nil {
		headers = req.Links.Headers
	}
	passed, end := r.traced.attempt(r.e, req, i, r.requests[i].tries.Attempts-1)
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
	ended := time.Now()
	r.e.inFlight.Add(-1)
	r.e.outbound.Release(1)
	if end != nil {
		end(&a)
	}
	if a.Outcome == outbound.Withheld {
		r.upstream.Undo(r.c.Queue)
		return a
	}
	learned := lesson(&a, r.requests[i].allowed, began, ended)
	learned.Store = r.c.Store
	r.upstream.Done(learned)
	r.e.Observer.Attempted(a.Outcome, a.Code, ended.Sub(began))
	if (a.Outcome == outbound.NotSent || a.Outcome == outbound.Doubt) && r.e.work.Err() == nil {
		if n, tell := r.e.silence.count(ended); tell {
			r.log.Warn("the upstream does not answer", "index", i, "problem", a.Line, "since_last_told", n)
		}
	}
	return a
}
