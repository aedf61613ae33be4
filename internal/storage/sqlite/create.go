package sqlite

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/sheafapi/sheaf/internal/storage"
	"zombiezen.com/go/sqlite"
)

// Create implements storage.Storage.
func (db *DB) Create(ctx context.Context, b *storage.NewBatch) (storage.CreateResult, error) {
	packed, ids := storage.Pack(b.Requests), storage.PackIDs(b.Requests)
	var out storage.CreateResult
	err := db.writeFor(ctx, storage.Caller{Store: b.Store, Owner: b.Owner}, len(packed), "create a batch", func(c *sqlite.Conn) (err error) {
		now := db.now()
		var found bool
		if out, found, err = db.earlier(c, b, now); err != nil || found {
			return err
		}
		if err := checkQuota(c, b, len(packed)); err != nil {
			return err
		}
		queue, err := queryInt(c, "grow_queue", b.Queue, len(packed))
		if err != nil {
			return err
		}
		err = query(c, "insert_batch", nil, queue, b.Options.Parallel, b.Options.StopOnFailure, len(b.Requests), now.UnixMilli(),
			b.Ticket[:], b.Store, b.Owner[:], b.GroupID, nullable(b.DedupKey), b.Credential, len(packed), nullable(b.RetryOf), b.Callback, b.Trace, storage.PackOptions(&b.Options))
		if err != nil {
			return err
		}
		out = storage.CreateResult{Ticket: b.Ticket, Queue: storage.QueueID(queue)}
		return query(c, "insert_requests", nil, c.LastInsertRowID(), ids, packed)
	})
	if err != nil {
		return storage.CreateResult{}, err
	}
	return out, nil
}

// earlier looks for a batch that this Create would duplicate: one with the same deduplication key,
// or with the same ticket, which means that this very call was stored before.
func (db *DB) earlier(c *sqlite.Conn, b *storage.NewBatch, now time.Time) (out storage.CreateResult, found bool, err error) {
	same, err := byTicket(c, storage.Key{Store: b.Store, Owner: b.Owner, Ticket: b.Ticket})
	if err == nil {
		return storage.CreateResult{Ticket: b.Ticket, Queue: same.queue}, true, nil
	}
	if !storage.Certain(err) {
		return out, false, err
	}
	duplicate := func(s *sqlite.Stmt) error {
		found = true
		out = storage.CreateResult{Queue: storage.QueueID(s.ColumnInt64(1)), Duplicate: true}
		s.ColumnBytes(0, out.Ticket[:])
		return nil
	}
	if b.RetryOf != uuid.Nil {
		statement := "open_retry"
		if b.Once {
			statement = "any_retry"
		}
		if err := query(c, statement, duplicate, b.RetryOf[:], b.Store, b.Owner[:]); err != nil || found {
			return out, found, err
		}
	}
	if b.DedupKey == uuid.Nil {
		return out, false, nil
	}
	if err := query(c, "date_dedup_key", nil, b.Store, b.Owner[:], b.DedupKey[:], now.UnixMilli()); err != nil {
		return out, false, err
	}
	window := storage.DedupWindow + db.steps.Forward(storage.DedupWindow)
	err = query(c, "batch_by_dedup_key", duplicate, b.Store, b.Owner[:], b.DedupKey[:], now.Add(-window).UnixMilli())
	return out, found, err
}

func checkQuota(c *sqlite.Conn, b *storage.NewBatch, size int) error {
	if b.Quota == 0 && b.QuotaBytes == 0 {
		return nil
	}
	open, bytes := 0, int64(0)
	err := query(c, "queue_by_name", func(s *sqlite.Stmt) error {
		open, bytes = s.ColumnInt(1), s.ColumnInt64(2)
		return nil
	}, b.Queue)
	switch {
	case err != nil:
		return err
	case b.Quota > 0 && open >= b.Quota:
		return &storage.QuotaError{Limit: b.Quota}
	case b.QuotaBytes > 0 && bytes+int64(size) > b.QuotaBytes:
		return &storage.QuotaError{Bytes: b.QuotaBytes}
	}
	return nil
}

// nullable returns the value of a column that is NULL if there is no id.
func nullable(id uuid.UUID) []byte {
	if id == uuid.Nil {
		return nil
	}
	return id[:]
}
