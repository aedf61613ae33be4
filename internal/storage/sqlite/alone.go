package sqlite

import (
	"context"
	"fmt"

	"github.com/sheafapi/sheaf/internal/storage"
)

// One process owns the file for as long as it lives. So it may always send for what it has claimed,
// and there are no other nodes to notify or to hear from.

// Authorize implements storage.Storage.
func (db *DB) Authorize(ctx context.Context, _ *storage.Claim) error {
	const what = "ask for the right to send"
	if err := db.gate.Enter(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	defer db.gate.Leave()
	return db.failure(ctx, what, ctx.Err())
}

// Authorized implements storage.Storage.
func (db *DB) Authorized(*storage.Claim) bool { return true }

// Offer implements storage.Storage.
func (db *DB) Offer(storage.QueueID) {}

// Watch implements storage.Storage.
func (db *DB) Watch(ctx context.Context, _, _ func(storage.QueueID)) { <-ctx.Done() }
