package postgres

import (
	"context"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
	"github.com/sheafapi/sheaf/internal/storage/internal/driver"
)

// Find implements storage.Storage.
func (db *DB) Find(ctx context.Context, f storage.Filter) (storage.Page, error) {
	const what = "look for batches"
	l := reads(storage.Caller{Store: f.Store, Owner: f.Owner})
	var page storage.Page
	ids, err := db.candidates(ctx, l, what, &f)
	if err != nil {
		return page, err
	}
	if len(ids) == look(&f) {
		page.Next = storage.BatchID(ids[len(ids)-1])
	}
	found, err := db.summaries(ctx, l, what, ids, f.Code)
	if err != nil {
		return storage.Page{}, err
	}
	var holds map[storage.BatchID]bool
	if f.Path != "" {
		if holds, err = db.holding(ctx, l, what, ids, f.Path); err != nil {
			return storage.Page{}, err
		}
	}
	for _, id := range ids { // in their order
		s, ok := found[storage.BatchID(id)]
		if ok && f.Ends(&s) {
			page.Next = 0
			break
		}
		if !ok || !f.Matches(&s) || f.Path != "" && !holds[s.ID] {
			continue
		}
		if len(page.Batches) == f.Limit {
			page.Next = page.Batches[f.Limit-1].ID
			break
		}
		page.Batches = append(page.Batches, s)
	}
	return page, nil
}

// look returns the maximum number of batches that one Find reads. Of the statements of candidates, only
// find_open distinguishes queued batches from those in progress.
func look(f *storage.Filter) int {
	return f.Look(f.Status == 0 || f.Status == batch.Completed || f.Ascending())
}

// candidates returns the batches to check, in order.
func (db *DB) candidates(ctx context.Context, l lane, what string, f *storage.Filter) (ids []int64, err error) {
	after := int64(f.After)
	if after == 0 && !f.Ascending() {
		after = math.MaxInt64
	}
	if f.After == 0 && !f.Ascending() && !f.To.IsZero() {
		if after, err = db.seek(ctx, l, what, f); err != nil {
			return nil, err
		}
	}
	name, args := "find_any", []any{f.Store, f.Owner[:], after, look(f)}
	switch {
	case f.Oldest && f.Status == batch.Completed:
		name = "find_ended_oldest"
	case f.Ascending():
		name, args = "find_open", append(args, f.Status != 0, f.Status == batch.InProgress)
	case f.GroupID != "":
		name, args = "find_group", append(args, []byte(f.GroupID))
	case f.Failed, f.InDoubt:
		name = "find_failed"
	case f.Status == batch.Completed:
		name = "find_ended"
	case f.Status != 0:
		name = "find_unfinished"
	}
	err = db.read(ctx, l, what, get(name, func(r pgx.Rows) error {
		var id int64
		err := r.Scan(&id)
		ids = append(ids, id)
		return err
	}, args...).anew(func() { ids = nil }))
	return ids, err
}

// seek returns an ID that is larger than those of all batches that were created before the filter's
// end.
func (db *DB) seek(ctx context.Context, l lane, what string, f *storage.Filter) (int64, error) {
	var newest int64
	there := false
	if err := db.read(ctx, l, what, get("newest_batch", scan(&there, &newest))); err != nil {
		return 0, err
	}
	end := db.clock.out(f.To.Add(storage.ClockError))
	return driver.Seek(newest, func(id int64) (found int64, beyond bool, err error) {
		var at int64
		err = db.read(ctx, l, what, get("created_until", scan(&there, &found, &at), f.Store, f.Owner[:], id).anew(func() { found, at = 0, 0 }))
		return found, at > end, err
	})
}

// summaries reads batches. With a code, it reads only those in which a request ended with that
// code.
func (db *DB) summaries(ctx context.Context, l lane, what string, ids []int64, code int) (map[storage.BatchID]storage.Summary, error) {
	out := map[storage.BatchID]storage.Summary{}
	err := db.read(ctx, l, what, get("summaries", func(r pgx.Rows) error {
		var s storage.Summary
		var ticket uuid.UUID
		var group []byte
		var created, started, ended int64
		var retryOf *uuid.UUID
		var has bool
		err := r.Scan(&s.ID, &ticket, &group, &s.Total, &s.Completed, &s.Failed, &s.InDoubt, &created, &started, &ended, &retryOf, &s.Paused, &s.Retried, &has, &s.Quarantined)
		if err != nil || !has {
			return err
		}
		s.Ticket, s.GroupID = ticket, string(group)
		s.CreatedAt, s.StartedAt, s.EndedAt = db.clock.in(created), db.clock.in(started), db.clock.in(ended)
		if retryOf != nil {
			s.RetryOf = *retryOf
		}
		s.Status = statusOf(ended != 0, s.Completed)
		out[s.ID] = s
		return nil
	}, ids, code).anew(func() { clear(out) }))
	return out, err
}

// holding returns which batches have a request whose path contains the text. It ignores a batch
// whose requests are damaged, so that the others are still found.
func (db *DB) holding(ctx context.Context, l lane, what string, ids []int64, text string) (map[storage.BatchID]bool, error) {
	out := map[storage.BatchID]bool{}
	err := db.read(ctx, l, what, get("packed_of", func(r pgx.Rows) error {
		var id storage.BatchID
		var packed []byte
		if err := r.Scan(&id, &packed); err != nil {
			return err
		}
		requests, err := storage.Unpack(packed)
		out[id] = err == nil && slices.ContainsFunc(requests, func(r batch.Request) bool { return strings.Contains(r.Path, text) })
		return nil
	}, ids).anew(func() { clear(out) }))
	return out, err
}

// Queue implements storage.Storage.
func (db *DB) Queue(ctx context.Context, name string) (storage.QueueState, error) {
	var out storage.QueueState
	var notBefore, waitsSince int64
	found := false
	err := db.read(ctx, readsOf(ctx), "read a queue", get("queue_state", scan(&found, &out.Open, &out.Held, &out.Paused, &notBefore, &out.Wait.For, &waitsSince, &out.Quarantined), []byte(name)))
	out.NotBefore, out.Wait = db.released(notBefore), storage.WaitSince(out.Wait.For, db.clock.in(waitsSince))
	return out, err
}

// released returns the time until which a queue was released; zero for a pause.
func (db *DB) released(ms int64) (out time.Time) {
	if ms < storage.Forever.UnixMilli() {
		out = db.clock.in(ms)
	}
	return out
}

// Overview implements storage.Storage.
func (db *DB) Overview(ctx context.Context, loads int) (storage.Overview, error) {
	var out storage.Overview
	self := db.lease.node()
	found := false
	err := db.read(ctx, reads(storage.Caller{}), "read the state of the database",
		get("live_nodes", func(r pgx.Rows) error {
			var n storage.Node
			var id, started, renewed int64
			err := r.Scan(&id, &n.Name, &started, &renewed, &n.Queues)
			n.Self, n.StartedAt, n.RenewedAt = id == self, db.clock.in(started), db.clock.in(renewed)
			out.Nodes = append(out.Nodes, n)
			return err
		}).anew(func() { out.Nodes = nil }),
		get("count_queues", scan(&found, &out.Queues, &out.Owned, &out.Open)),
		get("loads", func(r pgx.Rows) error {
			var l storage.Load
			var name []byte
			var notBefore, waitsSince, oldest int64
			err := r.Scan(&name, &l.Open, &l.Owned, &l.Paused, &notBefore, &l.Wait.For, &waitsSince, &oldest)
			l.Queue, l.NotBefore, l.Oldest = string(name), db.released(notBefore), db.clock.in(oldest)
			l.Wait = storage.WaitSince(l.Wait.For, db.clock.in(waitsSince))
			out.Loads = append(out.Loads, l)
			return err
		}, loads).anew(func() { out.Loads = nil }),
		get("count_quarantined", scan(&found, &out.Quarantined)),
		get("database_size", scan(&found, &out.Bytes)))
	return out, err
}

// Marks implements storage.Storage.
func (db *DB) Marks(ctx context.Context, id storage.BatchID) ([]storage.Mark, error) {
	var out []storage.Mark
	there := false
	err := db.readAtOnce(ctx, readsOf(ctx), "read marks",
		get("is_readable", scan(&there, new(int)), id).anew(func() { there = false }),
		get("marks_alone", func(r pgx.Rows) error {
			m, err := db.readMark(r)
			out = append(out, m)
			return err
		}, id).anew(func() { out = nil }))
	if err == nil && !there {
		err = storage.ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	return out, nil
}
