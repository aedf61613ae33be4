package engine

import (
	"context"
	"sync"
	"time"

	"github.com/sheafapi/sheaf/internal/storage"
)

// Quarantine and probation
//
// A batch that can't run is quarantined, so that the next batch of its queue can run. Either its
// content can't be read, or storage can't record its results, or nodes die while they run it.
//
// When a node dies, each batch that it ran counts a death, unless an attempt of the batch has ended.
// A batch that kills nodes must not cause the quarantine of other batches. So a batch with two deaths
// runs on probation: each node runs at most one such batch at a time. If the node then dies, no other
// batch with two deaths counts another one. Once an attempt has ended, whatever its outcome, the batch
// leaves probation and its deaths are forgotten.
const (
	// suspicious is the first attempt for which a batch needs probation, after two deaths.
	suspicious = 3
	// probationPause is how long a batch waits while another one is on probation.
	probationPause = time.Second
	// asidePause is how long a queue waits if its batch can't even be quarantined.
	asidePause = time.Minute
)

// probation lets one suspicious batch run at a time. In its zero value, none runs.
type probation struct {
	mu       sync.Mutex
	holder   storage.QueueID // 0: none
	suspects map[storage.QueueID]struct{}
}

// enter reports whether a queue may be claimed. If its batch is known to be suspicious, the queue
// needs probation first.
func (p *probation) enter(id storage.QueueID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, suspect := p.suspects[id]; !suspect {
		return true
	}
	return p.take(id)
}

// admit reports whether a claimed batch may run.
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

// take puts a queue on probation and returns true, unless another queue is on probation. mu is held.
func (p *probation) take(id storage.QueueID) bool {
	if p.holder != 0 {
		return p.holder == id
	}
	p.holder = id
	delete(p.suspects, id)
	return true
}

// leave ends the queue's probation, if it is on probation.
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

// setAside quarantines a claim's batch, or ends it if it was stopped. The queue continues with its
// next batch.
func (e *Engine) setAside(c *storage.Claim, reason string) (*storage.Claim, followUp, error) {
	ctx, cancel := e.lastWords()
	defer cancel()
	err := e.persist(ctx, "quarantine a batch", "ticket", c.Ticket, func(ctx context.Context) error {
		return e.Storage.Quarantine(ctx, c, reason)
	})
	switch {
	case isGivenUp(err):
		e.Logger.Error("a batch can be neither run nor quarantined; its store waits", "ticket", c.Ticket, "store", c.Store, "reason", reason, "error", err)
		return nil, followUp{again: true, notBefore: time.Now().Add(asidePause)}, nil
	case err != nil:
		return nil, followUp{}, err
	}
	e.Logger.Error("a batch was quarantined; an operator must release or end it", "ticket", c.Ticket, "store", c.Store, "stopped", c.Signals.Stopped, "reason", reason)
	e.Observer.Quarantined(c)
	return nil, followUp{again: true}, nil
}

// setAside quarantines a run's batch, because storage can't record its marks or return an answer that
// it needs. It waits for the attempts in flight, and records each answer that storage accepts.
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

// progress reports to storage that an attempt has ended, so that storage forgets the batch's deaths.
func (r *run) progress() {
	survived, resumed := r.c.Attempts > 1 && r.tally.answered, r.c.Waits != storage.NoWait && r.tally.available
	if !survived && !resumed {
		return
	}
	if err := r.e.Storage.Progress(r.e.work, r.c); err == nil {
		r.c.Attempts, r.c.Waits = 1, storage.NoWait
		r.e.probation.leave(r.c.Queue)
	}
}
