package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sheafapi/sheaf/internal/budget"
	"github.com/sheafapi/sheaf/internal/outage"
	"github.com/sheafapi/sheaf/internal/storage"
)

// runQueue runs the queue's batches, oldest first, until there is none, the
// queue's turn is over, or its batch has to wait.
func (e *Engine) runQueue(id storage.QueueID, news <-chan struct{}, t *term) followUp {
	if !e.probation.enter(id) {
		return followUp{again: true, notBefore: time.Now().Add(probationPause)}
	}
	defer e.probation.leave(id)
	c, err := e.claim(id)
	claimed := c != nil
	if claimed {
		e.Introduce(id, c.Store, c.Owner)
	}
	for err == nil && c != nil {
		var n followUp
		if c, n, err = e.runBatch(c, news, t); err == nil && c == nil {
			return n
		}
	}
	switch {
	case e.drain.Err() != nil: // it may be another node's turn
		return followUp{again: true}
	case isGivenUp(err) && !errors.Is(err, storage.ErrNothing): // the node may have the queue: then no scan finds it
		e.Logger.Error("a store's queue can't be run at the moment", "queue", id, "error", err)
		return followUp{again: true, notBefore: time.Now().Add(asidePause)}
	case claimed && errors.Is(err, storage.ErrNotOwner): // see who has it now
		return followUp{again: true, notBefore: time.Now().Add(scanInterval)}
	}
	// Nothing to run, or owned elsewhere: the scan finds it if that changes.
	return followUp{}
}

// claim claims the queue, unless the node shuts down. That does not interrupt a call: a
// claim that nobody knows of would keep the queue from other nodes until Close.
func (e *Engine) claim(id storage.QueueID) (c *storage.Claim, err error) {
	err = e.persist(e.drain, "claim a queue", "queue", id, func(context.Context) (err error) {
		c, err = e.Storage.Claim(e.work, id)
		return err
	})
	if err == nil {
		e.Observer.Claimed()
	}
	return c, err
}

// runBatch runs one batch as far as it goes in this turn. Its memory is taken before it is
// loaded. It returns the claim of the queue's next batch if the turn goes on, or what the
// queue is to do.
func (e *Engine) runBatch(c *storage.Claim, news <-chan struct{}, t *term) (*storage.Claim, followUp, error) {
	switch {
	case c.Attempts > storage.MaxAttempts:
		return e.setAside(c, storage.Died(c.Attempts))
	case !e.probation.admit(c):
		return nil, followUp{again: true, notBefore: time.Now().Add(probationPause)}, e.handBack(c, nil, time.Time{})
	}
	memory := e.batches.Share(c.Store)
	defer memory.Release()
	if !memory.TryGrow(e.footprint(c)) {
		var err error
		if c, err = e.starve(c, memory); err != nil {
			return nil, followUp{}, err
		}
		t.began = time.Now()
	}
	if err := e.load(c); isGivenUp(err) {
		return e.setAside(c, err.Error())
	} else if err != nil {
		return nil, followUp{}, err
	}
	r := e.newRun(c, news, t)
	defer r.close()
	return r.run()
}

// load reads the requests and the marks of a claimed batch, unless the node shuts down: then
// it gives the claim back.
func (e *Engine) load(c *storage.Claim) error {
	err := e.persist(e.drain, "load a batch", "ticket", c.Ticket, func(ctx context.Context) error { return e.Storage.Load(ctx, c) })
	if err == nil || errors.Is(err, storage.ErrNotOwner) || isGivenUp(err) {
		return err
	}
	return errors.Join(err, e.handBack(c, nil, time.Time{}))
}

// starve gives the claim back, so that another node can run the batch, waits until other
// batches have left enough memory, takes it, and claims the queue again. If its batch
// is another one by then, and larger, it waits again.
func (e *Engine) starve(c *storage.Claim, memory *budget.Share) (*storage.Claim, error) {
	for id := c.Queue; ; {
		bytes := e.footprint(c)
		if err := e.handBack(c, nil, time.Time{}); err != nil {
			return nil, err
		}
		e.Storage.Offer(id)
		e.count(&e.hungry, 1)
		err := memory.Grow(e.drain, bytes)
		e.count(&e.hungry, -1)
		if err != nil {
			return nil, err
		}
		c, err = e.claim(id)
		if err == nil && e.footprint(c) <= bytes {
			return c, nil
		}
		memory.Release()
		if err != nil {
			return nil, err
		}
	}
}

// footprint is about what a batch takes in memory once it is loaded; at most what one may
// take, so that the largest gets its turn.
func (e *Engine) footprint(c *storage.Claim) int64 {
	each := int64(512) // a request's own structures
	if c.Marked {
		each += 1 << 10 // a mark, with the reason phrase of its last answer
	}
	return min(c.Bytes+each*int64(c.Total), e.batches.Most())
}

// handBack gives a claim up with its batch unfinished.
func (e *Engine) handBack(c *storage.Claim, marks []storage.Mark, due time.Time) error {
	ctx, cancel := e.lastWords()
	defer cancel()
	return e.persist(ctx, "release a batch", "ticket", c.Ticket, func(ctx context.Context) error {
		return e.Storage.Release(ctx, c, marks, due)
	})
}

// lastWords returns the context under which a batch is given back: the one of the
// work, or where the shutdown limit has ended that, a short one of its own.
func (e *Engine) lastWords() (context.Context, context.CancelFunc) {
	if e.work.Err() == nil {
		return e.work, func() {}
	}
	return context.WithTimeout(context.WithoutCancel(e.work), lastWords)
}

// Bounds of what persist repeats although storage works.
const (
	// mostRefusals is how often storage may refuse a call before it is given up.
	mostRefusals = 5
	// mostFailing is how long a call may fail in any other way while storage works otherwise.
	mostFailing = 10 * time.Minute
)

// persist calls a storage operation until storage has answered, with growing pauses: every
// operation can be repeated. It returns at once what storage says for certain, and gives up
// when ctx ends, or with a givenUpError when only this operation keeps failing. A failure is
// logged when it begins and then once a minute while it lasts.
func (e *Engine) persist(ctx context.Context, what, about string, id any, op func(context.Context) error) error {
	const longest = time.Second
	began, refusals := time.Now(), 0
	var failures outage.Log
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, longest) {
		err := op(ctx)
		switch {
		case err == nil:
			if n := failures.Recovered(); n > 0 {
				e.Logger.Info("storage works again", "operation", what, about, id, "failures", n)
			}
			return nil
		case isFinal(err), ctx.Err() != nil:
			return err
		}
		if storage.Refused(err) {
			refusals++
		}
		if refusals == mostRefusals || time.Since(began) > mostFailing && e.Storage.Ping(ctx) == nil {
			return &givenUpError{what, err}
		}
		if n, due := failures.Failed(time.Now()); due {
			e.Logger.Error("storage failed; trying until it works", "operation", what, about, id, "error", err,
				"since_last_log", n, "for", time.Since(began).Round(time.Second).String())
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

// givenUpError is the error of an operation that storage does not carry out, while it works
// otherwise.
type givenUpError struct {
	what string
	err  error
}

func (e *givenUpError) Error() string { return fmt.Sprintf("storage does not %s: %v", e.what, e.err) }

// isGivenUp reports whether an operation on a batch has failed for good, although the queue
// is the node's: the batch can't go on.
func isGivenUp(err error) bool {
	_, givenUp := errors.AsType[*givenUpError](err)
	return givenUp || isFinal(err) && !errors.Is(err, storage.ErrNotOwner)
}

// isFinal reports whether storage would answer the same call with the same error again.
func isFinal(err error) bool {
	return storage.Certain(err) && !errors.Is(err, storage.ErrBusy) && !errors.Is(err, storage.ErrTooManyCalls)
}
