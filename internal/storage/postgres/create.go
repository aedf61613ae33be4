package postgres

import (
	"context"
	"slices"

	"github.com/google/uuid"
	"github.com/sheafapi/sheaf/internal/storage"
)

// Create implements storage.Storage. It locks the queue's row first, so that the batches' ids are
// in the order of the commits.
func (db *DB) Create(ctx context.Context, b *storage.NewBatch) (storage.CreateResult, error) {
	var out storage.CreateResult
	lane := creates(storage.Caller{Store: b.Store, Owner: b.Owner})
	packed, ids := storage.Pack(b.Requests), storage.PackIDs(b.Requests)
	err := db.writeAgain(ctx, "create a batch", func(ctx context.Context) (err error) {
		var r insertRow
		found := false
		steps := []step{
			do("sync_commit"),
			do("enter_queue", []byte(b.Queue)),
			do("lock_queue_named", []byte(b.Queue)),
			get("insert_batch", scan(&found, &r.queue, &r.open, &r.held, &r.bytes, &r.made, &r.same, &r.twin, &r.twinQueue),
				[]byte(b.Queue), b.Ticket, b.Store, b.Owner[:], nullable(b.DedupKey), b.Options.Parallel, b.Options.StopOnFailure,
				len(b.Requests), []byte(b.GroupID), b.Credential, b.Quota, ids, packed, b.QuotaBytes, nullable(b.RetryOf), []byte(b.Callback), b.Trace, b.Once,
				[]byte(storage.PackOptions(&b.Options))),
		}
		if b.DedupKey != uuid.Nil {
			window := storage.DedupWindow + db.clock.steps.Forward(storage.DedupWindow)
			steps = slices.Insert(steps, len(steps)-1,
				do("date_dedup_key", b.Store, b.Owner[:], b.DedupKey),
				do("free_dedup_key", b.Store, b.Owner[:], b.DedupKey, window.Milliseconds()))
		}
		if err := db.sendIn(ctx, lane, steps); err != nil {
			return err
		}
		if !found {
			return errGone
		}
		out, err = r.outcome(b, len(packed))
		if r.made == nil && r.held == 0 {
			// Remove the queue's row, which isn't needed. If this fails, an empty row stays.
			_ = db.sendIn(ctx, lane, []step{do("leave_queue_empty", r.queue)})
		}
		return err
	})
	if err != nil {
		return storage.CreateResult{}, err
	}
	return out, nil
}

// insertRow is the row that insert_batch returns.
type insertRow struct {
	queue      storage.QueueID
	open, held int
	bytes      int64
	made       *int64           // the new batch; nil: none was created
	same       *storage.QueueID // the queue of the existing batch with this ticket; nil: there is none
	twin       *uuid.UUID       // the ticket of an existing batch with the same key; nil: there is none
	twinQueue  *storage.QueueID
}

func (r *insertRow) outcome(b *storage.NewBatch, size int) (storage.CreateResult, error) {
	switch {
	case r.made != nil:
		return storage.CreateResult{Ticket: b.Ticket, Queue: r.queue}, nil
	case r.same != nil:
		return storage.CreateResult{Ticket: b.Ticket, Queue: *r.same}, nil
	case r.twin != nil:
		return storage.CreateResult{Ticket: *r.twin, Queue: *r.twinQueue, Duplicate: true}, nil
	case b.Quota > 0 && r.open >= b.Quota:
		return storage.CreateResult{}, &storage.QuotaError{Limit: b.Quota}
	case b.QuotaBytes > 0 && r.bytes+int64(size) > b.QuotaBytes:
		return storage.CreateResult{}, &storage.QuotaError{Bytes: b.QuotaBytes}
	}
	return storage.CreateResult{}, errGone // a concurrent create with this key was committed: try again
}

// nullable returns the value of a column that is NULL if there is no id.
func nullable(id uuid.UUID) *uuid.UUID {
	if id == uuid.Nil {
		return nil
	}
	return &id
}
