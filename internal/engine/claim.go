package engine

import (
	"context"
	"errors"
	"time"

	"github.com/sheafapi/sheaf/internal/budget"
	"github.com/sheafapi/sheaf/internal/storage"
)

// runQueue runs the queue's batches, oldest first, until none is left, the queue's turn is over, or
// a batch must wait.
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
	case e.drain.Err() != nil: // leave then offers the queue to other nodes
		return followUp{again: true}
	case isGivenUp(err) && !errors.Is(err, storage.ErrNothing): // this node may own the queue, and then no scan finds the queue
		e.Logger.Error("a store's queue can't be run at the moment", "queue", id, "error", err)
		return followUp{again: true, notBefore: time.Now().Add(asidePause)}
	case claimed && errors.Is(err, storage.ErrNotOwner): // try again later, because the new owner may die
		return followUp{again: true, notBefore: time.Now().Add(scanInterval)}
	}
	// The queue has nothing to run, or another node owns it. If that changes, a scan finds the queue.
	return followUp{}
}

// claim claims the queue, unless the node shuts down. A shutdown doesn't interrupt a call that has
// begun: if it made a claim that the engine doesn't know of, no other node could run the queue until
// storage is closed.
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

// runBatch runs one batch as far as it can get in this turn. It reserves memory for the batch before
// it loads the batch. It returns the claim of the queue's next batch if the turn continues, and
// otherwise what the queue does next.
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

// load reads the requests and the marks of a claimed batch. If the node shuts down, load returns the
// claim to storage.
func (e *Engine) load(c *storage.Claim) error {
	err := e.persist(e.drain, "load a batch", "ticket", c.Ticket, func(ctx context.Context) error { return e.Storage.Load(ctx, c) })
	if err == nil || errors.Is(err, storage.ErrNotOwner) || isGivenUp(err) {
		return err
	}
	return errors.Join(err, e.handBack(c, nil, time.Time{}))
}

// starve waits for the memory of a batch. Until then, it returns the claim to storage, so that
// another node can run the batch. Once it has the memory, it claims the queue again. If the queue's
// next batch is then a larger one, it waits again.
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

// footprint estimates the memory of a loaded batch, in bytes. The estimate never exceeds what one
// batch may take, so that the largest batch can run too.
func (e *Engine) footprint(c *storage.Claim) int64 {
	each := int64(512) // bytes of a request's data structures
	if c.Marked {
		each += 1 << 10 // a mark, with the reason phrase of its last answer
	}
	return min(c.Bytes+each*int64(c.Total), e.batches.Most())
}

// handBack releases a claim whose batch is unfinished. Nothing of the batch starts before due.
func (e *Engine) handBack(c *storage.Claim, marks []storage.Mark, due time.Time) error {
	ctx, cancel := e.lastWords()
	defer cancel()
	return e.persist(ctx, "release a batch", "ticket", c.Ticket, func(ctx context.Context) error {
		return e.Storage.Release(ctx, c, marks, due)
	})
}

// lastWords returns the context for ending or releasing a batch: e.work, or a context with a short
// timeout if the shutdown limit has ended e.work.
func (e *Engine) lastWords() (context.Context, context.CancelFunc) {
	if e.work.Err() == nil {
		return e.work, func() {}
	}
	return context.WithTimeout(context.WithoutCancel(e.work), lastWords)
}
