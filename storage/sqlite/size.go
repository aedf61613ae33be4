package sqlite

import (
	"context"
	"os"

	"zombiezen.com/go/sqlite"
)

// Size implements storage.Storage. Pages that are free are not counted: the next batches
// use them. The part of the log that is always there isn't counted either.
func (db *DB) Size(ctx context.Context) (int64, error) {
	var size int64
	err := db.read(ctx, "measure the database", func(c *sqlite.Conn) (err error) {
		size, err = queryInt(c, "used_size")
		return err
	})
	if err != nil {
		return 0, err
	}
	if info, err := os.Stat(db.path + "-wal"); err == nil {
		size += max(info.Size()-logReserve, 0)
	}
	return size, nil
}
