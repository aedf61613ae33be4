package storagetest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/sheafapi/sheaf/internal/storage"
)

// patience is how long a test waits for what the contract promises within seconds, or only as soon
// as the database answers.
const patience = 30 * time.Second

// authorize checks that the node gets the right to send for the claim's queue. It may be uncertain
// for a while, because a database may be slow.
func (f *fixture) authorize(c *storage.Claim) {
	f.Helper()
	ctx, cancel := context.WithTimeout(f.Context(), patience)
	defer cancel()
	for {
		if err := f.s.Authorize(ctx, c); err != nil {
			f.Fatalf("Authorize: %v", err)
		}
		if f.s.Authorized(c) {
			return
		}
	}
}

// expectVoid checks that the node has lost the right to send for the claim's queue, and knows this.
func (f *fixture) expectVoid(c *storage.Claim) {
	f.Helper()
	ctx, cancel := context.WithTimeout(f.Context(), patience)
	defer cancel()
	expectError(f.T, "Authorize", f.s.Authorize(ctx, c), storage.ErrNotOwner)
	if f.s.Authorized(c) {
		f.Error("a node may send for a claim that is void")
	}
}

// claimAgain claims a queue with a node that was considered dead. The node may first have to find
// this out. Any claim that it then gets is valid.
func (f *fixture) claimAgain(q storage.QueueID) *storage.Claim {
	f.Helper()
	ctx, cancel := context.WithTimeout(f.Context(), patience)
	defer cancel()
	for {
		c, err := f.s.Claim(ctx, q)
		switch {
		case err == nil:
			f.authorize(c)
			return c
		case ctx.Err() != nil, errors.Is(err, storage.ErrNotOwner), errors.Is(err, storage.ErrNothing):
			f.Fatalf("Claim: %v", err)
		}
	}
}

var authorityTests = []test{
	{"a node may send for what it has claimed", func(f *fixture) {
		a, b := newBatch("s", 2), newBatch("s", 1)
		c := f.claimed(a)
		f.authorize(c)
		f.record(c, begun(0))
		f.create(b)
		f.authorize(c)
		again := f.claim(c.Queue)
		f.authorize(again)
		next := f.finish(again, done(0, ""))
		f.authorize(next)
		f.release(next, time.Time{})
		f.authorize(f.claim(c.Queue))
	}},
	{"the right to send depends only on queue and lease", func(f *fixture) {
		c := f.claimed(newBatch("s", 1))
		f.authorize(&storage.Claim{Queue: c.Queue, Lease: c.Lease})
	}},
}

// expiryTests are about a node that the database considers dead although it is alive.
var expiryTests = []nodeTest{
	{"a node that is considered dead may not send, but its requests in flight count until another node claims", func(t *testing.T, c Cluster, a, b *fixture) {
		x := newBatch("s", 3)
		first := a.claimed(x)
		a.authorize(first)
		a.record(first, begun(0))
		_, err := b.s.Claim(t.Context(), first.Queue)
		expectError(t, "Claim before", err, storage.ErrNotOwner)
		c.Expire(t, a.s)
		a.record(first, done(0, "late"), begun(1))
		a.expectVoid(first)
		a.record(first, done(1, "later"), begun(2))
		for _, n := range []*fixture{a, b} {
			expect(t, "runnable", n.runnable(), []storage.Runnable{{Queue: first.Queue}})
		}
		second := b.claim(first.Queue)
		expectLarger(t, second, first)
		expectMarks(t, second.Marks, unread(done(0, "late")), unread(done(1, "later")), begun(2))
		a.expectStale(first)
		a.expectVoid(first)
		b.authorize(second)
		b.finish(second, done(2, ""))
		expect(t, "outcome", a.outcome(x), "COMPLETED 200 200 200")
	}},
	{"it may also end its batch, but doesn't get the next one", func(t *testing.T, c Cluster, a, b *fixture) {
		x, y := newBatch("s", 1), newBatch("s", 1)
		first := a.claimed(x)
		a.create(y)
		c.Expire(t, a.s)
		if next := a.finish(first, done(0, "")); next != nil {
			a.expectVoid(next)
		}
		expect(t, "outcome", b.outcome(x), "COMPLETED 200")
		second := b.claim(first.Queue)
		expect(t, "the next batch", second.Ticket, y.Ticket)
		a.expectStale(first)
	}},
	{"it may also release its batch", func(t *testing.T, c Cluster, a, b *fixture) {
		first := a.claimed(newBatch("s", 1))
		c.Expire(t, a.s)
		a.release(first, moment(5), waiting(0))
		expect(t, "runnable", b.runnable(), []storage.Runnable{{Queue: first.Queue, NotBefore: moment(5)}})
		expectMarks(t, b.claim(first.Queue).Marks, unread(waiting(0)))
	}},
	{"its old claims stay void when it claims again", func(t *testing.T, c Cluster, a, b *fixture) {
		first, other := a.claimed(newBatch("s", 1)), a.claimed(newBatch("t", 1))
		c.Expire(t, a.s)
		again := a.claimAgain(first.Queue)
		expectLarger(t, again, first)
		a.expectVoid(first)
		a.expectStale(first)
		a.expectVoid(other)
		a.record(other, done(0, "late"))
		expect(t, "runnable", b.runnable(), []storage.Runnable{{Queue: other.Queue}})
		_, err := b.s.Claim(t.Context(), again.Queue)
		expectError(t, "Claim of what it has claimed again", err, storage.ErrNotOwner)
		taken := b.claim(other.Queue)
		a.expectStale(other)
		expectMarks(t, taken.Marks, unread(done(0, "late")))
		a.authorize(again)
		a.record(again, done(0, ""))
	}},
	{"it can be considered dead more than once", func(t *testing.T, c Cluster, a, b *fixture) {
		last := a.claimed(newBatch("s", 1))
		for range 3 {
			c.Expire(t, a.s)
			again := a.claimAgain(last.Queue)
			expectLarger(t, again, last)
			a.expectVoid(last)
			last = again
		}
		_, err := b.s.Claim(t.Context(), last.Queue)
		expectError(t, "Claim", err, storage.ErrNotOwner)
	}},
	{"everything except claims continues", func(t *testing.T, c Cluster, a, b *fixture) {
		kept := b.claimed(newBatch("u", 1))
		c.Expire(t, a.s)
		x := newBatch("s", 1)
		q := a.create(x)
		expect(t, "outcome", a.outcome(x), "QUEUED -")
		b.authorize(kept)
		a.authorize(a.claimAgain(q))
		expect(t, "stopped", b.stop(byTicket(x)).Count, 1)
	}},
}

// hints is the queues that a call of Watch has reported.
type hints struct{ woken, notified chan storage.QueueID }

// watched runs Watch until the test ends.
func (f *fixture) watched() hints {
	const enough = 1000
	w := hints{make(chan storage.QueueID, enough), make(chan storage.QueueID, enough)}
	into := func(c chan storage.QueueID) func(storage.QueueID) {
		return func(q storage.QueueID) {
			select {
			case c <- q:
			default: // a hint must not block
			}
		}
	}
	ctx, cancel := context.WithCancel(f.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		f.s.Watch(ctx, into(w.woken), into(w.notified))
	}()
	f.Cleanup(func() {
		cancel()
		<-ended
	})
	return w
}

// hears calls trigger repeatedly until the queue is reported.
func (f *fixture) hears(what string, reports <-chan storage.QueueID, q storage.QueueID, trigger func()) {
	f.Helper()
	limit := time.After(patience)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for trigger(); ; {
		select {
		case got := <-reports:
			if got == q {
				return
			}
		case <-tick.C:
			trigger()
		case <-limit:
			f.Fatalf("%s of queue %d was not reported", what, q)
		}
	}
}

var hintTests = []nodeTest{
	{"an offer wakes other nodes, whether or not its own node watches", func(t *testing.T, c Cluster, a, b *fixture) {
		third := &fixture{t, c.Node(t)}
		q, other := a.create(newBatch("s", 1)), a.create(newBatch("t", 1))
		atB, atThird := b.watched(), third.watched()
		b.hears("an offer", atB.woken, q, func() { a.s.Offer(q) })
		third.hears("an offer", atThird.woken, q, func() { a.s.Offer(q) })
		third.hears("an offer", atThird.woken, other, func() { b.s.Offer(other) })
	}},
	{"the owner is notified of a stop or a delete through another node", func(t *testing.T, _ Cluster, a, b *fixture) {
		atA := a.watched()
		x, y := newBatch("s", 1), newBatch("t", 1)
		first, second := a.claimed(x), a.claimed(y)
		b.stop(byTicket(x))
		a.hears("a stop", atA.notified, first.Queue, func() {})
		expect(t, "told", a.record(first), storage.Signals{Stopped: true})
		b.delete(y)
		a.hears("a delete", atA.notified, second.Queue, func() {})
		expect(t, "told", a.record(second), storage.Signals{Stopped: true, Deleted: true})
	}},
	{"a watching node is notified about queues that it claims later", func(t *testing.T, c Cluster, a, b *fixture) {
		atA := a.watched()
		x := newBatch("s", 1)
		q := b.claimed(x).Queue
		c.Expire(t, b.s)
		first := a.claim(q)
		b.stop(byTicket(x))
		a.hears("a stop", atA.notified, first.Queue, func() {})
	}},
}
