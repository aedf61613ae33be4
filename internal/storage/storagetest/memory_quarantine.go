package storagetest

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// Damage makes Load of the batch fail with a storage.DamagedError that contains the problem. If
// problem is empty, Damage repairs the batch.
func (m *Memory) Damage(ticket batch.Ticket, problem string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, b := range m.batches {
		if b.Ticket == ticket {
			b.damage = problem
		}
	}
}

// Progress implements storage.Storage.
func (n *Node) Progress(ctx context.Context, c *storage.Claim) error {
	return run(ctx, n, "Progress", func(m *Memory) error {
		q, b, err := m.running(c)
		if err == nil && b != nil {
			q.wait = storage.Wait{}
			b.attempts = min(b.attempts, 1) // the current claim still counts; see storage.Claim
		}
		return err
	})
}

// Quarantine implements storage.Storage.
func (n *Node) Quarantine(ctx context.Context, c *storage.Claim, reason string) error {
	return run(ctx, n, "Quarantine", func(m *Memory) error {
		q, b, err := m.running(c)
		if err != nil {
			return err
		}
		q.release(time.Time{}, storage.NoWait)
		switch {
		case b == nil || !b.endedAt.IsZero() || !b.aside.IsZero():
		case b.signals.Stopped:
			b.endUnrun(batch.OutcomeUnknown, reason)
		default:
			b.aside, b.reason, b.attempts, b.claimed = m.now(), reason, 0, false
			q.open = slices.DeleteFunc(q.open, func(o *memoryBatch) bool { return o == b })
		}
		return nil
	})
}

// Quarantined implements storage.Storage.
func (n *Node) Quarantined(ctx context.Context, after storage.BatchID, limit int) ([]storage.QuarantinedBatch, error) {
	return call(ctx, n, "Quarantined", func(m *Memory) (out []storage.QuarantinedBatch, err error) {
		for _, b := range m.batches {
			if !b.aside.IsZero() && b.id > after && len(out) < limit {
				out = append(out, storage.QuarantinedBatch{
					ID: b.id, Ticket: b.Ticket, Store: b.Store, Queue: b.Queue, GroupID: b.GroupID, Total: len(b.Requests),
					CreatedAt: b.createdAt, At: b.aside, Reason: b.reason,
				})
			}
		}
		return out, nil
	})
}

// Unquarantine implements storage.Storage.
func (n *Node) Unquarantine(ctx context.Context, ticket batch.Ticket, end bool) (storage.QueueID, error) {
	return call(ctx, n, "Unquarantine", func(m *Memory) (storage.QueueID, error) {
		for _, b := range m.batches {
			switch {
			case b.Ticket != ticket || b.aside.IsZero():
				continue
			case end:
				b.endUnrun(batch.OutcomeUnknown, storage.EndedAside(b.reason))
				return b.queue.id, nil
			}
			b.aside, b.reason = time.Time{}, ""
			at, _ := slices.BinarySearchFunc(b.queue.open, b.id, func(o *memoryBatch, id storage.BatchID) int { return cmp.Compare(o.id, id) })
			b.queue.open = slices.Insert(b.queue.open, at, b)
			b.queue.notBefore = time.Time{}
			return b.queue.id, nil
		}
		return 0, storage.ErrNotFound
	})
}
