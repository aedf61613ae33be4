package postgres

import (
	"context"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// Pause implements storage.Storage.
func (db *DB) Pause(ctx context.Context, p storage.PauseRequest) (storage.StopResult, error) {
	const what = "pause or resume batches"
	l := creates(callerOf(p.Key))
	var hit stopRows
	if p.Ticket == uuid.Nil {
		name := []byte(p.Queue)
		steps := []step{do("lock_queue_named", name), get("pause_queue", hit.row, name, p.Paused).anew(hit.forget)}
		if p.Paused {
			steps = append([]step{do("enter_queue", name)}, steps...)
		}
		if err := db.write(ctx, l, what, steps...); err != nil {
			return storage.StopResult{}, err
		}
		if !p.Paused && hit.count > 0 {
			// This removes a queue without batches. If it fails, an empty row stays.
			_ = db.write(ctx, l, what, do("leave_queue_empty", hit.queues[0]))
		}
	} else {
		var id int64
		var queue storage.QueueID
		var store string
		var owner []byte
		found := false
		err := db.read(ctx, l, what, get("batch_by_ticket", scan(&found, &id, &queue, &store, &owner), p.Ticket).anew(func() { found = false }))
		if err != nil {
			return storage.StopResult{}, err
		}
		if !found || !p.Covers(store, owner) {
			return storage.StopResult{}, storage.ErrNotFound
		}
		err = db.write(ctx, l, what, do("lock_queues", []int64{int64(queue)}), get("pause_batch", hit.row, id, p.Paused).anew(hit.forget))
		if err != nil {
			return storage.StopResult{}, err
		}
	}
	db.tell(&hit)
	return storage.StopResult{Count: hit.count, Queues: hit.queues}, nil
}

// Group implements storage.Storage.
func (db *DB) Group(ctx context.Context, store string, owner batch.Owner, group string) (storage.GroupCounts, error) {
	var out storage.GroupCounts
	err := db.read(ctx, reads(storage.Caller{Store: store, Owner: owner}), "count the batches of a group", get("grouped", func(r pgx.Rows) error {
		var isEnded bool
		var total, completed, failed, skipped, inDoubt int
		if err := r.Scan(&isEnded, &total, &completed, &failed, &skipped, &inDoubt); err != nil {
			return err
		}
		switch {
		case isEnded:
			out.Completed++
			skipped = total - completed
		case completed > 0:
			out.InProgress++
		default:
			out.Queued++
		}
		out.Requests += total
		out.Succeeded += completed - failed
		out.Failed += failed
		out.InDoubt += inDoubt
		out.NotExecuted += skipped
		return nil
	}, store, owner[:], []byte(group)).anew(func() { out = storage.GroupCounts{} }))
	return out, err
}
