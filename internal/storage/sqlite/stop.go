package sqlite

import (
	"context"
	"errors"
	"slices"

	"github.com/google/uuid"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
	"zombiezen.com/go/sqlite"
)

// Stop implements storage.Storage.
func (db *DB) Stop(ctx context.Context, sel storage.Selection) (storage.StopResult, error) {
	var out storage.StopResult
	err := db.writeFor(ctx, storage.Caller{Store: sel.Store, Owner: sel.Owner}, 0, "stop batches", func(c *sqlite.Conn) error {
		out = storage.StopResult{}
		rows, err := selected(c, sel)
		if err != nil {
			return err
		}
		for _, b := range rows {
			if err := db.stop(c, b, "stop"); err != nil {
				return err
			}
			out.Count++
			if b.started && !b.aside && !slices.Contains(out.Queues, b.queue) {
				out.Queues = append(out.Queues, b.queue)
			}
		}
		return nil
	})
	if err != nil {
		return storage.StopResult{}, err
	}
	return out, nil
}

// selected returns the unfinished batches of a selection that haven't been stopped.
func selected(c *sqlite.Conn, sel storage.Selection) (out []row, err error) {
	if sel.Ticket != uuid.Nil {
		b, err := byTicket(c, storage.Key{Store: sel.Store, Owner: sel.Owner, Ticket: sel.Ticket})
		switch {
		case errors.Is(err, storage.ErrNotFound):
			return nil, nil
		case err != nil:
			return nil, err
		case b.state == batch.Completed || b.stopped || sel.GroupID != "" && b.groupID != sel.GroupID:
			return nil, nil
		}
		return []row{b}, nil
	}
	err = query(c, "open_of_group", func(s *sqlite.Stmt) error {
		out = append(out, row{
			id:      storage.BatchID(s.ColumnInt64(0)),
			queue:   storage.QueueID(s.ColumnInt64(1)),
			started: s.ColumnInt64(2) != 0,
			aside:   s.ColumnInt64(3) != 0,
		})
		return nil
	}, sel.Store, sel.Owner[:], sel.GroupID)
	return out, err
}

// stop runs the named statement, which stops a batch. A batch that was never started, or that is
// quarantined, ends at once. Any other batch is ended by its runner, for which the queue becomes
// runnable at once.
func (db *DB) stop(c *sqlite.Conn, b row, statement string) error {
	if err := query(c, statement, nil, int64(b.id)); err != nil {
		return err
	}
	switch {
	case b.state == batch.Completed:
		return nil
	case b.aside:
		return db.endAside(c, b.id, b.queue, "")
	case b.started:
		return query(c, "wake_queue", nil, int64(b.queue))
	}
	return db.end(c, b.id, b.queue, "")
}

// end ends an unfinished batch.
func (db *DB) end(c *sqlite.Conn, id storage.BatchID, q storage.QueueID, reason string) error {
	now := db.clock.Now().UnixMilli()
	if err := query(c, "end_batch", nil, int64(id), now, reason); err != nil {
		return err
	}
	if err := query(c, "insert_delivery", nil, int64(id), now); err != nil {
		return err
	}
	bytes, err := queryInt(c, "result_bytes", int64(id))
	if err != nil {
		return err
	}
	if err := query(c, "weigh_batch", nil, int64(id), bytes); err != nil {
		return err
	}
	return query(c, "shrink_queue", nil, int64(q), bytes)
}

// endUnrun ends an unfinished batch that no node runs.
func (db *DB) endUnrun(c *sqlite.Conn, id storage.BatchID, q storage.QueueID, inDoubt batch.Result, reason string) error {
	if err := query(c, "end_begun", nil, int64(id), int(inDoubt.Status), inDoubt.Code, int(inDoubt.Kind), inDoubt.Line, inDoubt.Body); err != nil {
		return err
	}
	if err := query(c, "end_waiting", nil, int64(id)); err != nil {
		return err
	}
	return db.end(c, id, q, reason)
}

// Delete implements storage.Storage.
func (db *DB) Delete(ctx context.Context, key storage.Key) (storage.QueueID, error) {
	var queue storage.QueueID
	err := db.writeFor(ctx, callerOf(key), 0, "delete a batch", func(c *sqlite.Conn) error {
		b, err := byTicket(c, key)
		if err != nil {
			return err
		}
		queue = b.queue
		return db.stop(c, b, "delete")
	})
	if err != nil {
		return 0, err
	}
	return queue, nil
}

// Abandon implements storage.Storage.
func (db *DB) Abandon(ctx context.Context, inDoubt batch.Result, reason string) (int, error) {
	var n int
	err := db.write(ctx, "abandon credentials", func(c *sqlite.Conn) error {
		if err := db.journal.settleAll(c); err != nil {
			return err
		}
		var open []row
		err := query(c, "open_batches", func(s *sqlite.Stmt) error {
			open = append(open, row{id: storage.BatchID(s.ColumnInt64(0)), queue: storage.QueueID(s.ColumnInt64(1)), aside: s.ColumnInt64(2) != 0})
			return nil
		})
		if err != nil {
			return err
		}
		for _, b := range open {
			if b.aside {
				if err := reopen(c, b.id, b.queue, true); err != nil {
					return err
				}
			}
			if err := db.endUnrun(c, b.id, b.queue, inDoubt, reason); err != nil {
				return err
			}
		}
		n = len(open)
		return query(c, "release_queues", nil)
	})
	if err != nil {
		return 0, err
	}
	return n, nil
}
