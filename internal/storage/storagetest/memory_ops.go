package storagetest

import (
	"context"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// purgeStep is the maximum number of batches that one Purge removes.
const purgeStep = 100

// Stop implements storage.Storage.
func (n *Node) Stop(ctx context.Context, sel storage.Selection) (storage.StopResult, error) {
	return call(ctx, n, "Stop", func(m *Memory) (storage.StopResult, error) {
		var out storage.StopResult
		for _, b := range m.batches {
			if !selected(sel, b) || b.signals.Stopped || !b.endedAt.IsZero() {
				continue
			}
			out.Count++
			if b.stop() && !slices.Contains(out.Queues, b.queue.id) {
				out.Queues = append(out.Queues, b.queue.id)
				n.tellOwner(b.queue)
			}
		}
		return out, nil
	})
}

// selected reports whether a Selection names the batch.
func selected(sel storage.Selection, b *memoryBatch) bool {
	return b.Store == sel.Store && b.Owner == sel.Owner && !b.signals.Deleted &&
		(sel.Ticket != uuid.Nil || sel.GroupID != "") &&
		(sel.Ticket == uuid.Nil || sel.Ticket == b.Ticket) &&
		(sel.GroupID == "" || sel.GroupID == b.GroupID)
}

// stop ends an unfinished batch that no node has started, or that is quarantined. For any other
// batch, it sets the signal, makes the queue runnable at once, and returns true.
func (b *memoryBatch) stop() (underWay bool) {
	b.signals.Stopped = true
	switch {
	case b.startedAt.IsZero():
		b.end("")
		return false
	case !b.aside.IsZero():
		b.endUnrun(batch.OutcomeUnknown, b.reason)
		return false
	}
	b.queue.notBefore = time.Time{}
	return true
}

// Delete implements storage.Storage.
func (n *Node) Delete(ctx context.Context, key storage.Key) (storage.QueueID, error) {
	return call(ctx, n, "Delete", func(m *Memory) (storage.QueueID, error) {
		b, err := m.find(key)
		if err != nil {
			return 0, err
		}
		b.signals = storage.Signals{Stopped: true, Deleted: true}
		if b.endedAt.IsZero() {
			b.stop()
			n.tellOwner(b.queue)
		}
		return b.queue.id, nil
	})
}

// Abandon implements storage.Storage.
func (n *Node) Abandon(ctx context.Context, inDoubt batch.Result, reason string) (int, error) {
	return call(ctx, n, "Abandon", func(m *Memory) (int, error) {
		count := 0
		for _, b := range m.batches {
			if b.endedAt.IsZero() {
				b.endUnrun(inDoubt, reason)
				b.queue.release(time.Time{}, storage.NoWait)
				count++
			}
		}
		return count, nil
	})
}

// endUnrun ends an unfinished batch that no node runs. A waiting request without an answer counts
// as not executed.
func (b *memoryBatch) endUnrun(inDoubt batch.Result, reason string) {
	for i, k := range b.marks {
		switch {
		case k.State == storage.Begun:
			k.Result, k.Tries.MaybeDone, k.Tries.InDoubt = inDoubt, true, true
		case k.State != storage.Waiting || k.Result.Status == 0:
			continue
		}
		k.State, k.NotBefore = storage.Done, time.Time{}
		b.marks[i] = cloneMark(k)
	}
	b.end(reason)
}

// Purge implements storage.Storage.
func (n *Node) Purge(ctx context.Context, retention time.Duration) (bool, error) {
	return call(ctx, n, "Purge", func(m *Memory) (bool, error) {
		now := m.now()
		limit := now.Add(-retention)
		removed, more := 0, false
		m.batches = slices.DeleteFunc(m.batches, func(b *memoryBatch) bool {
			if b.endedAt.After(now) {
				b.endedAt = now
			}
			switch {
			case b.endedAt.IsZero() || b.endedAt.After(limit) && !b.signals.Deleted:
				return false
			case removed == purgeStep:
				more = true
				return false
			}
			removed++
			return true
		})
		return more, nil
	})
}
