package sqlite

import (
	"context"
	"errors"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
	"zombiezen.com/go/sqlite"
)

// Status implements storage.Storage.
func (db *DB) Status(ctx context.Context, key storage.Key, maxBytes int) (*storage.Status, error) {
	var out *storage.Status
	var held []freshMark
	look := func(again bool) func(c *sqlite.Conn) error {
		return func(c *sqlite.Conn) (err error) {
			out, err = readStatus(c, key)
			if err != nil || isRunning(out) && !again {
				return err
			}
			return readResultsOf(c, out, held, maxBytes)
		}
	}
	err := db.readFor(ctx, callerOf(key), "read a batch", look(false))
	if err == nil && isRunning(out) {
		held = db.journal.of(out.ID)
		err = db.readFor(ctx, callerOf(key), "read a batch", look(true))
	}
	if err != nil {
		return nil, err
	}
	return out, nil
}

// isRunning reports whether a batch may have results in the journal.
func isRunning(s *storage.Status) bool {
	return s.Status != batch.Completed && !s.StartedAt.IsZero()
}

// readResultsOf fills in what isn't in the batch's own row. held is the journal's marks of the
// batch, read before the transaction began.
func readResultsOf(c *sqlite.Conn, out *storage.Status, held []freshMark, maxBytes int) (err error) {
	if maxBytes > 0 || isRunning(out) {
		if err := readEnded(c, out, held); err != nil {
			return err
		}
	}
	if maxBytes > 0 {
		out.Results, err = readResults(c, out.ID, held, 0, maxBytes)
		return err
	}
	out.Ended = batch.Set{}
	return nil
}

// readStatus reads the batch's own row.
func readStatus(c *sqlite.Conn, key storage.Key) (out *storage.Status, err error) {
	err = query(c, "status", func(s *sqlite.Stmt) error {
		if !key.Covers(s.ColumnText(1), blob(s, 2)) {
			return nil
		}
		out = &storage.Status{
			ID:        storage.BatchID(s.ColumnInt64(0)),
			Ticket:    key.Ticket,
			GroupID:   s.ColumnText(3),
			Status:    batch.Status(s.ColumnInt(4)),
			Total:     s.ColumnInt(5),
			Completed: s.ColumnInt(6),
			CreatedAt: storage.FromMillis(s.ColumnInt64(7)),
			StartedAt: storage.FromMillis(s.ColumnInt64(8)),
			EndedAt:   storage.FromMillis(s.ColumnInt64(9)),
			Reason:    s.ColumnText(10),
		}
		if ids := blob(s, 11); ids != nil {
			out.IDs, err = storage.UnpackIDs(ids)
		}
		s.ColumnBytes(12, out.RetryOf[:])
		out.Paused = s.ColumnBool(13)
		if ms := s.ColumnInt64(14); ms < storage.Forever.UnixMilli() {
			out.NotBefore = storage.FromMillis(ms)
		}
		out.Quarantined = storage.FromMillis(s.ColumnInt64(15))
		out.Wait = readWait(s, 16)
		out.Failed, out.InDoubt = s.ColumnInt(18), s.ColumnInt(19)
		return err
	}, key.Ticket[:])
	if err == nil && out == nil {
		err = storage.ErrNotFound
	}
	return out, err
}

// readEnded fills in which requests have ended, and counts them. held is the journal's marks.
func readEnded(c *sqlite.Conn, out *storage.Status, held []freshMark) error {
	if out.Status == batch.Completed && out.Completed == out.Total {
		for i := range out.Total {
			out.Ended.Add(i)
		}
		return nil
	}
	e, err := endsOf(c, out.ID, held)
	if err != nil {
		return err
	}
	out.Ended, out.Completed, out.Failed, out.InDoubt = e.all, e.completed(), e.failed.Len(), e.inDoubt.Len()
	return nil
}

// Results implements storage.Storage.
func (db *DB) Results(ctx context.Context, id storage.BatchID, from, maxBytes int) ([]storage.IndexedResult, error) {
	var out []storage.IndexedResult
	held := db.journal.of(id)
	err := db.readBy(ctx, "read results", func(c *sqlite.Conn) error {
		there, err := queryInt(c, "is_readable", int64(id))
		if err != nil {
			return err
		}
		if there == 0 {
			return storage.ErrNotFound
		}
		out, err = readResults(c, id, held, from, maxBytes)
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// readResults reads results from the index from on, from the table and from the journal's marks. It
// reads as many as have bodies of at most maxBytes in total, and at least one.
func readResults(c *sqlite.Conn, id storage.BatchID, held []freshMark, from, maxBytes int) ([]storage.IndexedResult, error) {
	p := page{held: held, from: from, left: maxBytes}
	err := query(c, "results", func(s *sqlite.Stmt) error {
		index := s.ColumnInt(0)
		if err := p.addHeld(index); err != nil {
			return err
		}
		if !p.fits(s.ColumnLen(5)) {
			return errEnough
		}
		headers, err := storage.UnpackHeaders(blob(s, 6))
		if err != nil {
			return err
		}
		p.out = append(p.out, storage.IndexedResult{Index: index, Result: batch.Result{
			Headers: headers,
			Status:  batch.ResultStatus(s.ColumnInt(1)),
			Code:    s.ColumnInt(2),
			Kind:    batch.BodyKind(s.ColumnInt(3)),
			Line:    s.ColumnText(4),
			Body:    blob(s, 5),
		}})
		if err := storage.CheckResult(&p.out[len(p.out)-1].Result); err != nil {
			return err
		}
		last := &p.out[len(p.out)-1]
		last.Attempts, last.StartedAt, last.EndedAt = s.ColumnInt(7), storage.FromMillis(s.ColumnInt64(8)), storage.FromMillis(s.ColumnInt64(9))
		last.Throttles, last.ThrottledSince = s.ColumnInt(10), storage.FromMillis(s.ColumnInt64(11))
		last.InDoubt = s.ColumnBool(12)
		p.from = index + 1
		return nil
	}, int64(id), from)
	if err == nil && !p.full {
		err = p.addHeld(batch.MaxRequests)
	}
	if err != nil && !errors.Is(err, errEnough) {
		return nil, err
	}
	return p.out, nil
}

// page is a page of results that is being read.
type page struct {
	held []freshMark // marks that aren't on the page yet
	from int         // the smallest index that may follow
	left int         // remaining bytes
	full bool
	out  []storage.IndexedResult
}

// fits reports whether a body of n bytes fits on the page, and counts its bytes.
func (p *page) fits(n int) bool {
	p.left -= n
	p.full = p.left < 0 && len(p.out) > 0
	return !p.full
}

// addHeld adds the results up to index before that are only in the journal's marks. Errors:
// errEnough, if the page is full.
func (p *page) addHeld(before int) error {
	for ; len(p.held) > 0 && p.held[0].index <= before; p.held = p.held[1:] {
		h := &p.held[0]
		if h.index < p.from || h.index == before || h.state() != storage.Done {
			continue
		}
		m, err := unpackMark(h.mark)
		if err != nil {
			return err
		}
		if !p.fits(len(m.Result.Body)) {
			return errEnough
		}
		p.out = append(p.out, storage.IndexedResult{
			Index: m.Index, Result: m.Result, Attempts: m.Tries.Attempts, StartedAt: m.Tries.StartedAt, EndedAt: m.Tries.EndedAt,
			Throttles: m.Tries.Throttles, ThrottledSince: m.Tries.ThrottledSince, InDoubt: m.InDoubt(),
		})
	}
	return nil
}

// Requests implements storage.Storage.
func (db *DB) Requests(ctx context.Context, id storage.BatchID) (out []batch.Request, o batch.Options, err error) {
	err = db.readBy(ctx, "read requests", func(c *sqlite.Conn) error {
		return query(c, "requests_of", func(s *sqlite.Stmt) (err error) {
			o = batch.Options{Parallel: s.ColumnBool(0), StopOnFailure: s.ColumnBool(1)}
			if err = storage.UnpackOptions(s.ColumnText(3), &o); err == nil {
				out, err = storage.Unpack(blob(s, 2))
			}
			return err
		}, int64(id))
	})
	if err == nil && out == nil {
		err = storage.ErrNotFound
	}
	return out, o, err
}

// News implements storage.Storage.
func (db *DB) News(ctx context.Context, ids []storage.BatchID) ([]storage.News, error) {
	var out []storage.News
	held := make([][]freshMark, len(ids))
	for i, id := range ids {
		held[i] = db.journal.of(id)
	}
	err := db.readFor(ctx, storage.Caller{}, "read how far batches have come", func(c *sqlite.Conn) error {
		for i, id := range ids {
			n := storage.News{ID: id}
			started := false
			err := query(c, "news", func(s *sqlite.Stmt) error {
				n.Status, n.Completed, started = batch.Status(s.ColumnInt(0)), s.ColumnInt(1), s.ColumnInt64(2) != 0
				n.Waits = storage.WaitReason(s.ColumnInt(3))
				return nil
			}, int64(id))
			if err != nil {
				return err
			}
			if n.Status == 0 {
				continue
			}
			if started || n.Status == batch.Completed {
				e, err := endsOf(c, id, held[i])
				if err != nil {
					return err
				}
				n.Completed, n.Results = e.completed(), e.all.Len()
			}
			out = append(out, n)
		}
		return nil
	})
	return out, err
}

// row is the part of a batch that stopping and deleting need.
type row struct {
	id      storage.BatchID
	queue   storage.QueueID
	groupID string
	state   batch.Status
	stopped bool
	started bool
	aside   bool // in quarantine
}

// byTicket finds a batch if its creator may see it.
func byTicket(c *sqlite.Conn, key storage.Key) (out row, err error) {
	found := false
	err = query(c, "batch_by_ticket", func(s *sqlite.Stmt) error {
		found = key.Covers(s.ColumnText(2), blob(s, 3))
		out = row{
			id:      storage.BatchID(s.ColumnInt64(0)),
			queue:   storage.QueueID(s.ColumnInt64(1)),
			groupID: s.ColumnText(4),
			state:   batch.Status(s.ColumnInt(5)),
			stopped: s.ColumnBool(6),
			started: s.ColumnInt64(7) != 0,
			aside:   s.ColumnInt64(8) != 0,
		}
		return nil
	}, key.Ticket[:])
	if err == nil && !found {
		err = storage.ErrNotFound
	}
	return out, err
}
