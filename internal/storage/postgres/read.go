package postgres

import (
	"context"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// Status implements storage.Storage.
func (db *DB) Status(ctx context.Context, key storage.Key, maxBytes int) (out *storage.Status, err error) {
	const what = "read a batch"
	status := get("status", func(r pgx.Rows) (err error) {
		out, err = db.readStatus(r, key)
		return err
	}, key.Ticket).anew(func() { out = nil })
	if maxBytes <= 0 {
		err = db.read(ctx, reads(callerOf(key)), what, status)
	} else {
		var ended batch.Set
		var completed, failed, inDoubt int
		var results []storage.IndexedResult
		err = db.readAtOnce(ctx, reads(callerOf(key)), what, status,
			get("done", func(r pgx.Rows) error {
				var i int
				var status batch.ResultStatus
				var doubtful bool
				err := r.Scan(&i, &status, &doubtful)
				if ended.Add(i); status != batch.NotExecuted {
					completed++
				}
				if status == batch.Failed {
					failed++
				}
				if doubtful {
					inDoubt++
				}
				return err
			}, key.Ticket).anew(func() { ended, completed, failed, inDoubt = batch.Set{}, 0, 0, 0 }),
			get("results_by_ticket", db.readResult(&results), key.Ticket, maxBytes).anew(func() { results = nil }))
		if out != nil {
			out.Ended, out.Completed, out.Failed, out.InDoubt, out.Results = ended, completed, failed, inDoubt, results
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

// readStatus reads the batch's own row. It returns nil if the caller may not see the batch.
func (db *DB) readStatus(r pgx.Rows, key storage.Key) (*storage.Status, error) {
	out := &storage.Status{Ticket: key.Ticket}
	var store string
	var owner, group, reason, ids []byte
	var created, started, ended, notBefore, quarantined, waitsSince int64
	var done int
	var retryOf *uuid.UUID
	err := r.Scan(&out.ID, &store, &owner, &group, &out.Total, &out.Completed, &created, &started, &ended, &reason, &ids, &done, &out.Failed, &out.InDoubt, &retryOf, &out.Paused, &notBefore, &quarantined, &out.Wait.For, &waitsSince)
	if err != nil || !key.Covers(store, owner) {
		return nil, err
	}
	out.GroupID, out.Reason = string(group), string(reason)
	if retryOf != nil {
		out.RetryOf = *retryOf
	}
	out.CreatedAt, out.StartedAt, out.EndedAt = db.clock.in(created), db.clock.in(started), db.clock.in(ended)
	out.Quarantined, out.Wait = db.clock.in(quarantined), storage.WaitSince(out.Wait.For, db.clock.in(waitsSince))
	if notBefore < storage.Forever.UnixMilli() {
		out.NotBefore = db.clock.in(notBefore)
	}
	if out.Status = statusOf(ended != 0, done); out.Status == batch.InProgress {
		out.Completed = done
	}
	if ids != nil {
		out.IDs, err = storage.UnpackIDs(ids)
	}
	return out, err
}

// statusOf returns the status of a batch from the number of its executed requests.
func statusOf(ended bool, completed int) batch.Status {
	switch {
	case ended:
		return batch.Completed
	case completed > 0:
		return batch.InProgress
	}
	return batch.Queued
}

// Results implements storage.Storage.
func (db *DB) Results(ctx context.Context, id storage.BatchID, from, maxBytes int) ([]storage.IndexedResult, error) {
	var out []storage.IndexedResult
	there := false
	err := db.readAtOnce(ctx, readsOf(ctx), "read results",
		get("is_readable", scan(&there, new(int)), id).anew(func() { there = false }),
		get("results", db.readResult(&out), id, min(max(from, 0), batch.MaxRequests), maxBytes).anew(func() { out = nil }))
	if err == nil && !there {
		err = storage.ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	return out, nil
}

// readResult reads a row of the statements "results".
func (db *DB) readResult(out *[]storage.IndexedResult) func(r pgx.Rows) error {
	return func(r pgx.Rows) error {
		var x storage.IndexedResult
		var line, headers, packed []byte
		if err := r.Scan(&x.Index, &x.Status, &x.Code, &x.Kind, &line, &x.Body, &headers, &packed, &x.InDoubt); err != nil {
			return err
		}
		tries, err := unpackTries(packed, &db.clock)
		if err != nil {
			return err
		}
		x.Line, x.Attempts, x.StartedAt, x.EndedAt = string(line), tries.Attempts, tries.StartedAt, tries.EndedAt
		x.Throttles, x.ThrottledSince = tries.Throttles, tries.ThrottledSince
		x.Headers, err = storage.UnpackHeaders(headers)
		if err == nil {
			err = storage.CheckResult(&x.Result)
		}
		*out = append(*out, x)
		return err
	}
}

// Requests implements storage.Storage.
func (db *DB) Requests(ctx context.Context, id storage.BatchID) (out []batch.Request, o batch.Options, err error) {
	var options, packed []byte
	found := false
	err = db.read(ctx, readsOf(ctx), "read requests", get("requests_of", scan(&found, &o.Parallel, &o.StopOnFailure, &options, &packed), id).anew(func() { found = false }))
	switch {
	case err != nil:
		return nil, o, err
	case !found:
		return nil, o, storage.ErrNotFound
	}
	if err = storage.UnpackOptions(string(options), &o); err == nil {
		out, err = storage.Unpack(packed)
	}
	if err != nil {
		err = &storage.DamagedError{Err: err}
	}
	return out, o, err
}

// News implements storage.Storage.
func (db *DB) News(ctx context.Context, ids []storage.BatchID) ([]storage.News, error) {
	var out []storage.News
	err := db.read(ctx, reads(storage.Caller{}), "read how far batches have come", get("news", func(r pgx.Rows) error {
		var n storage.News
		var isEnded bool
		var completed int
		err := r.Scan(&n.ID, &isEnded, &completed, &n.Completed, &n.Results, &n.Waits)
		n.Status = statusOf(isEnded, n.Completed)
		out = append(out, n)
		return err
	}, ids).anew(func() { out = nil }))
	return out, err
}
