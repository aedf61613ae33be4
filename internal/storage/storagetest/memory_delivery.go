package storagetest

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/sheafapi/sheaf/internal/storage"
)

// callback returns the batch's delivery as storage returns it.
func (b *memoryBatch) callback() storage.Delivery {
	d := *b.delivery
	d.ID, d.Ticket, d.Store, d.GroupID, d.URL, d.CreatedAt = int64(b.id), b.Ticket, b.Store, b.GroupID, b.Callback, b.endedAt
	d.Host, d.Total = hostOf(b.Callback), len(b.Requests)
	d.Completed, d.Failed, d.InDoubt = b.counts()
	return d
}

// hostOf returns the host of an address, with its port.
func hostOf(address string) string {
	_, rest, found := strings.Cut(address, "://")
	if i := strings.IndexAny(rest, "/?"); i >= 0 {
		rest = rest[:i]
	}
	if !found {
		return ""
	}
	return strings.ToLower(rest)
}

// DueDeliveries implements storage.Storage.
func (n *Node) DueDeliveries(ctx context.Context, q storage.DueQuery) (out []storage.Delivery, next storage.Lane, err error) {
	err = run(ctx, n, "DueDeliveries", func(m *Memory) error {
		out, next = m.due(q)
		return nil
	})
	return out, next, err
}

func (m *Memory) due(q storage.DueQuery) (out []storage.Delivery, next storage.Lane) {
	now := m.now()
	m.correctDeliveries(now)
	lane := func(b *memoryBatch) storage.Lane { return storage.Lane{Store: b.Store, Host: hostOf(b.Callback)} }
	due := slices.DeleteFunc(slices.Clone(m.batches), func(b *memoryBatch) bool {
		return b.delivery == nil || b.signals.Deleted || b.delivery.State != storage.Pending || b.delivery.NextAt.After(now) || lane(b).Compare(q.After) <= 0
	})
	slices.SortStableFunc(due, func(a, b *memoryBatch) int {
		return cmp.Or(lane(a).Compare(lane(b)), a.delivery.NextAt.Compare(b.delivery.NextAt))
	})
	busy := slices.Clone(q.Busy)
	for _, b := range due {
		if slices.ContainsFunc(busy, func(l storage.Lane) bool { return l.Covers(lane(b)) }) {
			continue
		}
		if len(out) == q.Limit {
			return out, next
		}
		b.delivery.Attempts++
		b.delivery.NextAt, b.setAt = stamp(now.Add(q.Lease)), now
		out = append(out, b.callback())
		next = lane(b)
		busy = append(busy, storage.Lane{Store: b.Store}, storage.Lane{Host: hostOf(b.Callback)})
	}
	if len(out) < q.Limit {
		next = storage.Lane{}
	}
	return out, next
}

// correctDeliveries corrects deliveries that were written by a clock that was ahead.
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
			if d.Spared {
				b.delivery.Attempts, b.delivery.NextAt, b.setAt = d.Attempts-1, stamp(d.NextAt), m.now()
				return nil
			}
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
			if b.delivery == nil || int64(b.id) >= q.Before() || b.signals.Deleted || b.Store != q.Store || b.Owner != q.Owner || q.Ticket != uuid.Nil && b.Ticket != q.Ticket {
				continue
			}
			if skip--; skip < 0 && len(out) < q.Limit {
				out = append(out, b.callback())
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
