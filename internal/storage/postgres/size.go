package postgres

import (
	"context"

	"github.com/sheafapi/sheaf/internal/storage"
	"github.com/sheafapi/sheaf/internal/storage/internal/driver"
)

// Size implements storage.Storage. The space of purged batches still counts, because PostgreSQL
// reuses it for later batches and seldom returns it to the disk.
func (db *DB) Size(ctx context.Context) (int64, error) {
	var size int64
	found := false
	err := db.read(ctx, reads(storage.Caller{}), "measure the database", get("database_size", scan(&found, &size)))
	return size, err
}

// Unfinished implements storage.Storage.
func (db *DB) Unfinished(ctx context.Context, prefix string) (n int, err error) {
	found := false
	err = db.read(ctx, reads(storage.Caller{}), "count a store's unfinished batches",
		get("unfinished", scan(&found, &n), []byte(prefix), []byte(driver.Successor(prefix))))
	return n, err
}
