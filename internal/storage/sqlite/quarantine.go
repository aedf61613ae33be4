package sqlite

import (
	"context"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
	"zombiezen.com/go/sqlite"
)

// Progress implements storage.Storage.
func (db *DB) Progress(ctx context.Context, cl *storage.Claim) error {
	return db.write(ctx, "note a batch's progress", func(c *sqlite.Conn) error {
		if _, err := owned(c, cl); err != nil {
			return err
		}
		if err := query(c, "end_wait", nil, int64(cl.Queue)); err != nil {
			return err
		}
		return query(c, "progressed", nil, int64(cl.ID))
	})
}

// Quarantine implements storage.Storage.
func (db *DB) Quarantine(ctx context.Context, cl *storage.Claim, reason string) error {
	return db.write(ctx, "quarantine a batch", func(c *sqlite.Conn) error {
		state, err := owned(c, cl)
		if err != nil {
			return err
		}
		if state != 0 && state != batch.Completed {
			if err := db.setAside(c, cl, reason); err != nil {
				return err
			}
		}
		return db.leave(c, cl, time.Time{}, storage.NoWait)
	})
}

// setAside quarantines an unfinished batch, or ends it if it was stopped.
func (db *DB) setAside(c *sqlite.Conn, cl *storage.Claim, reason string) error {
	now, err := claimedNow(c, cl.ID)
	if err != nil {
		return err
	}
	if err := db.journal.settle(c, cl.ID, nil); err != nil {
		return err
	}
	if now.signals.Stopped || now.signals.Deleted {
		return db.endUnrun(c, cl.ID, cl.Queue, batch.OutcomeUnknown, reason)
	}
	if err := query(c, "quarantine", nil, int64(cl.ID), db.clock.Now().UnixMilli(), reason); err != nil || c.Changes() == 0 {
		return err
	}
	return query(c, "count_open", nil, int64(cl.Queue), -1)
}

// reopen makes a quarantined batch one of its queue's open batches again.
func reopen(c *sqlite.Conn, id storage.BatchID, q storage.QueueID, keepReason bool) error {
	if err := query(c, "unquarantine", nil, int64(id), keepReason); err != nil {
		return err
	}
	return query(c, "count_open", nil, int64(q), 1)
}

// endAside ends a quarantined batch. If reason is empty, the reason for the quarantine remains.
func (db *DB) endAside(c *sqlite.Conn, id storage.BatchID, q storage.QueueID, reason string) error {
	if err := reopen(c, id, q, true); err != nil {
		return err
	}
	if reason == "" {
		err := query(c, "reason", func(s *sqlite.Stmt) error {
			reason = s.ColumnText(0)
			return nil
		}, int64(id))
		if err != nil {
			return err
		}
	}
	return db.endUnrun(c, id, q, batch.OutcomeUnknown, reason)
}

// Quarantined implements storage.Storage.
func (db *DB) Quarantined(ctx context.Context, after storage.BatchID, limit int) ([]storage.QuarantinedBatch, error) {
	var out []storage.QuarantinedBatch
	err := db.read(ctx, "list quarantined batches", func(c *sqlite.Conn) error {
		return query(c, "quarantined", func(s *sqlite.Stmt) error {
			b := storage.QuarantinedBatch{
				ID: storage.BatchID(s.ColumnInt64(0)), Store: s.ColumnText(2), Queue: s.ColumnText(3), GroupID: s.ColumnText(4), Total: s.ColumnInt(5),
				CreatedAt: storage.FromMillis(s.ColumnInt64(6)), At: storage.FromMillis(s.ColumnInt64(7)), Reason: s.ColumnText(8),
			}
			s.ColumnBytes(1, b.Ticket[:])
			out = append(out, b)
			return nil
		}, int64(after), limit)
	})
	return out, err
}

// Unquarantine implements storage.Storage.
func (db *DB) Unquarantine(ctx context.Context, ticket batch.Ticket, end bool) (storage.QueueID, error) {
	var id, q int64
	err := db.write(ctx, "release a batch from quarantine, or end it", func(c *sqlite.Conn) error {
		var reason string
		id = 0
		err := query(c, "quarantined_ticket", func(s *sqlite.Stmt) error {
			id, q, reason = s.ColumnInt64(0), s.ColumnInt64(1), s.ColumnText(2)
			return nil
		}, ticket[:])
		switch {
		case err != nil:
			return err
		case id == 0:
			return storage.ErrNotFound
		case end:
			return db.endAside(c, storage.BatchID(id), storage.QueueID(q), storage.EndedAside(reason))
		}
		if err := reopen(c, storage.BatchID(id), storage.QueueID(q), false); err != nil {
			return err
		}
		return query(c, "wake_queue", nil, q)
	})
	if err != nil {
		return 0, err
	}
	return storage.QueueID(q), nil
}
