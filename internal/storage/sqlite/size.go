package sqlite

import (
	"context"

	"github.com/sheafapi/sheaf/internal/storage/internal/driver"
	"zombiezen.com/go/sqlite"
)

// Size implements storage.Storage. It doesn't count free pages, which the next batches use, and the
// part of the log that is always there.
func (db *DB) Size(ctx context.Context) (int64, error) {
	var size int64
	err := db.read(ctx, "measure the database", func(c *sqlite.Conn) (err error) {
		size, err = queryInt(c, "used_size")
		return err
	})
	if err != nil {
		return 0, err
	}
	if log, err := logSize(db.path); err == nil {
		size += max(log-logReserve, 0)
	}
	return size, nil
}

// Unfinished implements storage.Storage.
func (db *DB) Unfinished(ctx context.Context, prefix string) (n int, err error) {
	err = db.read(ctx, "count a store's unfinished batches", func(c *sqlite.Conn) error {
		return query(c, "unfinished", func(s *sqlite.Stmt) error {
			n = s.ColumnInt(0)
			return nil
		}, prefix, driver.Successor(prefix))
	})
	return n, err
}
