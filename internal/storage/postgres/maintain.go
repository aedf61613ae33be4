package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/sheafapi/sheaf/internal/storage"
)

// Limits of one call of Purge, so that no other call waits long for it.
const (
	purgeBatches = 64
	purgeBytes   = 4 << 20 // of answers' bodies
)

// Purge implements storage.Storage. It skips rows that others have locked, such as the purges of
// other nodes. After the server's autovacuum, later rows reuse the space.
func (db *DB) Purge(ctx context.Context, retention time.Duration) (more bool, err error) {
	removed, found := 0, false
	age := retention.Milliseconds()
	err = db.write(ctx, claims, "remove expired batches",
		do("lock_due_queues", age, purgeBatches),
		get("purge", scan(&found, &removed), age, purgeBatches, purgeBytes),
		do("date_ended", purgeBatches),
		do("delete_holds"), do("forget_credentials", storage.CredentialMemory.Milliseconds()))
	return removed > 0, err
}

// Setting implements storage.Storage.
func (db *DB) Setting(ctx context.Context, name string) (string, error) {
	var value []byte
	found := false
	err := db.read(ctx, claims, "read a setting", get("setting", scan(&found, &value), []byte(name)))
	return string(value), err
}

// Seals implements storage.Storage.
func (db *DB) Seals(ctx context.Context, n int) ([][]byte, error) {
	var out [][]byte
	row := func(r pgx.Rows) error {
		var seal []byte
		err := r.Scan(&seal)
		out = append(out, seal)
		return err
	}
	err := db.read(ctx, claims, "find out which keys credentials are sealed with", get("seals", row, n).anew(func() { out = nil }))
	return out, err
}

// PutSetting implements storage.Storage.
func (db *DB) PutSetting(ctx context.Context, name, value string) error {
	return db.write(ctx, claims, "store a setting", do("put_setting", []byte(name), []byte(value)))
}

// InitSetting implements storage.Storage.
func (db *DB) InitSetting(ctx context.Context, name, value string) (string, error) {
	var stored []byte
	found := false
	err := db.write(ctx, claims, "store a setting", get("init_setting", scan(&found, &stored), []byte(name), []byte(value)))
	return string(stored), err
}

// Ping implements storage.Storage. The node renews its registration every few seconds, which
// proves that the database takes commits. When that has just succeeded, a read is enough, so
// that frequent calls cause no commits. Concurrent calls share one answer.
func (db *DB) Ping(ctx context.Context) error {
	const what = "ask the database"
	if err := ctx.Err(); err != nil { // the select below would choose between the two at random
		return fmt.Errorf("%s: %w", what, err)
	}
	answered := db.pings.DoChan("", func() (any, error) {
		if err := db.gate.Enter(); err != nil {
			return nil, err
		}
		defer db.gate.Leave()
		return nil, db.lives(context.WithoutCancel(ctx))
	})
	select {
	case r := <-answered:
		return db.failure(ctx, what, r.Err)
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", what, ctx.Err())
	}
}
