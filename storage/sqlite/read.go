package sqlite

import (
	"context"
	"crypto/subtle"

	"github.com/sheafapi/sheaf/batch"
	"github.com/sheafapi/sheaf/storage"
	"zombiezen.com/go/sqlite"
)

// Status implements storage.Storage.
func (db *DB) Status(ctx context.Context, key storage.Key, maxBytes int) (*storage.Status, error) {
	var out *storage.Status
	err := db.read(ctx, "read a batch", func(c *sqlite.Conn) (err error) {
		if out, err = readStatus(c, key); err != nil {
			return err
		}
		if maxBytes > 0 {
			if err := readEnded(c, out); err != nil {
				return err
			}
			out.Results, err = readResults(c, out.ID, 0, maxBytes)
			return err
		}
		if out.Status != batch.Completed {
			n, err := queryInt(c, "count_done", int64(out.ID))
			out.Completed = int(n)
			return err
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// readStatus reads what the batch's own row knows.
func readStatus(c *sqlite.Conn, key storage.Key) (out *storage.Status, err error) {
	err = query(c, "status", func(s *sqlite.Stmt) error {
		if !mayRead(key, s.ColumnText(1), blob(s, 2)) {
			return nil
		}
		out = &storage.Status{
			ID:        storage.BatchID(s.ColumnInt64(0)),
			Ticket:    key.Ticket,
			GroupID:   s.ColumnText(3),
			Status:    batch.Status(s.ColumnInt(4)),
			Total:     s.ColumnInt(5),
			Completed: s.ColumnInt(6),
			CreatedAt: batch.FromMillis(s.ColumnInt64(7)),
			StartedAt: batch.FromMillis(s.ColumnInt64(8)),
			EndedAt:   batch.FromMillis(s.ColumnInt64(9)),
			Reason:    s.ColumnText(10),
		}
		if ids := blob(s, 11); ids != nil {
			out.IDs, err = batch.UnpackIDs(ids)
		}
		return err
	}, key.Ticket[:])
	if err == nil && out == nil {
		err = storage.ErrNotFound
	}
	return out, err
}

// mayRead compares a batch's store and owner with the caller's. The owner's hash is
// compared in constant time.
func mayRead(key storage.Key, store string, owner []byte) bool {
	same := subtle.ConstantTimeCompare(key.Owner[:], owner) == 1
	return store == key.Store && same
}

// readEnded fills in which requests have ended.
func readEnded(c *sqlite.Conn, out *storage.Status) error {
	out.Completed = 0
	return query(c, "done", func(s *sqlite.Stmt) error {
		out.Ended.Add(s.ColumnInt(0))
		out.Completed++
		return nil
	}, int64(out.ID))
}

// Results implements storage.Storage.
func (db *DB) Results(ctx context.Context, id storage.BatchID, from, maxBytes int) ([]storage.Indexed, error) {
	var out []storage.Indexed
	err := db.read(ctx, "read results", func(c *sqlite.Conn) error {
		there, err := queryInt(c, "is_readable", int64(id))
		if err != nil {
			return err
		}
		if there == 0 {
			return storage.ErrNotFound
		}
		out, err = readResults(c, id, from, maxBytes)
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// readResults reads results from an index on: as many as maxBytes of bodies allow,
// and at least one.
func readResults(c *sqlite.Conn, id storage.BatchID, from, maxBytes int) (out []storage.Indexed, err error) {
	bytes := 0
	err = query(c, "results", func(s *sqlite.Stmt) error {
		if bytes += s.ColumnLen(5); bytes > maxBytes && len(out) > 0 {
			return errEnough
		}
		out = append(out, storage.Indexed{Index: s.ColumnInt(0), Result: batch.Result{
			Status: batch.ResultStatus(s.ColumnInt(1)),
			Code:   s.ColumnInt(2),
			Kind:   batch.BodyKind(s.ColumnInt(3)),
			Line:   s.ColumnText(4),
			Body:   blob(s, 5),
		}})
		return nil
	}, int64(id), from)
	return out, err
}

// Search implements storage.Storage.
func (db *DB) Search(ctx context.Context, q storage.Search) ([]storage.Found, error) {
	var out []storage.Found
	err := db.read(ctx, "search batches", func(c *sqlite.Conn) error {
		return query(c, "search", func(s *sqlite.Stmt) error {
			f := storage.Found{Status: q.Status}
			s.ColumnBytes(0, f.Ticket[:])
			out = append(out, f)
			return nil
		}, q.Store, q.Owner[:], int(q.Status), q.Limit, q.Offset)
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// row is what stopping and deleting need to know of a batch.
type row struct {
	id      storage.BatchID
	queue   storage.QueueID
	groupID string
	state   batch.Status
	stopped bool
	started bool
}

// byTicket finds a batch that its creator may see.
func byTicket(c *sqlite.Conn, key storage.Key) (out row, err error) {
	found := false
	err = query(c, "batch_by_ticket", func(s *sqlite.Stmt) error {
		found = mayRead(key, s.ColumnText(2), blob(s, 3))
		out = row{
			id:      storage.BatchID(s.ColumnInt64(0)),
			queue:   storage.QueueID(s.ColumnInt64(1)),
			groupID: s.ColumnText(4),
			state:   batch.Status(s.ColumnInt(5)),
			stopped: s.ColumnBool(6),
			started: s.ColumnInt64(7) != 0,
		}
		return nil
	}, key.Ticket[:])
	if err == nil && !found {
		err = storage.ErrNotFound
	}
	return out, err
}
