package sqlite

import (
	"context"
	"math"
	"strings"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
	"github.com/sheafapi/sheaf/internal/storage/internal/driver"
	"zombiezen.com/go/sqlite"
)

// Find implements storage.Storage.
func (db *DB) Find(ctx context.Context, f storage.Filter) (storage.Page, error) {
	const what = "look for batches"
	var page storage.Page
	var found []storage.Summary
	looked := 0
	err := db.readFor(ctx, storage.Caller{Store: f.Store, Owner: f.Owner}, what, func(c *sqlite.Conn) error {
		ids, err := candidates(c, &f)
		looked, found = len(ids), nil
		for _, id := range ids {
			s, ok, err := readSummary(c, id)
			if err != nil {
				return err
			}
			if ok {
				found = append(found, s)
			}
		}
		if looked == look(&f) {
			page.Next = ids[looked-1]
		}
		return err
	})
	if err != nil {
		return storage.Page{}, err
	}
	for i := range found {
		s := &found[i]
		if f.Ends(s) {
			page.Next = 0
			break
		}
		if !f.Matches(s) {
			continue
		}
		if len(page.Batches) == f.Limit {
			page.Next = page.Batches[f.Limit-1].ID
			break
		}
		ok, err := db.inspect(ctx, what, &f, s)
		if err != nil {
			return storage.Page{}, err
		}
		if ok {
			page.Batches = append(page.Batches, *s)
		}
	}
	return page, nil
}

// look returns the maximum number of batches that one Find reads. Of the statements of candidates,
// only find_open returns batches that don't have the filter's status.
func look(f *storage.Filter) int { return f.Look(!f.Open || f.Status == 0) }

// candidates returns the batches to check, in order.
func candidates(c *sqlite.Conn, f *storage.Filter) (ids []storage.BatchID, err error) {
	add := func(s *sqlite.Stmt) error {
		ids = append(ids, storage.BatchID(s.ColumnInt64(0)))
		return nil
	}
	before := int64(f.After)
	if before == 0 && !f.Ascending() {
		before = math.MaxInt64
	}
	if f.After == 0 && !f.Ascending() && !f.To.IsZero() {
		if before, err = seek(c, f); err != nil {
			return nil, err
		}
	}
	look := look(f)
	switch {
	case f.Open:
		err = query(c, "find_open", add, f.Store, f.Owner[:], int64(f.After), look)
	case f.Ascending():
		err = query(c, "find_oldest", add, f.Store, f.Owner[:], int(f.Status), int64(f.After), look)
	case f.GroupID != "":
		err = query(c, "find_group", add, f.Store, f.Owner[:], f.GroupID, before, look)
	case f.Failed, f.InDoubt:
		err = query(c, "find_failed", add, f.Store, f.Owner[:], before, look)
	case f.Status != 0:
		err = query(c, "find_state", add, f.Store, f.Owner[:], int(f.Status), before, look)
	default:
		err = query(c, "find_any", add, f.Store, f.Owner[:], before, look)
	}
	return ids, err
}

// seek returns an ID that is larger than those of all batches that were created before the filter's
// end.
func seek(c *sqlite.Conn, f *storage.Filter) (int64, error) {
	newest, err := queryInt(c, "newest_batch")
	if err != nil {
		return 0, err
	}
	end := storage.Millis(f.To.Add(storage.ClockError))
	return driver.Seek(newest, func(id int64) (found int64, beyond bool, err error) {
		err = query(c, "created_until", func(s *sqlite.Stmt) error {
			found, beyond = s.ColumnInt64(0), s.ColumnInt64(1) > end
			return nil
		}, f.Store, f.Owner[:], id)
		return found, beyond, err
	})
}

// readSummary reads the batch's own row. It returns false if the batch is gone.
func readSummary(c *sqlite.Conn, id storage.BatchID) (out storage.Summary, ok bool, err error) {
	err = query(c, "summary", func(s *sqlite.Stmt) error {
		ok = true
		out = storage.Summary{
			ID: id, GroupID: s.ColumnText(1), Status: batch.Status(s.ColumnInt(2)),
			Total: s.ColumnInt(3), Completed: s.ColumnInt(4), Failed: max(s.ColumnInt(5), 0),
			CreatedAt: storage.FromMillis(s.ColumnInt64(6)), StartedAt: storage.FromMillis(s.ColumnInt64(7)), EndedAt: storage.FromMillis(s.ColumnInt64(8)),
			Paused: s.ColumnBool(10), Retried: s.ColumnBool(11), Quarantined: s.ColumnInt64(12) != 0,
			InDoubt: s.ColumnInt(13),
		}
		s.ColumnBytes(0, out.Ticket[:])
		s.ColumnBytes(9, out.RetryOf[:])
		return nil
	}, int64(id))
	return out, ok, err
}

// inspect reports whether a batch meets the conditions that need more than its row. It also counts
// the results of a running batch. For a running batch, it reads the journal before the transaction
// begins.
func (db *DB) inspect(ctx context.Context, what string, f *storage.Filter, s *storage.Summary) (ok bool, err error) {
	running := s.Status != batch.Completed && !s.StartedAt.IsZero()
	if !running && f.Code == 0 && f.Path == "" {
		return true, nil
	}
	var held []freshMark
	if running {
		held = db.journal.of(s.ID)
	}
	err = db.readFor(ctx, storage.Caller{Store: f.Store, Owner: f.Owner}, what, func(c *sqlite.Conn) (err error) {
		if running {
			e, err := endsOf(c, s.ID, held)
			if err != nil {
				return err
			}
			s.Completed, s.Failed, s.InDoubt = e.completed(), e.failed.Len(), e.inDoubt.Len()
		}
		if ok, err = hasCode(c, s.ID, held, f.Code); err != nil || !ok {
			return err
		}
		ok, err = hasPath(c, s.ID, f.Path)
		return err
	})
	return ok, err
}

// hasCode reports whether a request of the batch ended with this code; 0 matches every batch.
func hasCode(c *sqlite.Conn, id storage.BatchID, held []freshMark, code int) (bool, error) {
	if code == 0 {
		return true, nil
	}
	for i := range held {
		if held[i].state() != storage.Done {
			continue
		}
		m, err := unpackMark(held[i].mark)
		if err != nil {
			return false, err
		}
		if m.Result.Code == code && m.Result.Status != batch.NotExecuted {
			return true, nil
		}
	}
	n, err := queryInt(c, "has_code", int64(id), code)
	return n == 1, err
}

// hasPath reports whether the path of a request contains the text. It ignores a batch whose
// requests are damaged, so that the others are still found.
func hasPath(c *sqlite.Conn, id storage.BatchID, text string) (ok bool, err error) {
	if text == "" {
		return true, nil
	}
	err = query(c, "requests_of", func(s *sqlite.Stmt) error {
		requests, err := storage.Unpack(blob(s, 2))
		for i := range requests {
			ok = ok || strings.Contains(requests[i].Path, text)
		}
		if isDamage(err) {
			return nil
		}
		return err
	}, int64(id))
	return ok, err
}

// Queue implements storage.Storage.
func (db *DB) Queue(ctx context.Context, name string) (out storage.QueueState, err error) {
	err = db.readBy(ctx, "read a queue", func(c *sqlite.Conn) error {
		return query(c, "queue_state", func(s *sqlite.Stmt) error {
			out = storage.QueueState{Open: s.ColumnInt(0), Held: s.ColumnInt(1), Paused: s.ColumnBool(2), NotBefore: released(s.ColumnInt64(3)), Wait: readWait(s, 4), Quarantined: s.ColumnInt(6)}
			return nil
		}, name)
	})
	return out, err
}

// readWait reads what a queue waits for from two columns.
func readWait(s *sqlite.Stmt, column int) storage.Wait {
	return storage.WaitSince(storage.WaitReason(s.ColumnInt(column)), storage.FromMillis(s.ColumnInt64(column+1)))
}

// released returns the time until which a queue was released; zero for a pause.
func released(ms int64) (out time.Time) {
	if ms < storage.Forever.UnixMilli() {
		out = storage.FromMillis(ms)
	}
	return out
}

// Overview implements storage.Storage. The only node is this one.
func (db *DB) Overview(ctx context.Context, loads int) (out storage.Overview, err error) {
	err = db.readFor(ctx, storage.Caller{}, "read the state of the database", func(c *sqlite.Conn) error {
		out = storage.Overview{}
		err := query(c, "count_queues", func(s *sqlite.Stmt) error {
			out.Queues, out.Owned, out.Open = s.ColumnInt(0), s.ColumnInt(1), s.ColumnInt(2)
			return nil
		}, db.process)
		if err != nil {
			return err
		}
		err = query(c, "loads", func(s *sqlite.Stmt) error {
			out.Loads = append(out.Loads, storage.Load{
				Queue: s.ColumnText(0), Open: s.ColumnInt(1), Owned: s.ColumnBool(2), Paused: s.ColumnBool(3),
				NotBefore: released(s.ColumnInt64(4)), Wait: readWait(s, 5), Oldest: storage.FromMillis(s.ColumnInt64(7)),
			})
			return nil
		}, db.process, loads)
		if err != nil {
			return err
		}
		n, err := queryInt(c, "count_quarantined")
		if err != nil {
			return err
		}
		out.Quarantined = int(n)
		out.Bytes, err = queryInt(c, "file_size")
		return err
	})
	if size, e := logSize(db.path); e == nil {
		out.LogBytes = size
	}
	out.Nodes = []storage.Node{{Self: true, StartedAt: db.opened, Queues: out.Owned}}
	return out, err
}

// Marks implements storage.Storage.
func (db *DB) Marks(ctx context.Context, id storage.BatchID) ([]storage.Mark, error) {
	var out []storage.Mark
	held := db.journal.of(id)
	err := db.readBy(ctx, "read marks", func(c *sqlite.Conn) error {
		out = nil
		there, err := queryInt(c, "is_readable", int64(id))
		if err != nil {
			return err
		}
		if there == 0 {
			return storage.ErrNotFound
		}
		err = query(c, "marks_alone", func(s *sqlite.Stmt) error {
			out = append(out, readMark(s))
			return nil
		}, int64(id))
		if err == nil {
			out, err = newest(out, held)
		}
		return err
	})
	return out, err
}
