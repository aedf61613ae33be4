package storagetest

import (
	"bytes"
	"context"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// Create implements storage.Storage.
func (n *Node) Create(ctx context.Context, nb *storage.NewBatch) (storage.CreateResult, error) {
	return call(ctx, n, "Create", func(m *Memory) (storage.CreateResult, error) {
		if b := m.earlier(nb); b != nil {
			return storage.CreateResult{Ticket: b.Ticket, Queue: b.queue.id, Duplicate: b.Ticket != nb.Ticket}, nil
		}
		q := m.byName[nb.Queue]
		if q == nil {
			m.lastQueue++
			q = &queue{id: m.lastQueue, m: m}
			m.byName[nb.Queue], m.queues[q.id] = q, q
		}
		if nb.Quota > 0 && len(q.open) >= nb.Quota {
			return storage.CreateResult{}, &storage.QuotaError{Limit: nb.Quota}
		}
		// Call Pack only here, because its encoders can't be shared between bubbles of testing/synctest.
		if nb.QuotaBytes > 0 && m.bytesOf(q)+int64(len(storage.Pack(nb.Requests))) > nb.QuotaBytes {
			return storage.CreateResult{}, &storage.QuotaError{Bytes: nb.QuotaBytes}
		}
		m.lastBatch++
		b := &memoryBatch{NewBatch: *nb, id: m.lastBatch, queue: q, marks: map[int]storage.Mark{}, createdAt: m.now(), born: time.Now()}
		b.Requests = cloneRequests(nb.Requests)
		b.Credential = bytes.Clone(nb.Credential)
		m.batches = append(m.batches, b)
		q.open = append(q.open, b)
		return storage.CreateResult{Ticket: b.Ticket, Queue: q.id}, nil
	})
}

// bytesOf returns the number of bytes that a queue's batches take.
func (m *Memory) bytesOf(q *queue) (n int64) {
	for _, b := range m.batches {
		if b.queue == q {
			n += int64(len(storage.Pack(b.Requests))) + b.bytes
		}
	}
	return n
}

// earlier returns the existing batch that a Create leads to: its own, if the call is a repetition,
// or the one with the same deduplication key.
func (m *Memory) earlier(nb *storage.NewBatch) *memoryBatch {
	for _, b := range slices.Backward(m.batches) {
		if b.Ticket == nb.Ticket {
			return b
		}
		if nb.RetryOf != uuid.Nil && b.RetryOf == nb.RetryOf && b.Store == nb.Store && b.Owner == nb.Owner && !b.signals.Deleted && (b.endedAt.IsZero() || nb.Once) {
			return b
		}
		if nb.DedupKey != uuid.Nil && b.DedupKey == nb.DedupKey && b.Store == nb.Store && b.Owner == nb.Owner &&
			!b.signals.Deleted && time.Since(b.born) < storage.DedupWindow {
			if now := m.now(); b.createdAt.After(now) {
				b.createdAt = now
			}
			return b
		}
	}
	return nil
}

// Status implements storage.Storage.
func (n *Node) Status(ctx context.Context, key storage.Key, maxBytes int) (*storage.Status, error) {
	return call(ctx, n, "Status", func(m *Memory) (*storage.Status, error) {
		b, err := m.find(key)
		if err != nil {
			return nil, err
		}
		s := &storage.Status{
			ID: b.id, Ticket: b.Ticket, GroupID: b.GroupID, Status: b.status(), Total: len(b.Requests), Completed: b.completed(),
			CreatedAt: b.createdAt, StartedAt: b.startedAt, EndedAt: b.endedAt, Reason: b.reason, IDs: b.ids(),
			RetryOf: b.RetryOf, Paused: b.endedAt.IsZero() && b.wishes().Paused, Quarantined: b.aside,
		}
		_, s.Failed, s.InDoubt = b.counts()
		if b.endedAt.IsZero() && b.aside.IsZero() {
			s.Wait = b.queue.wait
		}
		if b.endedAt.IsZero() && b.aside.IsZero() && !b.queue.notBefore.Equal(storage.Forever) {
			s.NotBefore = b.queue.notBefore
		}
		if maxBytes <= 0 {
			return s, nil
		}
		for i := range b.Requests {
			if _, ok := b.done(i); ok {
				s.Ended.Add(i)
			}
		}
		s.Results = b.results(0, maxBytes)
		return s, nil
	})
}

// Results implements storage.Storage.
func (n *Node) Results(ctx context.Context, id storage.BatchID, from, maxBytes int) ([]storage.IndexedResult, error) {
	return call(ctx, n, "Results", func(m *Memory) ([]storage.IndexedResult, error) {
		b := m.byID(id)
		if b == nil || b.signals.Deleted {
			return nil, storage.ErrNotFound
		}
		return b.results(from, maxBytes), nil
	})
}

// Requests implements storage.Storage.
func (n *Node) Requests(ctx context.Context, id storage.BatchID) (out []batch.Request, o batch.Options, err error) {
	err = run(ctx, n, "Requests", func(m *Memory) error {
		b := m.byID(id)
		if b == nil || b.signals.Deleted {
			return storage.ErrNotFound
		}
		out, o = cloneRequests(b.Requests), b.Options
		return nil
	})
	return out, o, err
}

// News implements storage.Storage.
func (n *Node) News(ctx context.Context, ids []storage.BatchID) ([]storage.News, error) {
	return call(ctx, n, "News", func(m *Memory) (out []storage.News, err error) {
		for _, id := range ids {
			b := m.byID(id)
			if b == nil || b.signals.Deleted {
				continue
			}
			results := 0
			for i := range b.Requests {
				if _, ok := b.done(i); ok {
					results++
				}
			}
			news := storage.News{ID: id, Status: b.status(), Completed: b.completed(), Results: results}
			if b.endedAt.IsZero() && b.aside.IsZero() {
				news.Waits = b.queue.wait.For
			}
			out = append(out, news)
		}
		return out, nil
	})
}

// results returns the results from the index from on: as many as have bodies of at most maxBytes in
// total, and at least one.
func (b *memoryBatch) results(from, maxBytes int) []storage.IndexedResult {
	var out []storage.IndexedResult
	for i := max(from, 0); i < len(b.Requests); i++ {
		r, ok := b.done(i)
		if !ok {
			continue
		}
		if maxBytes -= len(r.Body); maxBytes < 0 && len(out) > 0 {
			break
		}
		r.Body = bytes.Clone(r.Body)
		m := b.marks[i]
		t := m.Tries
		out = append(out, storage.IndexedResult{Index: i, Result: r, InDoubt: m.InDoubt(), Attempts: t.Attempts, StartedAt: t.StartedAt, EndedAt: t.EndedAt, Throttles: t.Throttles, ThrottledSince: t.ThrottledSince})
	}
	return out
}

// ids returns the requests' ids, or nil if none has one.
func (b *memoryBatch) ids() []string {
	if !slices.ContainsFunc(b.Requests, func(r batch.Request) bool { return r.ID != "" }) {
		return nil
	}
	out := make([]string, len(b.Requests))
	for i, r := range b.Requests {
		out[i] = r.ID
	}
	return out
}
