package storagetest

import (
	"context"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/sheafapi/sheaf/batch"
	"github.com/sheafapi/sheaf/storage"
)

// told returns the batch's delivery as storage tells it.
func (b *stored) told() storage.Delivery {
	d := *b.delivery
	d.ID, d.Ticket, d.Store, d.GroupID, d.URL, d.CreatedAt = int64(b.id), b.Ticket, b.Store, b.GroupID, b.Callback, b.endedAt
	d.Total, d.Completed = len(b.Requests), b.completed()
	for i := range b.Requests {
		if r, ok := b.done(i); ok && r.Status == batch.Failed {
			d.Failed++
		}
	}
	return d
}

// DueDeliveries implements storage.Storage.
func (n *Node) DueDeliveries(ctx context.Context, limit int, lease time.Duration) ([]storage.Delivery, error) {
	return call(ctx, n, "DueDeliveries", func(m *Memory) (out []storage.Delivery, err error) {
		now := m.now()
		m.correctDeliveries(now)
		due := slices.DeleteFunc(slices.Clone(m.batches), func(b *stored) bool {
			return b.delivery == nil || b.signals.Deleted || b.delivery.State != storage.Pending || b.delivery.NextAt.After(now)
		})
		slices.SortStableFunc(due, func(a, b *stored) int { return a.delivery.NextAt.Compare(b.delivery.NextAt) })
		for _, b := range due[:min(limit, len(due))] {
			b.delivery.Attempts++
			b.delivery.NextAt, b.setAt = stamp(now.Add(lease)), now
			out = append(out, b.told())
		}
		return out, nil
	})
}

// correctDeliveries takes back what a clock that was ahead has left.
func (m *Memory) correctDeliveries(now time.Time) {
	latest := now.Add(storage.DeliveryLimit)
	for _, b := range m.batches {
		if b.delivery == nil {
			continue
		}
		if ahead := b.setAt.Sub(now); ahead > 0 {
			b.delivery.NextAt, b.setAt = b.delivery.NextAt.Add(-ahead), now
		}
		if b.delivery.NextAt.After(latest) {
			b.delivery.NextAt = latest
		}
	}
}

// PutDelivery implements storage.Storage.
func (n *Node) PutDelivery(ctx context.Context, d *storage.Delivery) error {
	return run(ctx, n, "PutDelivery", func(m *Memory) error {
		b := m.byID(storage.BatchID(d.ID))
		if b != nil && b.delivery != nil && b.delivery.State == storage.Pending && b.delivery.Attempts == d.Attempts {
			b.delivery.State, b.delivery.NextAt, b.delivery.Code, b.delivery.Problem = d.State, stamp(d.NextAt), d.Code, d.Problem
			b.setAt = m.now()
		}
		return nil
	})
}

// Deliveries implements storage.Storage.
func (n *Node) Deliveries(ctx context.Context, q storage.DeliverySearch) ([]storage.Delivery, error) {
	return call(ctx, n, "Deliveries", func(m *Memory) (out []storage.Delivery, err error) {
		skip := q.Offset
		for _, b := range slices.Backward(m.batches) {
			if b.delivery == nil || b.signals.Deleted || b.Store != q.Store || b.Owner != q.Owner || q.Ticket != uuid.Nil && b.Ticket != q.Ticket {
				continue
			}
			if skip--; skip < 0 && len(out) < q.Limit {
				out = append(out, b.told())
			}
		}
		return out, nil
	})
}

// Redeliver implements storage.Storage.
func (n *Node) Redeliver(ctx context.Context, key storage.Key) error {
	return run(ctx, n, "Redeliver", func(m *Memory) error {
		b, err := m.find(key)
		switch {
		case err != nil:
			return err
		case b.delivery == nil:
			return storage.ErrNotFound
		}
		b.delivery.State, b.delivery.Attempts, b.delivery.NextAt = storage.Pending, 0, m.now()
		b.setAt = m.now()
		return nil
	})
}
