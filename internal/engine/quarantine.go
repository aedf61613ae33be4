package engine

import (
	"context"
	"sync"
	"time"

	"github.com/sheafapi/sheaf/internal/storage"
)

// Quarantine and probation
//
// A batch that can't be run is set aside, so that the next one of its queue runs: its content
// can't be read, storage does not take what is to be recorded of it, or its nodes die.
//
// When a node dies, every batch that it ran counts a death, unless something of it got done.
// So that one batch which kills nodes does not take the others with it, a batch that has seen
// suspicious deaths runs in probation: at most one of them at a time on a node. If the node
// dies again, only that one counts it. A batch leaves probation when something of it gets done,
// which also makes its deaths forgotten: as soon as one attempt has ended, in whatever way.
const (
	// suspicious is from how many attempts on a batch needs probation: two deaths.
	suspicious = 3
	// probationPause is how long a batch waits that finds probation taken.
	probationPause = time.Second
	// asidePause is how long a queue waits whose batch can't even be set aside.
	asidePause = time.Minute
)

// probation lets one suspicious batch run at a time. The zero value is free.
type probation struct {
	mu       sync.Mutex
	holder   storage.QueueID // 0: none
	suspects map[storage.QueueID]struct{}
}

// enter reports whether a queue may be claimed: its batch is not known to be suspicious, or
// probation is free, and the queue's now.
func (p *probation) enter(id storage.QueueID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, suspect := p.suspects[id]; !suspect {
		return true
	}
	return p.take(id)
}

// admit reports whether a batch that was claimed may run.
func (p *probation) admit(c *storage.Claim) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.Attempts < suspicious {
		delete(p.suspects, c.Queue)
		p.free(c.Queue)
		return true
	}
	if p.take(c.Queue) {
		return true
	}
	if p.suspects == nil {
		p.suspects = map[storage.QueueID]struct{}{}
	}
	p.suspects[c.Queue] = struct{}{}
	return false
}

// take gives probation to a queue, if it is free or the queue's already. mu is held.
func (p *probation) take(id storage.QueueID) bool {
	if p.holder != 0 {
		return p.holder == id
	}
	p.holder = id
	delete(p.suspects, id)
	return true
}

// leave frees probation if the queue has it.
func (p *probation) leave(id storage.QueueID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.free(id)
}

// free is leave. mu is held.
func (p *probation) free(id storage.QueueID) {
	if p.holder == id {
		p.holder = 0
	}
}

// setAside sets a claim's batch aside, or ends it if it was stopped. The queue goes on with
// its next batch.
func (e *Engine) setAside(c *storage.Claim, reason string) (*storage.Claim, followUp, error) {
	ctx, cancel := e.lastWords()
	defer cancel()
	err := e.persist(ctx, "set a batch aside", "ticket", c.Ticket, func(ctx context.Context) error {
		return e.Storage.Quarantine(ctx, c, reason)
	})
	switch {
	case isGivenUp(err):
		e.Logger.Error("a batch can't be run, and can't be set aside; its store waits", "ticket", c.Ticket, "store", c.Store, "reason", reason, "error", err)
		return nil, followUp{again: true, notBefore: time.Now().Add(asidePause)}, nil
	case err != nil:
		return nil, followUp{}, err
	}
	e.Logger.Error("a batch was set aside; an operator has to release or end it", "ticket", c.Ticket, "store", c.Store, "stopped", c.Signals.Stopped, "reason", reason)
	e.Observer.Quarantined(c)
	return nil, followUp{again: true}, nil
}

// setAside gives a run's batch up: storage does not take what is to be recorded, or does not
// return what is needed. What was sent is let end, and each answer that storage takes is kept.
func (r *run) setAside(err error) (*storage.Claim, followUp, error) {
	for r.inflight > 0 {
		r.settle(<-r.answers)
	}
	for i := range r.pending {
		if _, err := r.e.Storage.Record(r.e.work, r.c, r.pending[i:i+1]); err != nil && !storage.Refused(err) {
			break
		}
	}
	return r.e.setAside(r.c, err.Error())
}

// progress tells storage that the batch gets on, once something of a batch was done whose
// earlier claims ended by a death.
func (r *run) progress() {
	if r.c.Attempts < 2 || !r.tally.answered {
		return
	}
	if err := r.e.Storage.Progress(r.e.work, r.c); err == nil {
		r.c.Attempts = 1
		r.e.probation.leave(r.c.Queue)
	}
}
