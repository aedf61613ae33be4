package postgres

import (
	"context"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// Progress implements storage.Storage.
func (db *DB) Progress(ctx context.Context, c *storage.Claim) error {
	return db.underClaim(ctx, "note a batch's progress", c, func(ctx context.Context) error {
		steps := append(db.ending(c, nil), do("end_wait", c.Queue, c.Epoch), do("progressed", c.ID, c.Queue, c.Epoch))
		return db.sendUnder(ctx, c, steps)
	})
}

// Quarantine implements storage.Storage.
func (db *DB) Quarantine(ctx context.Context, c *storage.Claim, reason string) error {
	return db.underClaim(ctx, "quarantine a batch", c, func(ctx context.Context) error {
		steps := append(db.ending(c, nil), do("quarantine", c.ID, c.Queue, c.Epoch, []byte(reason)))
		steps = append(steps, endAside([]int64{int64(c.ID)})...)
		steps = append(steps, do("leave_queue", c.Queue, c.Epoch, 0, true, c.ID, false, storage.NoWait, c.Credential))
		return db.sendUnder(ctx, c, steps)
	})
}

// endAside returns the steps that end those of the batches that are quarantined and stopped. Their
// queues must be locked.
func endAside(ids []int64) []step {
	r := batch.OutcomeUnknown
	return []step{
		do("end_begun_of", ids, r.Status, r.Code, r.Kind, []byte(r.Line), r.Body),
		do("end_waiting_of", ids),
		do("end_quarantined", ids),
	}
}

// Quarantined implements storage.Storage.
func (db *DB) Quarantined(ctx context.Context, after storage.BatchID, limit int) ([]storage.QuarantinedBatch, error) {
	var out []storage.QuarantinedBatch
	err := db.read(ctx, readsOf(ctx), "list quarantined batches", get("quarantined", func(r pgx.Rows) error {
		var b storage.QuarantinedBatch
		var ticket uuid.UUID
		var queue, group, reason []byte
		var created, at int64
		err := r.Scan(&b.ID, &ticket, &b.Store, &queue, &group, &b.Total, &created, &at, &reason)
		b.Ticket, b.Queue, b.GroupID, b.Reason = ticket, string(queue), string(group), string(reason)
		b.CreatedAt, b.At = db.clock.in(created), db.clock.in(at)
		out = append(out, b)
		return err
	}, after, limit).anew(func() { out = nil }))
	return out, err
}

// Unquarantine implements storage.Storage.
func (db *DB) Unquarantine(ctx context.Context, ticket batch.Ticket, end bool) (storage.QueueID, error) {
	const what = "release a batch from quarantine, or end it"
	var id int64
	var queue storage.QueueID
	found := false
	err := db.read(ctx, readsOf(ctx), what, get("quarantined_ticket", scan(&found, &id, &queue), ticket).anew(func() { found = false }))
	switch {
	case err != nil:
		return 0, err
	case !found:
		return 0, storage.ErrNotFound
	}
	steps := []step{do("lock_queues", []int64{int64(queue)})}
	if end {
		steps = append(append(steps, do("stop_quarantined", id, storage.EndedAside(""))), endAside([]int64{id})...)
	} else {
		steps = append(steps, do("unquarantine", id))
	}
	return queue, db.write(ctx, results, what, steps...)
}
