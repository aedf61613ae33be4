package postgres

import (
	"context"
	"crypto/subtle"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/sheafapi/sheaf/batch"
	"github.com/sheafapi/sheaf/storage"
)

// Status implements storage.Storage.
func (db *DB) Status(ctx context.Context, key storage.Key, maxBytes int) (out *storage.Status, err error) {
	const what = "read a batch"
	status := get("status", func(r pgx.Rows) (err error) {
		out, err = db.readStatus(r, key)
		return err
	}, key.Ticket).anew(func() { out = nil })
	if maxBytes <= 0 {
		err = db.read(ctx, what, status)
	} else {
		var ended batch.Set
		var completed int
		var results []storage.Indexed
		err = db.readAtOnce(ctx, what, status,
			get("done", func(r pgx.Rows) error {
				completed++
				return scanSet(r, &ended)
			}, key.Ticket).anew(func() { ended, completed = batch.Set{}, 0 }),
			get("results_by_ticket", readResult(&results), key.Ticket, maxBytes).anew(func() { results = nil }))
		if out != nil {
			out.Ended, out.Completed, out.Results = ended, completed, results
		}
	}
	if err == nil && out == nil {
		err = storage.ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	return out, nil
}

// scanSet adds a row's only column to a set.
func scanSet(r pgx.Rows, set *batch.Set) error {
	var i int
	if err := r.Scan(&i); err != nil {
		return err
	}
	set.Add(i)
	return nil
}

// readStatus reads what the batch's own row knows; nil if the caller may not see it.
func (db *DB) readStatus(r pgx.Rows, key storage.Key) (*storage.Status, error) {
	out := &storage.Status{Ticket: key.Ticket}
	var store string
	var owner, group, reason, ids []byte
	var created, started, ended int64
	var done int
	err := r.Scan(&out.ID, &store, &owner, &group, &out.Total, &out.Completed, &created, &started, &ended, &reason, &ids, &done)
	if err != nil || !mayRead(key, store, owner) {
		return nil, err
	}
	out.GroupID, out.Reason = string(group), string(reason)
	out.CreatedAt, out.StartedAt, out.EndedAt = db.clock.in(created), db.clock.in(started), db.clock.in(ended)
	switch {
	case ended != 0:
		out.Status = batch.Completed
	case done > 0:
		out.Status, out.Completed = batch.InProgress, done
	default:
		out.Status = batch.Queued
	}
	if ids != nil {
		out.IDs, err = batch.UnpackIDs(ids)
	}
	return out, err
}

// mayRead compares a batch's store and owner with the caller's. The owner's hash is
// compared in constant time.
func mayRead(key storage.Key, store string, owner []byte) bool {
	same := subtle.ConstantTimeCompare(key.Owner[:], owner) == 1
	return store == key.Store && same
}

// Results implements storage.Storage.
func (db *DB) Results(ctx context.Context, id storage.BatchID, from, maxBytes int) ([]storage.Indexed, error) {
	var out []storage.Indexed
	there := false
	err := db.readAtOnce(ctx, "read results",
		get("is_readable", scan(&there, new(int)), id).anew(func() { there = false }),
		get("results", readResult(&out), id, min(max(from, 0), batch.MaxRequests), maxBytes).anew(func() { out = nil }))
	if err == nil && !there {
		err = storage.ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	return out, nil
}

// readResult reads a row of the statements "results".
func readResult(out *[]storage.Indexed) func(r pgx.Rows) error {
	return func(r pgx.Rows) error {
		var x storage.Indexed
		var line []byte
		err := r.Scan(&x.Index, &x.Status, &x.Code, &x.Kind, &line, &x.Body)
		x.Line = string(line)
		*out = append(*out, x)
		return err
	}
}

// Search implements storage.Storage.
func (db *DB) Search(ctx context.Context, q storage.Search) ([]storage.Found, error) {
	name := map[batch.Status]string{
		batch.Queued: "search_queued", batch.InProgress: "search_in_progress", batch.Completed: "search_completed",
	}[q.Status]
	if name == "" {
		return nil, db.read(ctx, "search batches") // there are none of any other status
	}
	var out []storage.Found
	err := db.read(ctx, "search batches", get(name, func(r pgx.Rows) error {
		var ticket uuid.UUID
		err := r.Scan(&ticket)
		out = append(out, storage.Found{Ticket: ticket, Status: q.Status})
		return err
	}, q.Store, q.Owner[:], q.Limit, q.Offset).anew(func() { out = nil }))
	if err != nil {
		return nil, err
	}
	return out, nil
}
