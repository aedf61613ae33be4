package engine

import (
	"context"
	"errors"
	"time"

	"github.com/sheafapi/sheaf/internal/budget"
	"github.com/sheafapi/sheaf/storage"
)

// runQueue runs the queue's batches, oldest first, until there is none, the
// queue's turn is over, or its batch has to wait.
func (e *Engine) runQueue(id storage.QueueID, news <-chan struct{}, t *term) next {
	c, err := e.claim(id)
	for err == nil && c != nil {
		var n next
		if c, n, err = e.runBatch(c, news, t); err == nil && c == nil {
			return n
		}
	}
	// Nothing to run, or owned elsewhere: the scan finds it if that changes. Or shut
	// down, and then it may be another node's turn.
	return next{again: e.drain.Err() != nil}
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
func (e *Engine) runBatch(c *storage.Claim, news <-chan struct{}, t *term) (*storage.Claim, next, error) {
	memory := e.batches.Share(c.Store)
	defer memory.Release()
	if !memory.TryGrow(e.footprint(c)) {
		var err error
		if c, err = e.starve(c, memory); err != nil {
			return nil, next{}, err
		}
		t.began = time.Now()
	}
	if err := e.load(c); err != nil {
		return nil, next{}, err
	}
	r := e.newRun(c, news, t)
	defer r.leave()
	return r.run()
}

// load reads the requests and the marks of a claimed batch, unless the node shuts down: then
// it gives the claim back.
func (e *Engine) load(c *storage.Claim) error {
	err := e.persist(e.drain, "load a batch", "ticket", c.Ticket, func(ctx context.Context) error { return e.Storage.Load(ctx, c) })
	if err == nil || errors.Is(err, storage.ErrNotOwner) {
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

// persist calls a storage operation until storage has answered, with growing pauses: every
// operation can be repeated. It returns at once what storage says for certain, and gives up
// when ctx ends. A failure is logged when it begins and then once a minute while it lasts.
func (e *Engine) persist(ctx context.Context, what, about string, id any, op func(context.Context) error) error {
	const longest = time.Second
	began, failures := time.Now(), 0
	var log repeated
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, longest) {
		err := op(ctx)
		switch {
		case err == nil:
			if failures > 0 {
				e.Logger.Info("storage works again", "operation", what, about, id, "failures", failures)
			}
			return nil
		case storage.Certain(err), ctx.Err() != nil:
			return err
		}
		failures++
		if _, due := log.count(time.Now()); due {
			e.Logger.Error("storage failed; trying until it works", "operation", what, about, id, "error", err,
				"failures", failures, "for", time.Since(began).Round(time.Second).String())
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}
