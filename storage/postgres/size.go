package postgres

import (
	"context"

	"github.com/sheafapi/sheaf/storage"
)

// Size implements storage.Storage. PostgreSQL gives the space of purged batches back to later
// ones, and seldom to the disk, so it stays counted.
func (db *DB) Size(ctx context.Context) (int64, error) {
	var size int64
	found := false
	err := db.read(ctx, reads(storage.Caller{}), "measure the database", get("database_size", scan(&found, &size)))
	return size, err
}
