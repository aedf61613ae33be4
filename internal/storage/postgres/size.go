package postgres

import (
	"context"

	"github.com/sheafapi/sheaf/internal/storage"
	"github.com/sheafapi/sheaf/internal/storage/internal/driver"
)

// Size implements storage.Storage. PostgreSQL gives the space of purged batches back to later
// ones, and seldom to the disk, so it stays counted.
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
