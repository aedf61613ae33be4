package storagetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/sheafapi/sheaf/internal/storage"
)

// Runnable implements storage.Storage.
func (n *Node) Runnable(ctx context.Context, after storage.QueueID, limit int) ([]storage.Runnable, error) {
	return call(ctx, n, "Runnable", func(m *Memory) ([]storage.Runnable, error) {
		var out []storage.Runnable
		for _, id := range slices.Sorted(maps.Keys(m.queues)) {
			q := m.queues[id]
			if id > after && len(out) < limit && len(q.open) > 0 && !q.owned() {
				out = append(out, storage.Runnable{Queue: id, NotBefore: q.notBefore, Waits: q.wait.For})
			}
		}
		return out, nil
	})
}

// Claim implements storage.Storage.
func (n *Node) Claim(ctx context.Context, id storage.QueueID) (*storage.Claim, error) {
	return call(ctx, n, "Claim", func(m *Memory) (*storage.Claim, error) {
		q := m.queues[id]
		switch {
		case q == nil || len(q.open) == 0:
			return nil, storage.ErrNothing
		case q.owned() && q.owner != n:
			return nil, storage.ErrNotOwner
		}
		n.register()
		q.epoch++
		return q.claim(n, n.lease, q.owner != n || q.lease != n.lease), nil
	})
}

// claim gives the queue's oldest open batch to the node, under the queue's epoch and the given
// lease. taken means that the node takes over the queue.
func (q *queue) claim(n *Node, lease int64, taken bool) *storage.Claim {
	q.owner, q.lease, q.notBefore = n, lease, time.Time{}
	b := q.open[0]
	if b.startedAt.IsZero() {
		b.startedAt = q.m.now()
	}
	if taken || !b.claimed {
		b.attempts++
	}
	b.claimed = true
	c := &storage.Claim{
		Queue: q.id, Epoch: q.epoch, Lease: lease, ID: b.id, Ticket: b.Ticket, Store: b.Store, Owner: b.Owner, GroupID: b.GroupID,
		Options: b.Options, Credential: bytes.Clone(b.Credential),
		CreatedAt: b.createdAt, StartedAt: b.startedAt, Trace: b.Trace, Signals: b.wishes(), Total: len(b.Requests), Marked: len(b.marks) > 0,
		Attempts: b.attempts, Waits: q.wait.For,
	}
	for i := range b.Requests {
		r := &b.Requests[i]
		c.Bytes += int64(len(r.ID) + len(r.Path) + len(r.Body))
	}
	return c
}

// Load implements storage.Storage.
func (n *Node) Load(ctx context.Context, c *storage.Claim) error {
	return run(ctx, n, "Load", func(m *Memory) error {
		b := m.byID(c.ID)
		if b == nil {
			return storage.ErrNotOwner
		}
		if b.damage != "" {
			return &storage.DamagedError{Err: errors.New(b.damage)}
		}
		c.Requests, c.Marks = cloneRequests(b.Requests), b.unread()
		return nil
	})
}

// unread returns the marks of a batch, by index, as Load and Marks show them.
func (b *memoryBatch) unread() (out []storage.Mark) {
	for _, i := range slices.Sorted(maps.Keys(b.marks)) {
		out = append(out, b.marks[i].Unread())
	}
	return out
}

// release gives up the queue.
func (q *queue) release(notBefore time.Time, waits storage.WaitReason) {
	q.owner, q.notBefore = nil, stamp(notBefore)
	if waits == storage.NoWait {
		q.wait = storage.Wait{}
	} else if waits != q.wait.For {
		q.wait = storage.Wait{For: waits, Since: q.m.now()}
	}
}

// Record implements storage.Storage.
func (n *Node) Record(ctx context.Context, c *storage.Claim, marks []storage.Mark) (storage.Signals, error) {
	return call(ctx, n, "Record", func(m *Memory) (storage.Signals, error) {
		_, b, err := m.running(c)
		if err != nil || b == nil {
			return storage.Signals{}, err
		}
		return b.wishes(), b.record(marks)
	})
}

// Finish implements storage.Storage.
func (n *Node) Finish(ctx context.Context, c *storage.Claim, marks []storage.Mark, reason string, release bool) (*storage.Claim, error) {
	return call(ctx, n, "Finish", func(m *Memory) (*storage.Claim, error) {
		q, b, err := m.running(c)
		if err != nil {
			return nil, err
		}
		if b != nil && b.endedAt.IsZero() {
			if err := b.record(marks); err != nil {
				return nil, err
			}
			b.end(reason)
		}
		if release || len(q.open) == 0 {
			q.release(time.Time{}, storage.NoWait)
			return nil, nil
		}
		return q.claim(n, c.Lease, false), nil
	})
}

// Release implements storage.Storage.
func (n *Node) Release(ctx context.Context, c *storage.Claim, marks []storage.Mark, notBefore time.Time) error {
	return run(ctx, n, "Release", func(m *Memory) error {
		q, b, err := m.running(c)
		if err != nil {
			return err
		}
		if b != nil {
			if err := b.record(marks); err != nil {
				return err
			}
			if b.claimed {
				b.attempts, b.claimed = b.attempts-1, false
			}
			if b.signals.Stopped && b.endedAt.IsZero() {
				notBefore = time.Time{}
			}
			if notBefore.Equal(storage.Forever) && !b.wishes().Paused {
				notBefore = time.Time{}
			}
			if c.Waits == storage.ForCredential && !bytes.Equal(c.Credential, b.Credential) {
				notBefore, c.Waits = time.Time{}, storage.NoWait
			}
		}
		q.release(notBefore, c.Waits)
		return nil
	})
}

// running returns the queue and the batch of a claim that is its queue's newest. The batch is nil
// if it was purged.
func (m *Memory) running(c *storage.Claim) (*queue, *memoryBatch, error) {
	q := m.queues[c.Queue]
	if q == nil || q.epoch != c.Epoch {
		return nil, nil, storage.ErrNotOwner
	}
	b := m.byID(c.ID)
	if b != nil && b.queue != q {
		return nil, nil, storage.ErrNotOwner
	}
	return q, b, nil
}

// record stores all marks of an unfinished batch, or none.
func (b *memoryBatch) record(marks []storage.Mark) error {
	if !b.endedAt.IsZero() {
		return nil
	}
	for _, k := range marks {
		if k.Index < 0 || k.Index >= len(b.Requests) {
			return fmt.Errorf("a mark for request %d of a batch of %d", k.Index, len(b.Requests))
		}
	}
	for _, k := range marks {
		if _, final := b.done(k.Index); !final {
			b.marks[k.Index] = cloneMark(storage.Over(b.marks[k.Index], k))
		}
	}
	return nil
}
