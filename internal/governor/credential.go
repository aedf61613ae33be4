package governor

import (
	"container/list"
	"context"
	"sync"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// Credential is what the users of one upstream credential share on this node. Its methods
// may be called from many goroutines.
//
// Whoever wants to send asks Try. Where that says "later", it asks again then; where it
// says that no place is free, it waits in Line. A request that has a place is sent and
// ended with Done, or taken back with Undo.
type Credential struct {
	governor *Governor
	key      batch.Owner

	mu     sync.Mutex
	users  int       // runs that are attached
	idleAt time.Time // since when there is none
	hold   hold
	limit
	pace
	line  list.List // of *Place, longest waiting first
	spoke time.Time // when the log was told of an answer 429

	refilling chan struct{} // full while one asks storage for slots, for which the others wait
}

// Place is a wait for a place. See Credential.Line.
type Place struct {
	Granted chan struct{} // closed when the place is the waiter's
	element *list.Element // nil: granted
}

// Try asks to send one request of the queue now. If it may, ok is true and a place is
// taken. Else due is the moment to ask again; zero: all places are taken.
//
// With a configured rate it may ask storage for a piece of the schedule, and blocks for as
// long.
func (c *Credential) Try(ctx context.Context, q storage.QueueID, now time.Time) (due time.Time, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	due, now = c.schedule(ctx, q, now)
	if !due.IsZero() {
		c.wait(due)
		return due, false
	}
	c.forget(now)
	if c.line.Len() > 0 || c.full() {
		c.short = now
		c.wait(now)
		return time.Time{}, false
	}
	c.enter()
	c.spend(q, now)
	return time.Time{}, true
}

// Line waits for a place. When Granted is closed the place is taken, and the caller has
// to ask Claim whether it may send. Who waits no longer calls Leave.
func (c *Credential) Line() *Place {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := &Place{Granted: make(chan struct{})}
	p.element = c.line.PushBack(p)
	c.grant()
	return p
}

// Leave leaves the line. A place that was granted meanwhile is given back.
func (c *Credential) Leave(p *Place) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.element != nil {
		c.line.Remove(p.element)
		return
	}
	c.exit()
	c.grant()
}

// Claim is Try for one that was granted a place. Unless it may send, the place is given back.
func (c *Credential) Claim(ctx context.Context, q storage.QueueID) (due time.Time, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	due, now := c.schedule(ctx, q, time.Now())
	if !due.IsZero() {
		c.wait(due)
		c.exit()
		c.grant()
		return due, false
	}
	c.spend(q, now)
	return time.Time{}, true
}

// wait records that a request must wait until the given time. mu is held.
func (c *Credential) wait(until time.Time) {
	if until.After(c.waited) {
		c.waited = until
	}
}

// schedule returns when the queue may send its next request; zero: now. mu is held,
// and unlocked while storage is asked for slots: it returns what time it is then.
func (c *Credential) schedule(ctx context.Context, q storage.QueueID, now time.Time) (due, then time.Time) {
	for c.starved(q, now) {
		c.mu.Unlock()
		err := c.refill(ctx, q)
		c.mu.Lock()
		if err != nil {
			return time.Now().Add(refillPause), now
		}
		now = time.Now()
	}
	return c.due(q, now), now
}

// grant gives free places to those who wait. mu is held.
func (c *Credential) grant() {
	for c.line.Len() > 0 && !c.full() {
		p := c.line.Remove(c.line.Front()).(*Place) //nolint:forcetypeassert // there is nothing else in it
		p.element = nil
		c.enter()
		close(p.Granted)
	}
}

// Undo gives back what Try or Claim gave: the request was not sent.
func (c *Credential) Undo(q storage.QueueID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.exit()
	c.unspend(q, time.Now())
	c.grant()
}

// Done ends a request that was sent.
func (c *Credential) Done(a Answer) {
	c.mu.Lock()
	held := c.judge(a)
	c.grant()
	c.mu.Unlock()
	if !held.IsZero() {
		c.governor.announce(storage.Hold{Credential: c.key, Store: a.Store, Until: held})
	}
}

// Forget gives up the slot that the queue holds ahead, if it has one.
func (c *Credential) Forget(q storage.QueueID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.giveUp(q, time.Now())
}

// Detach ends the use that Attach began.
func (c *Credential) Detach() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.users--; c.users == 0 {
		c.idleAt = time.Now()
		clear(c.hold.queues)
	}
}

// forgettable reports whether nobody uses the credential and nothing of it has to be
// kept. Nobody attaches meanwhile: Governor.mu is held.
func (c *Credential) forgettable(now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	keep := time.Duration(0)
	if c.learned(now) || c.most > 0 || len(c.ahead) > 0 || now.Before(c.hold.last()) {
		keep = memoryOf
	}
	return c.users == 0 && now.Sub(c.idleAt) >= keep
}

// holdUntil takes up what another node, or an earlier process, has stored of a store.
func (c *Credential) holdUntil(store string, until time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.hold.stores == nil {
		c.hold.stores = map[string]time.Time{}
	}
	if until.After(c.hold.stores[store]) {
		c.hold.stores[store] = until
	}
}
