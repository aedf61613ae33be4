package sqlite

import (
	"context"

	"github.com/google/uuid"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
	"zombiezen.com/go/sqlite"
)

// Pause implements storage.Storage.
func (db *DB) Pause(ctx context.Context, p storage.PauseRequest) (storage.StopResult, error) {
	var q int64
	err := db.writeFor(ctx, callerOf(p.Key), 0, "pause or resume batches", func(c *sqlite.Conn) (err error) {
		q, err = pause(c, p)
		if err != nil || q == 0 || p.Paused {
			return err
		}
		if err := query(c, "wake_queue", nil, q); err != nil {
			return err
		}
		return query(c, "delete_queue", nil, q) // only if it has no batches
	})
	if err != nil || q == 0 {
		return storage.StopResult{}, err
	}
	return storage.StopResult{Count: 1, Queues: []storage.QueueID{storage.QueueID(q)}}, nil
}

// pause pauses or resumes, and returns the queue; 0 if nothing changed.
func pause(c *sqlite.Conn, p storage.PauseRequest) (int64, error) {
	switch {
	case p.Ticket != uuid.Nil:
		b, err := byTicket(c, p.Key)
		if err != nil {
			return 0, err
		}
		return queryInt(c, "pause_batch", int64(b.id), p.Paused)
	case p.Paused:
		return queryInt(c, "pause_queue", p.Queue, true)
	}
	return queryInt(c, "resume_queue", p.Queue)
}

// Group implements storage.Storage.
func (db *DB) Group(ctx context.Context, store string, owner batch.Owner, group string) (storage.GroupCounts, error) {
	const what = "count the batches of a group"
	var members []member
	look := func(c *sqlite.Conn) error {
		members = nil
		return query(c, "grouped", func(s *sqlite.Stmt) error {
			members = append(members, member{
				storage.BatchID(s.ColumnInt64(0)), batch.Status(s.ColumnInt(1)), s.ColumnInt(2),
				counts{completed: s.ColumnInt(3), failed: s.ColumnInt(4), inDoubt: s.ColumnInt(6)},
				s.ColumnBool(5),
			})
			return nil
		}, store, owner[:], group)
	}
	if err := db.readFor(ctx, storage.Caller{Store: store, Owner: owner}, what, look); err != nil {
		return storage.GroupCounts{}, err
	}
	held := map[storage.BatchID][]freshMark{} // read before the transaction that uses it begins
	for _, b := range members {
		if b.state != batch.Completed && b.started {
			held[b.id] = db.journal.of(b.id)
		}
	}
	var out storage.GroupCounts
	err := db.readFor(ctx, storage.Caller{Store: store, Owner: owner}, what, func(c *sqlite.Conn) error {
		out = storage.GroupCounts{}
		if err := look(c); err != nil {
			return err
		}
		for _, b := range members {
			n, err := b.count(c, held[b.id])
			if err != nil {
				return err
			}
			b.add(&out, n)
		}
		return nil
	})
	return out, err
}

// member is a batch of a group.
type member struct {
	id      storage.BatchID
	state   batch.Status
	total   int
	counted counts // the counts when it ended; failed is -1 if failures weren't counted
	started bool
}

// counts are the counts of one batch's results.
type counts struct{ completed, failed, inDoubt, skipped int }

// count counts a batch's results.
func (b *member) count(c *sqlite.Conn, held []freshMark) (n counts, err error) {
	if b.state == batch.Completed && b.counted.failed >= 0 {
		n = b.counted
		n.skipped = b.total - n.completed
		return n, nil
	}
	if b.state != batch.Completed && !b.started {
		return counts{}, nil
	}
	e, err := endsOf(c, b.id, held)
	if err != nil {
		return counts{}, err
	}
	n = counts{completed: e.completed(), failed: e.failed.Len(), inDoubt: e.inDoubt.Len(), skipped: e.skipped.Len()}
	if b.state == batch.Completed {
		n.skipped = b.total - n.completed
	}
	return n, nil
}

// add adds a batch to the counts of its group.
func (b *member) add(out *storage.GroupCounts, n counts) {
	switch {
	case b.state == batch.Completed:
		out.Completed++
	case n.completed > 0:
		out.InProgress++
	default:
		out.Queued++
	}
	out.Requests += b.total
	out.Succeeded += n.completed - n.failed
	out.Failed += n.failed
	out.InDoubt += n.inDoubt
	out.NotExecuted += n.skipped
}
