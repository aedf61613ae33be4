package storagetest

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// wishes returns the creator's signals for the batch.
func (b *memoryBatch) wishes() storage.Signals {
	s := b.signals
	s.Paused = !s.Stopped && (b.paused || b.queue.paused)
	return s
}

// Pause implements storage.Storage.
func (n *Node) Pause(ctx context.Context, p storage.PauseRequest) (storage.StopResult, error) {
	return call(ctx, n, "Pause", func(m *Memory) (storage.StopResult, error) {
		var q *queue
		if p.Ticket != uuid.Nil {
			b, err := m.find(p.Key)
			if err != nil {
				return storage.StopResult{}, err
			}
			if !b.endedAt.IsZero() || b.signals.Stopped || b.paused == p.Paused {
				return storage.StopResult{}, nil
			}
			b.paused, q = p.Paused, b.queue
		} else {
			if q = m.byName[p.Queue]; q == nil && p.Paused {
				m.lastQueue++
				q = &queue{id: m.lastQueue, m: m}
				m.byName[p.Queue], m.queues[q.id] = q, q
			}
			if q == nil || q.paused == p.Paused {
				return storage.StopResult{}, nil
			}
			q.paused = p.Paused
		}
		if !p.Paused {
			q.notBefore = time.Time{}
		}
		n.tellOwner(q)
		return storage.StopResult{Count: 1, Queues: []storage.QueueID{q.id}}, nil
	})
}

// Group implements storage.Storage.
func (n *Node) Group(ctx context.Context, store string, owner batch.Owner, group string) (storage.GroupCounts, error) {
	return call(ctx, n, "Group", func(m *Memory) (out storage.GroupCounts, err error) {
		for _, b := range m.batches {
			if group == "" || b.Store != store || b.Owner != owner || b.GroupID != group || b.signals.Deleted {
				continue
			}
			switch b.status() {
			case batch.Queued:
				out.Queued++
			case batch.InProgress:
				out.InProgress++
			case batch.Completed:
				out.Completed++
			}
			out.Requests += len(b.Requests)
			_, _, inDoubt := b.counts()
			out.InDoubt += inDoubt
			for i := range b.Requests {
				r, ended := b.done(i)
				switch {
				case ended && r.Status == batch.Succeeded:
					out.Succeeded++
				case ended && r.Status == batch.Failed:
					out.Failed++
				case ended || !b.endedAt.IsZero():
					out.NotExecuted++
				}
			}
		}
		return out, nil
	})
}
