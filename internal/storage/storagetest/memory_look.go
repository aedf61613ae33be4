package storagetest

import (
	"context"
	"slices"
	"strings"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// Find implements storage.Storage.
func (n *Node) Find(ctx context.Context, f storage.Filter) (storage.Page, error) {
	return call(ctx, n, "Find", func(m *Memory) (page storage.Page, err error) {
		all := slices.Clone(m.batches)
		if !f.Ascending() {
			slices.Reverse(all)
		}
		looked := 0
		for _, b := range all {
			behind := f.After == 0 || f.Ascending() && b.id > f.After || !f.Ascending() && b.id < f.After
			if b.Store != f.Store || b.Owner != f.Owner || b.signals.Deleted || !behind {
				continue
			}
			s := m.summary(b)
			if looked++; looked > f.Look(false) {
				return page, nil
			}
			page.Next = b.id // cleared when the end is reached
			if !f.Matches(&s) || f.Code != 0 && !b.hasCode(f.Code) ||
				!slices.ContainsFunc(b.Requests, func(r batch.Request) bool { return strings.Contains(r.Path, f.Path) }) {
				continue
			}
			if len(page.Batches) == f.Limit {
				page.Next = page.Batches[f.Limit-1].ID
				return page, nil
			}
			page.Batches = append(page.Batches, s)
		}
		page.Next = 0
		return page, nil
	})
}

// hasCode reports whether a request of the batch ended with the code.
func (b *memoryBatch) hasCode(code int) bool {
	for i := range b.Requests {
		if r, ok := b.done(i); ok && r.Code == code && r.Status != batch.NotExecuted {
			return true
		}
	}
	return false
}

func (m *Memory) summary(b *memoryBatch) storage.Summary {
	s := storage.Summary{
		ID: b.id, Ticket: b.Ticket, GroupID: b.GroupID, Status: b.status(), Total: len(b.Requests), Completed: b.completed(),
		CreatedAt: b.createdAt, StartedAt: b.startedAt, EndedAt: b.endedAt, RetryOf: b.RetryOf,
		Paused: b.paused && b.endedAt.IsZero() && !b.signals.Stopped, Quarantined: !b.aside.IsZero(),
	}
	_, s.Failed, s.InDoubt = b.counts()
	s.Retried = slices.ContainsFunc(m.batches, func(again *memoryBatch) bool { return again.RetryOf == b.Ticket && !again.signals.Deleted })
	return s
}

// Queue implements storage.Storage.
func (n *Node) Queue(ctx context.Context, name string) (storage.QueueState, error) {
	return call(ctx, n, "Queue", func(m *Memory) (out storage.QueueState, err error) {
		q := m.byName[name]
		if q == nil {
			return out, nil
		}
		out = storage.QueueState{Open: len(q.open), Paused: q.paused, Wait: q.wait}
		if !q.notBefore.Equal(storage.Forever) {
			out.NotBefore = q.notBefore
		}
		for _, b := range m.batches {
			if b.queue == q {
				out.Held++
				if !b.aside.IsZero() {
					out.Quarantined++
				}
			}
		}
		return out, nil
	})
}

// Size implements storage.Storage.
func (n *Node) Size(ctx context.Context) (int64, error) {
	return call(ctx, n, "Size", func(m *Memory) (size int64, err error) {
		for _, q := range m.byName {
			size += m.bytesOf(q)
		}
		return size, nil
	})
}

// Unfinished implements storage.Storage.
func (n *Node) Unfinished(ctx context.Context, prefix string) (int, error) {
	return call(ctx, n, "Unfinished", func(m *Memory) (open int, err error) {
		for name, q := range m.byName {
			if strings.HasPrefix(name, prefix) {
				open += len(q.open)
			}
		}
		return open, nil
	})
}

// Overview implements storage.Storage.
func (n *Node) Overview(ctx context.Context, loads int) (storage.Overview, error) {
	return call(ctx, n, "Overview", func(m *Memory) (out storage.Overview, err error) {
		owned := map[*Node]int{}
		for name, q := range m.byName {
			if len(q.open) == 0 {
				continue
			}
			out.Queues++
			out.Open += len(q.open)
			if q.owned() {
				out.Owned++
				owned[q.owner]++
			}
			l := storage.Load{Queue: name, Open: len(q.open), Oldest: q.open[0].createdAt, Owned: q.owned(), Paused: q.paused, Wait: q.wait}
			if !q.notBefore.Equal(storage.Forever) {
				l.NotBefore = q.notBefore
			}
			out.Loads = append(out.Loads, l)
		}
		slices.SortFunc(out.Loads, func(a, b storage.Load) int {
			if a.Open != b.Open {
				return b.Open - a.Open
			}
			return int(m.byName[a.Queue].id - m.byName[b.Queue].id)
		})
		out.Loads = out.Loads[:min(loads, len(out.Loads))]
		for _, b := range m.batches {
			if !b.aside.IsZero() {
				out.Quarantined++
			}
		}
		for _, o := range m.nodes {
			if o.state == live {
				out.Nodes = append(out.Nodes, storage.Node{Self: o == n, StartedAt: m.now(), Queues: owned[o]})
			}
		}
		return out, nil
	})
}

// Marks implements storage.Storage.
func (n *Node) Marks(ctx context.Context, id storage.BatchID) ([]storage.Mark, error) {
	return call(ctx, n, "Marks", func(m *Memory) ([]storage.Mark, error) {
		b := m.byID(id)
		if b == nil || b.signals.Deleted {
			return nil, storage.ErrNotFound
		}
		return b.unread(), nil
	})
}
