package governor

import (
	"container/list"
	"context"
	"sync"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// Credential is the state that all users of one upstream credential share on this node. Its methods
// are safe for concurrent use.
//
// To send a request, call Try. If it returns a time, call it again then. If no place is free, wait
// in Line and then call Claim. End each request that got a place with Done, or with Undo if it
// wasn't sent.
type Credential struct {
	governor *Governor
	key      batch.Owner
	rate     Rate // over all nodes; zero: no limit

	mu     sync.Mutex
	users  int       // the number of calls of Attach without Detach
	idleAt time.Time // when users last became 0
	hold   hold
	limit
	pace
	expiry
	line     list.List // of *Waiter, longest waiting first
	loggedAt time.Time // when an answer 429 was last logged

	refilling chan struct{} // full while one queue asks storage for slots; the others wait
}

// Waiter waits for a place. See Credential.Line.
type Waiter struct {
	Granted chan struct{}   // closed when the waiter has a place
	signal  chan<- struct{} // then also gets a signal, unless it is full or nil
	element *list.Element   // nil once granted
}

// Try asks to send one request of the queue now. If ok, the request may be sent and holds a place.
// Otherwise due is when to try again; zero: all places are taken.
//
// With a configured rate, Try may call storage and block until it answers.
func (c *Credential) Try(ctx context.Context, q storage.QueueID, now time.Time) (due time.Time, ok bool) {
	if until, refused := c.governor.breaker.refuses(now); refused {
		return until, false
	}
	if due, ok = c.try(ctx, q, now); ok && !c.governor.breaker.permit(ctx) {
		c.undo(q)
		return c.governor.breaker.retryAt(time.Now()), false
	}
	return due, ok
}

// try is Try without the breaker.
func (c *Credential) try(ctx context.Context, q storage.QueueID, now time.Time) (due time.Time, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.expiredAt.IsZero() {
		return c.waitsUntil(now), false
	}
	due, now = c.schedule(ctx, q, now)
	if !due.IsZero() {
		c.recordWait(due)
		return due, false
	}
	c.expire(now)
	if c.line.Len() > 0 || c.full() {
		c.fullAt = now
		c.recordWait(now)
		return time.Time{}, false
	}
	c.enter()
	c.useSlot(q, now)
	return time.Time{}, true
}

// Line joins the line for a place. Once Granted is closed, the waiter has a place and the caller
// must call Claim or Leave. After Claim, it must not call Leave.
func (c *Credential) Line() *Waiter { return c.queueUp(nil) }

// queueUp is Line with a channel that gets a signal when the waiter has a place.
func (c *Credential) queueUp(signal chan<- struct{}) *Waiter {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := &Waiter{Granted: make(chan struct{}), signal: signal}
	w.element = c.line.PushBack(w)
	c.grant()
	return w
}

// Leave leaves the line. If a place has been granted in the meantime, Leave returns it.
func (c *Credential) Leave(w *Waiter) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if w.element != nil {
		c.line.Remove(w.element)
		return
	}
	c.exit()
	c.grant()
}

// Claim is Try for a waiter that was granted a place. If it returns false, it has given up the place.
func (c *Credential) Claim(ctx context.Context, q storage.QueueID) (due time.Time, ok bool) {
	if due, ok = c.claim(ctx, q); ok && !c.governor.breaker.permit(ctx) {
		c.undo(q)
		return c.governor.breaker.retryAt(time.Now()), false
	}
	return due, ok
}

// claim is Claim without the breaker.
func (c *Credential) claim(ctx context.Context, q storage.QueueID) (due time.Time, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	due, now := c.schedule(ctx, q, time.Now())
	if !c.expiredAt.IsZero() {
		due = c.waitsUntil(now)
	}
	if !due.IsZero() {
		c.recordWait(due)
		c.exit()
		c.grant()
		return due, false
	}
	c.useSlot(q, now)
	return time.Time{}, true
}

// recordWait records that a request must wait until the given time. mu is held.
func (c *Credential) recordWait(until time.Time) {
	if until.After(c.waitedUntil) {
		c.waitedUntil = until
	}
}

// schedule returns when the queue may send its next request (zero: now) and the current time. mu is
// held on entry and return, but not while storage is asked for slots.
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

// grant gives free places to the waiters. mu is held.
func (c *Credential) grant() {
	for c.line.Len() > 0 && !c.full() {
		w := c.line.Remove(c.line.Front()).(*Waiter) //nolint:forcetypeassert // the list holds nothing else
		w.element = nil
		c.enter()
		close(w.Granted)
		select {
		case w.signal <- struct{}{}:
		default:
		}
	}
}

// Undo returns the place and the slot of a request that was not sent.
func (c *Credential) Undo(q storage.QueueID) {
	c.governor.breaker.withdraw()
	c.undo(q)
}

// undo is Undo without the breaker.
func (c *Credential) undo(q storage.QueueID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.exit()
	c.returnSlot(q, time.Now())
	c.grant()
}

// Verdict says whether a failed attempt is the request's fault.
type Verdict uint8

// The verdicts.
const (
	Counts      Verdict = iota // the attempt counts
	Unavailable                // the upstream is unavailable
	Expired                    // the upstream no longer accepts the credential
)

// Done ends a request that was sent, and learns from its answer. It may call storage.
func (c *Credential) Done(ctx context.Context, a Answer) (v Verdict) {
	if c.governor.breaker.record(&a) {
		v = Unavailable
	}
	if a.Unauthorized && c.refuses(ctx, time.Now()) {
		v = Expired
	}
	c.mu.Lock()
	if a.Accepted {
		c.accepts(a.Asked, time.Now())
	}
	held := c.judge(a)
	c.grant()
	c.mu.Unlock()
	if !held.IsZero() {
		c.governor.announce(storage.Hold{Credential: c.key, Store: a.Store, Until: held})
	}
	return v
}

// Forget gives up the slot that the queue holds, if any.
func (c *Credential) Forget(q storage.QueueID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dropSlot(q, time.Now())
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

// forgettable reports whether the credential is unused and its state no longer matters. Governor.mu
// is held, so nobody attaches in the meantime.
func (c *Credential) forgettable(now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	keep := time.Duration(0)
	if c.learned(now) || c.allowed > 0 || len(c.ahead) > 0 || now.Before(c.hold.last()) {
		keep = memoryOf
	}
	for _, slot := range c.ahead {
		if slot.After(now) {
			return false // at a slow rate, a slot may lie hours ahead
		}
	}
	return c.users == 0 && now.Sub(c.idleAt) >= keep
}

// holdUntil applies a store's hold that another node or an earlier process has stored.
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
