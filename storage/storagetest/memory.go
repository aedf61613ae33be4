// Package storagetest holds the conformance suite of package storage, which every
// database has to pass, and Memory, a database for the tests of what stands above.
package storagetest

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/sheafapi/sheaf/batch"
	"github.com/sheafapi/sheaf/storage"
)

// Memory is a database in memory that several nodes share. It keeps the contract
// word by word, and its nodes can be made to fail, die and be taken for dead. It runs
// inside a synctest bubble.
type Memory struct {
	mu       sync.Mutex
	queues   []*queue // by id - 1
	batches  []*stored
	settings map[string]string
}

type queue struct {
	id        storage.QueueID
	name      string
	owner     *Node
	epoch     int64
	notBefore time.Time
}

type stored struct {
	storage.NewBatch
	id                         storage.BatchID
	queue                      *queue
	created, started, ended    time.Time
	stopped, deleted, finished bool
	reason                     string
	marks                      map[int]storage.Mark
}

// NewMemory returns an empty database.
func NewMemory() *Memory { return &Memory{settings: map[string]string{}} }

// Node returns a new node that lives.
func (m *Memory) Node() *Node { return &Node{db: m} }

// Kill lets the process of a node die: from now on nothing that it calls reaches the
// database, and its queues are free.
func (m *Memory) Kill(n *Node) { m.lose(n, true) }

// Expire lets the database take a node for dead that still lives: its queues are
// free, and its calls still reach the database.
func (m *Memory) Expire(n *Node) { m.lose(n, false) }

func (m *Memory) lose(n *Node, killed bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n.killed = n.killed || killed
	for _, q := range m.queues {
		if q.owner == n {
			q.owner = nil
		}
	}
}

// ErrKilled is what the calls of a killed node return.
var ErrKilled = errors.New("the node is dead")

var errClosed = errors.New("the database is closed")

func (b *stored) open() bool { return !b.finished }

// completed counts the requests that have ended.
func (b *stored) completed() (n int) {
	for _, m := range b.marks {
		if m.State == storage.Done {
			n++
		}
	}
	return n
}

func (b *stored) status() batch.Status {
	switch {
	case b.finished:
		return batch.Completed
	case b.completed() > 0:
		return batch.InProgress
	}
	return batch.Queued
}

func (b *stored) signals() storage.Signals {
	return storage.Signals{Stopped: b.stopped, Deleted: b.deleted}
}

func (b *stored) end(reason string) {
	b.finished, b.reason, b.ended, b.Credential = true, reason, now(), nil
}

// put stores marks. A Done mark is final.
func (b *stored) put(marks []storage.Mark) {
	for _, m := range marks {
		if b.marks[m.Index].State != storage.Done {
			m.Result.Body = slices.Clone(m.Result.Body)
			b.marks[m.Index] = rounded(m)
		}
	}
}

// rounded returns a mark as a database keeps it, with moments in milliseconds.
func rounded(m storage.Mark) storage.Mark {
	for _, t := range []*time.Time{&m.NotBefore, &m.Tries.ThrottledSince, &m.Tries.StartedAt, &m.Tries.EndedAt} {
		*t = batch.FromMillis(batch.Millis(*t))
	}
	return m
}

func now() time.Time { return batch.FromMillis(batch.Millis(time.Now())) }

// find returns a creator's batch, nil if there is none.
func (m *Memory) find(k storage.Key) *stored {
	for _, b := range m.batches {
		if b.Ticket == k.Ticket && b.Store == k.Store && b.Owner == k.Owner && !b.deleted {
			return b
		}
	}
	return nil
}

func (m *Memory) byID(id storage.BatchID) *stored {
	for _, b := range m.batches {
		if b.id == id {
			return b
		}
	}
	return nil
}

// next returns a queue's oldest open batch, nil if there is none.
func (m *Memory) next(q *queue) *stored {
	for _, b := range m.batches {
		if b.queue == q && b.open() {
			return b
		}
	}
	return nil
}

func (m *Memory) queue(name string) *queue {
	for _, q := range m.queues {
		if q.name == name {
			return q
		}
	}
	q := &queue{id: storage.QueueID(len(m.queues) + 1), name: name}
	m.queues = append(m.queues, q)
	return q
}

// claim hands a batch to the queue's owner.
func (m *Memory) claim(b *stored) *storage.Claim {
	if b.started.IsZero() {
		b.started = now()
	}
	b.queue.notBefore = time.Time{}
	c := &storage.Claim{
		Queue: b.queue.id, Epoch: b.queue.epoch, ID: b.id, Ticket: b.Ticket, Store: b.Store, Owner: b.Owner,
		GroupID: b.GroupID, Options: b.Options, Requests: slices.Clone(b.Requests), Credential: slices.Clone(b.Credential),
		CreatedAt: b.created, Signals: b.signals(),
	}
	for i := range b.Total() {
		if mark, ok := b.marks[i]; ok {
			if mark.State == storage.Done {
				mark.Result.Body = nil
			}
			c.Marks = append(c.Marks, mark)
		}
	}
	return c
}

// Total is the number of a batch's requests.
func (b *stored) Total() int { return len(b.Requests) }

// newest returns the queue and batch of a claim, if that is still the newest.
func (m *Memory) newest(c *storage.Claim) (*queue, *stored, error) {
	if int(c.Queue) > len(m.queues) || m.queues[c.Queue-1].epoch != c.Epoch {
		return nil, nil, storage.ErrNotOwner
	}
	return m.queues[c.Queue-1], m.byID(c.ID), nil
}

// Create implements storage.Storage.
func (n *Node) Create(ctx context.Context, b *storage.NewBatch) (out storage.Created, err error) {
	err = n.call(ctx, "Create", func(m *Memory) error {
		if same := m.find(storage.Key{Store: b.Store, Owner: b.Owner, Ticket: b.Ticket}); same != nil {
			out = storage.Created{Ticket: b.Ticket, Queue: same.queue.id}
			return nil
		}
		open := 0
		for _, o := range m.batches {
			if b.DedupKey != uuid.Nil && o.DedupKey == b.DedupKey && o.Store == b.Store && o.Owner == b.Owner && !o.deleted && time.Since(o.created) < storage.DedupWindow {
				out = storage.Created{Ticket: o.Ticket, Queue: o.queue.id, Duplicate: true}
				return nil
			}
			if o.queue.name == b.Queue && o.open() {
				open++
			}
		}
		if b.Quota > 0 && open >= b.Quota {
			return &storage.QuotaError{Limit: b.Quota}
		}
		s := &stored{NewBatch: *b, id: storage.BatchID(n.db.nextID()), queue: m.queue(b.Queue), created: now(), marks: map[int]storage.Mark{}}
		s.Requests, s.Credential = slices.Clone(b.Requests), slices.Clone(b.Credential)
		m.batches = append(m.batches, s)
		out = storage.Created{Ticket: b.Ticket, Queue: s.queue.id}
		return nil
	})
	return out, err
}

// nextID returns an id that was never used: batches are kept in order of their ids, and
// purged ones leave their place empty.
func (m *Memory) nextID() int { return len(m.batches) + 1 }

// Status implements storage.Storage.
func (n *Node) Status(ctx context.Context, k storage.Key, maxBytes int) (out *storage.Status, err error) {
	err = n.call(ctx, "Status", func(m *Memory) error {
		b := m.find(k)
		if b == nil {
			return storage.ErrNotFound
		}
		out = &storage.Status{
			ID: b.id, Ticket: b.Ticket, GroupID: b.GroupID, Status: b.status(), Total: b.Total(), Completed: b.completed(),
			CreatedAt: b.created, StartedAt: b.started, EndedAt: b.ended, Reason: b.reason,
		}
		for i, r := range b.Requests {
			if r.ID != "" && out.IDs == nil {
				out.IDs = make([]string, b.Total())
			}
			if r.ID != "" {
				out.IDs[i] = r.ID
			}
		}
		if maxBytes > 0 {
			for i, mark := range b.marks {
				if mark.State == storage.Done {
					out.Ended.Add(i)
				}
			}
			out.Results = b.results(0, maxBytes)
		}
		return nil
	})
	return out, err
}

func (b *stored) results(from, maxBytes int) (out []storage.Indexed) {
	for i := from; i < b.Total(); i++ {
		m, ok := b.marks[i]
		if !ok || m.State != storage.Done {
			continue
		}
		if maxBytes -= len(m.Result.Body); maxBytes < 0 && len(out) > 0 {
			break
		}
		m.Result.Body = slices.Clone(m.Result.Body)
		out = append(out, storage.Indexed{Index: i, Result: m.Result})
	}
	return out
}

// Results implements storage.Storage.
func (n *Node) Results(ctx context.Context, id storage.BatchID, from, maxBytes int) (out []storage.Indexed, err error) {
	err = n.call(ctx, "Results", func(m *Memory) error {
		b := m.byID(id)
		if b == nil || b.deleted {
			return storage.ErrNotFound
		}
		out = b.results(from, maxBytes)
		return nil
	})
	return out, err
}

// Search implements storage.Storage.
func (n *Node) Search(ctx context.Context, s storage.Search) (out []storage.Found, err error) {
	err = n.call(ctx, "Search", func(m *Memory) error {
		skip := s.Offset
		for _, b := range m.batches {
			if b.Store != s.Store || b.Owner != s.Owner || b.deleted || b.status() != s.Status {
				continue
			}
			if skip > 0 {
				skip--
			} else if len(out) < s.Limit {
				out = append(out, storage.Found{Ticket: b.Ticket, Status: s.Status})
			}
		}
		return nil
	})
	return out, err
}

// Stop implements storage.Storage.
func (n *Node) Stop(ctx context.Context, sel storage.Selection) (out storage.Stopped, err error) {
	err = n.call(ctx, "Stop", func(m *Memory) error {
		for _, b := range m.batches {
			if b.Store != sel.Store || b.Owner != sel.Owner || b.deleted || b.stopped || !b.open() {
				continue
			}
			if sel.Ticket == uuid.Nil && sel.GroupID == "" || sel.Ticket != uuid.Nil && b.Ticket != sel.Ticket || sel.GroupID != "" && b.GroupID != sel.GroupID {
				continue
			}
			out.Count++
			if b.stop() && !slices.Contains(out.Queues, b.queue.id) {
				out.Queues = append(out.Queues, b.queue.id)
			}
		}
		return nil
	})
	return out, err
}

// stop stops a batch and reports whether its runner has to end it.
func (b *stored) stop() bool {
	b.stopped = true
	switch {
	case !b.open():
		return false
	case b.started.IsZero():
		b.end("")
		return false
	}
	b.queue.notBefore = time.Time{}
	return true
}

// Delete implements storage.Storage.
func (n *Node) Delete(ctx context.Context, k storage.Key) (out storage.QueueID, err error) {
	err = n.call(ctx, "Delete", func(m *Memory) error {
		b := m.find(k)
		if b == nil {
			return storage.ErrNotFound
		}
		b.deleted = true
		b.stop()
		out = b.queue.id
		return nil
	})
	return out, err
}

// Runnable implements storage.Storage.
func (n *Node) Runnable(ctx context.Context, after storage.QueueID, limit int) (out []storage.Runnable, err error) {
	err = n.call(ctx, "Runnable", func(m *Memory) error {
		for _, q := range m.queues {
			if q.id > after && q.owner == nil && len(out) < limit && m.next(q) != nil {
				out = append(out, storage.Runnable{Queue: q.id, NotBefore: q.notBefore})
			}
		}
		return nil
	})
	return out, err
}

// Claim implements storage.Storage.
func (n *Node) Claim(ctx context.Context, id storage.QueueID) (out *storage.Claim, err error) {
	err = n.call(ctx, "Claim", func(m *Memory) error {
		if id < 1 || int(id) > len(m.queues) {
			return storage.ErrNothing
		}
		q := m.queues[id-1]
		if q.owner != nil && q.owner != n {
			return storage.ErrNotOwner
		}
		b := m.next(q)
		if b == nil {
			return storage.ErrNothing
		}
		q.owner = n
		q.epoch++
		out = m.claim(b)
		return nil
	})
	return out, err
}

// Record implements storage.Storage.
func (n *Node) Record(ctx context.Context, c *storage.Claim, marks []storage.Mark) (out storage.Signals, err error) {
	err = n.call(ctx, "Record", func(m *Memory) error {
		_, b, err := m.newest(c)
		if err != nil || b == nil {
			return storage.ErrNotOwner
		}
		if b.open() {
			b.put(marks)
		}
		out = b.signals()
		return nil
	})
	return out, err
}

// Finish implements storage.Storage.
func (n *Node) Finish(ctx context.Context, c *storage.Claim, marks []storage.Mark, reason string, release bool) (out *storage.Claim, err error) {
	err = n.call(ctx, "Finish", func(m *Memory) error {
		q, b, err := m.newest(c)
		if err != nil {
			return err
		}
		if b != nil && b.open() {
			b.put(marks)
			b.end(reason)
		}
		q.owner, q.notBefore = nil, time.Time{}
		if next := m.next(q); next != nil && !release {
			q.owner = n
			out = m.claim(next)
		}
		return nil
	})
	return out, err
}

// Release implements storage.Storage.
func (n *Node) Release(ctx context.Context, c *storage.Claim, marks []storage.Mark, notBefore time.Time) error {
	return n.call(ctx, "Release", func(m *Memory) error {
		q, b, err := m.newest(c)
		if err != nil {
			return err
		}
		if b != nil && b.open() {
			b.put(marks)
		}
		q.owner, q.notBefore = nil, batch.FromMillis(batch.Millis(notBefore))
		return nil
	})
}

// Abandon implements storage.Storage.
func (n *Node) Abandon(ctx context.Context, inDoubt batch.Result, reason string) (count int, err error) {
	err = n.call(ctx, "Abandon", func(m *Memory) error {
		for _, b := range m.batches {
			if !b.open() {
				continue
			}
			for i, mark := range b.marks {
				switch {
				case mark.State == storage.Begun:
					mark.State, mark.Result = storage.Done, inDoubt
				case mark.State == storage.Waiting && mark.Result.Status != 0:
					mark.State = storage.Done
				}
				b.marks[i] = mark
			}
			b.end(reason)
			count++
		}
		return nil
	})
	return count, err
}

// purgeLimit bounds the batches that one Purge removes.
const purgeLimit = 100

// Purge implements storage.Storage.
func (n *Node) Purge(ctx context.Context, retention time.Duration) (more bool, err error) {
	err = n.call(ctx, "Purge", func(m *Memory) error {
		removed := 0
		for _, b := range m.batches {
			if b.id == 0 || b.open() || !b.deleted && time.Since(b.ended) < retention {
				continue
			}
			if removed == purgeLimit {
				more = true
				return nil
			}
			*b = stored{finished: true, deleted: true, queue: b.queue}
			removed++
		}
		return nil
	})
	return more, err
}

// Setting implements storage.Storage.
func (n *Node) Setting(ctx context.Context, name string) (value string, err error) {
	err = n.call(ctx, "Setting", func(m *Memory) error {
		value = m.settings[name]
		return nil
	})
	return value, err
}

// PutSetting implements storage.Storage.
func (n *Node) PutSetting(ctx context.Context, name, value string) error {
	return n.call(ctx, "PutSetting", func(m *Memory) error {
		m.settings[name] = value
		return nil
	})
}

// Ping implements storage.Storage.
func (n *Node) Ping(ctx context.Context) error {
	return n.call(ctx, "Ping", func(*Memory) error { return nil })
}

// Close implements storage.Storage.
func (n *Node) Close() error {
	n.db.lose(n, false)
	n.db.mu.Lock()
	defer n.db.mu.Unlock()
	n.closed = true
	return nil
}
