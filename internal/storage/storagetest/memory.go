// Package storagetest helps to test storage and the code that uses it. It has Memory, a database in
// memory that can fail on demand, and the suites that every storage.Storage must pass: Run,
// RunNodes, RunReopen, RunModel, RunClock and RunDamage. For RunClock, the test must be able to set
// the database's clock, and for RunDamage, to damage a stored batch.
package storagetest

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// Errors of a Node that was killed or closed.
var (
	// ErrKilled is returned by calls of a killed node. Nothing was stored.
	ErrKilled = errors.New("the node was killed")
	// ErrClosed is returned by calls of a closed node. Nothing was stored.
	ErrClosed = errors.New("the database is closed")
)

// Memory is a database in memory, shared by the nodes that Node returns. Like the real ones, it
// stores times in milliseconds and shares no memory with its callers. Its clock is time.Now, so
// that it works inside testing/synctest; SetClock changes it.
//
// Where the contract leaves a choice: a mark that is Done doesn't change; marks for an ended batch
// are dropped; the next Claim of a node that was considered dead registers the node again, under
// another lease.
type Memory struct {
	mu        sync.Mutex
	nodes     []*Node // in the order of their creation
	lastLease int64
	deaf      bool // hints are lost
	queues    map[storage.QueueID]*queue
	byName    map[string]*queue
	batches   []*memoryBatch // by ID
	settings  map[string]string
	holds     map[storage.Hold]*hold // by credential and store
	outages   map[string]storage.Outage
	accepted  map[batch.Owner]time.Time
	expired   map[batch.Owner]time.Time
	ahead     time.Duration // how far the clock was set ahead
	lastQueue storage.QueueID
	lastBatch storage.BatchID
}

// queue is the state of one queue.
type queue struct {
	id        storage.QueueID
	m         *Memory
	open      []*memoryBatch // unfinished, oldest first
	owner     *Node          // nil: none
	lease     int64          // the owner's lease when it claimed the queue
	epoch     int64          // of the newest claim
	notBefore time.Time
	wait      storage.Wait
	paused    bool
}

// hold is the hold and the reservations of a credential.
type hold struct{ until, next, setAt time.Time }

// memoryBatch is the state of one batch.
type memoryBatch struct {
	storage.NewBatch
	id        storage.BatchID
	queue     *queue
	marks     map[int]storage.Mark
	signals   storage.Signals
	paused    bool
	delivery  *storage.Delivery // nil: there is none
	setAt     time.Time         // when the delivery was written
	createdAt time.Time
	born      time.Time // createdAt by a clock that can't be set
	startedAt time.Time // zero: no node ever claimed it
	endedAt   time.Time // zero: unfinished
	bytes     int64     // size of its results, once it has ended
	reason    string
	attempts  int       // see storage.Claim
	claimed   bool      // the last claim was counted and has not ended normally
	aside     time.Time // when the batch was quarantined; zero: it is not in quarantine
	damage    string    // why Load fails; empty: it doesn't
}

// NewMemory returns an empty database without nodes.
func NewMemory() *Memory {
	return &Memory{
		queues:   map[storage.QueueID]*queue{},
		byName:   map[string]*queue{},
		settings: map[string]string{},
		holds:    map[storage.Hold]*hold{},
		outages:  map[string]storage.Outage{},
		accepted: map[batch.Owner]time.Time{},
		expired:  map[batch.Owner]time.Time{},
	}
}

// call runs fn, one operation at a time, unless the node is gone or a hook makes the call fail.
func call[T any](ctx context.Context, n *Node, op string, fn func(m *Memory) (T, error)) (T, error) {
	var zero T
	fault, err := n.hooks.before(ctx, op)
	if err != nil {
		return zero, err
	}
	out, err := n.locked(ctx, func() (any, error) { return fn(n.m) })
	if fault == FailedButStored {
		return zero, ErrInjected
	}
	if err != nil {
		return zero, err
	}
	return out.(T), nil
}

func (n *Node) locked(ctx context.Context, fn func() (any, error)) (any, error) {
	n.m.mu.Lock()
	defer n.m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	switch n.state {
	case killed:
		return nil, ErrKilled
	case closed:
		return nil, ErrClosed
	case live, expired:
	}
	return fn()
}

// Close implements storage.Storage. A call that still waits for a gate fails.
func (n *Node) Close() error {
	n.m.mu.Lock()
	defer n.m.mu.Unlock()
	if n.state == killed {
		return ErrKilled
	}
	n.setState(closed)
	return nil
}

// Ping implements storage.Storage.
func (n *Node) Ping(ctx context.Context) error {
	return run(ctx, n, "Ping", func(*Memory) error { return nil })
}

// Setting implements storage.Storage.
func (n *Node) Setting(ctx context.Context, name string) (string, error) {
	return call(ctx, n, "Setting", func(m *Memory) (string, error) { return m.settings[name], nil })
}

// Seals implements storage.Storage.
func (n *Node) Seals(ctx context.Context, size int) ([][]byte, error) {
	return call(ctx, n, "Seals", func(m *Memory) (out [][]byte, err error) {
		for _, b := range m.batches {
			if b.Credential == nil {
				continue
			}
			seal := b.Credential[:min(size, len(b.Credential))]
			if !slices.ContainsFunc(out, func(o []byte) bool { return bytes.Equal(o, seal) }) {
				out = append(out, bytes.Clone(seal))
			}
		}
		return out, nil
	})
}

// PutSetting implements storage.Storage.
func (n *Node) PutSetting(ctx context.Context, name, value string) error {
	return run(ctx, n, "PutSetting", func(m *Memory) error {
		m.settings[name] = value
		return nil
	})
}

// InitSetting implements storage.Storage.
func (n *Node) InitSetting(ctx context.Context, name, value string) (string, error) {
	return call(ctx, n, "InitSetting", func(m *Memory) (string, error) {
		if m.settings[name] == "" {
			m.settings[name] = value
		}
		return m.settings[name], nil
	})
}

// hold returns the state of a credential and a store, corrected if it was written by a clock that
// was ahead.
func (m *Memory) hold(credential batch.Owner, store string) *hold {
	of := storage.Hold{Credential: credential, Store: store}
	h := m.holds[of]
	if h == nil {
		h = &hold{}
		m.holds[of] = h
	}
	if ahead := h.setAt.Sub(m.now()); ahead > 0 {
		h.until, h.next = h.until.Add(-ahead), h.next.Add(-ahead)
	}
	h.setAt = m.now()
	return h
}

// SetClock sets the database's clock ahead of time.Now.
func (m *Memory) SetClock(ahead time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ahead = ahead
}

// Hold implements storage.Storage.
func (n *Node) Hold(ctx context.Context, h storage.Hold) error {
	return run(ctx, n, "Hold", func(m *Memory) error {
		kept, until, latest := m.hold(h.Credential, h.Store), stamp(h.Until), m.now().Add(storage.HoldLimit)
		if until.After(latest) {
			until = latest
		}
		if until.After(kept.until) {
			kept.until = until
		}
		return nil
	})
}

// Holds implements storage.Storage.
func (n *Node) Holds(ctx context.Context) ([]storage.Hold, error) {
	return call(ctx, n, "Holds", func(m *Memory) ([]storage.Hold, error) {
		var out []storage.Hold
		for of := range m.holds {
			if h := m.hold(of.Credential, of.Store); h.until.After(m.now()) {
				of.Until = h.until
				out = append(out, of)
			}
		}
		return out, nil
	})
}

// Outages implements storage.Storage.
func (n *Node) Outages(ctx context.Context) ([]storage.Outage, error) {
	return call(ctx, n, "Outages", func(m *Memory) ([]storage.Outage, error) { return slices.Collect(maps.Values(m.outages)), nil })
}

// PutOutage implements storage.Storage.
func (n *Node) PutOutage(ctx context.Context, o storage.Outage) (bool, error) {
	return call(ctx, n, "PutOutage", func(m *Memory) (bool, error) {
		next := 0
		if old, found := m.outages[o.Upstream]; found {
			next, o.Since = old.Probes+1, old.Since
		}
		if o.Probes != next {
			return false, nil
		}
		o.Since, o.ProbeAt = stamp(o.Since), stamp(o.ProbeAt)
		m.outages[o.Upstream] = o
		return true, nil
	})
}

// EndOutage implements storage.Storage.
func (n *Node) EndOutage(ctx context.Context, upstream string) error {
	return run(ctx, n, "EndOutage", func(m *Memory) error {
		delete(m.outages, upstream)
		return nil
	})
}

// Renew implements storage.Storage.
func (n *Node) Renew(ctx context.Context, r storage.Renewal) (storage.QueueID, error) {
	return call(ctx, n, "Renew", func(m *Memory) (storage.QueueID, error) {
		b, err := m.find(r.Key)
		if err != nil {
			return 0, err
		}
		for _, other := range m.batches {
			if other.Store == b.Store && other.Owner == r.NewOwner && r.NewOwner != b.Owner && other.DedupKey == b.DedupKey {
				b.DedupKey = uuid.Nil
			}
		}
		if b.Owner = r.NewOwner; b.endedAt.IsZero() {
			b.Credential = bytes.Clone(r.Credential)
		}
		q := b.queue
		if q.wait.For == storage.ForCredential {
			q.notBefore = time.Time{}
		}
		if m.byName[r.NewQueue] == nil && r.NewQueue != "" {
			delete(m.byName, b.Queue)
			m.byName[r.NewQueue] = q
			for _, other := range m.batches {
				if other.queue == q {
					other.Queue = r.NewQueue
				}
			}
		}
		return q.id, nil
	})
}

// Accepted implements storage.Storage.
func (n *Node) Accepted(ctx context.Context, credential batch.Owner) error {
	return run(ctx, n, "Accepted", func(m *Memory) error {
		m.accepted[credential] = m.now()
		delete(m.expired, credential)
		return nil
	})
}

// WasAccepted implements storage.Storage.
func (n *Node) WasAccepted(ctx context.Context, credential batch.Owner) (bool, error) {
	return call(ctx, n, "WasAccepted", func(m *Memory) (bool, error) { return !m.accepted[credential].IsZero(), nil })
}

// Expire implements storage.Storage.
func (n *Node) Expire(ctx context.Context, credential batch.Owner) error {
	return run(ctx, n, "Expire", func(m *Memory) error {
		if m.expired[credential].IsZero() {
			m.expired[credential] = m.now()
		}
		return nil
	})
}

// Expired implements storage.Storage.
func (n *Node) Expired(ctx context.Context, since time.Time) (map[batch.Owner]time.Time, error) {
	return call(ctx, n, "Expired", func(m *Memory) (map[batch.Owner]time.Time, error) {
		out := maps.Clone(m.expired)
		maps.DeleteFunc(out, func(_ batch.Owner, at time.Time) bool { return at.Before(since) })
		return out, nil
	})
}

// Reserve implements storage.Storage.
func (n *Node) Reserve(ctx context.Context, credential batch.Owner, span time.Duration) (time.Time, error) {
	return call(ctx, n, "Reserve", func(m *Memory) (time.Time, error) {
		h := m.hold(credential, "")
		from := h.next
		if now := m.now(); from.Before(now) {
			from = now
		}
		h.next = from.Add(span.Truncate(time.Millisecond))
		return from, nil
	})
}

// run is like call, for operations that return only an error.
func run(ctx context.Context, n *Node, op string, fn func(m *Memory) error) error {
	_, err := call(ctx, n, op, func(m *Memory) (struct{}, error) { return struct{}{}, fn(m) })
	return err
}

// find returns the batch if its creator may see it.
func (m *Memory) find(k storage.Key) (*memoryBatch, error) {
	for _, b := range m.batches {
		if b.Ticket == k.Ticket && b.Store == k.Store && b.Owner == k.Owner && !b.signals.Deleted {
			return b, nil
		}
	}
	return nil, storage.ErrNotFound
}

// byID returns the batch, deleted or not, or nil.
func (m *Memory) byID(id storage.BatchID) *memoryBatch {
	i, ok := slices.BinarySearchFunc(m.batches, id, func(b *memoryBatch, id storage.BatchID) int { return int(b.id - id) })
	if !ok {
		return nil
	}
	return m.batches[i]
}

// owned reports whether a live node owns the queue.
func (q *queue) owned() bool {
	return q.owner != nil && q.owner.state == live && q.owner.lease == q.lease
}

// done returns the result of the request at index i, if it has one.
func (b *memoryBatch) done(i int) (batch.Result, bool) {
	m, ok := b.marks[i]
	return m.Result, ok && m.State == storage.Done
}

// completed counts the requests that were executed.
func (b *memoryBatch) completed() int {
	completed, _, _ := b.counts()
	return completed
}

// counts counts the requests that were executed. Failed requests are included in completed, and
// requests in doubt are included in failed.
func (b *memoryBatch) counts() (completed, failed, inDoubt int) {
	for _, m := range b.marks {
		if m.State != storage.Done || m.Result.Status == batch.NotExecuted {
			continue
		}
		completed++
		if m.Result.Status == batch.Failed {
			failed++
		}
		if m.InDoubt() {
			inDoubt++
		}
	}
	return completed, failed, inDoubt
}

// status derives the batch's status from its marks.
func (b *memoryBatch) status() batch.Status {
	switch {
	case !b.endedAt.IsZero():
		return batch.Completed
	case b.completed() > 0:
		return batch.InProgress
	}
	return batch.Queued
}

// end ends the batch.
func (b *memoryBatch) end(reason string) {
	now := b.queue.m.now()
	b.endedAt, b.reason, b.Credential, b.aside = now, reason, nil, time.Time{}
	for i := range b.Requests {
		if r, ok := b.done(i); ok {
			b.bytes += int64(len(r.Body))
		}
	}
	if b.Callback != "" && !b.signals.Deleted {
		b.delivery, b.setAt = &storage.Delivery{State: storage.Pending, NextAt: now}, now
	}
	b.queue.open = slices.DeleteFunc(b.queue.open, func(o *memoryBatch) bool { return o == b })
}

// now returns the current time as it is stored. The caller holds m.mu.
func (m *Memory) now() time.Time { return stamp(time.Now().Add(m.ahead)) }

// now returns the current time as a database with a correct clock stores it.
func now() time.Time { return stamp(time.Now()) }

// stamp rounds a time to the precision that a database stores.
func stamp(t time.Time) time.Time { return storage.FromMillis(storage.Millis(t)) }

func cloneRequests(rs []batch.Request) []batch.Request {
	out := slices.Clone(rs)
	for i := range out {
		out[i].Body = bytes.Clone(out[i].Body)
	}
	return out
}

func cloneMark(m storage.Mark) storage.Mark {
	m.NotBefore = stamp(m.NotBefore)
	m.Tries.ThrottledSince = stamp(m.Tries.ThrottledSince)
	m.Tries.StartedAt = stamp(m.Tries.StartedAt)
	m.Tries.EndedAt = stamp(m.Tries.EndedAt)
	m.Result.Body = bytes.Clone(m.Result.Body)
	return m
}
