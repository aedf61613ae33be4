package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/sheafapi/sheaf/batch"
	"github.com/sheafapi/sheaf/storage"
)

// Hold implements storage.Storage.
func (db *DB) Hold(ctx context.Context, h storage.Hold) error {
	return db.write(ctx, "hold a credential back", do("hold", h.Credential[:], db.clock.out(h.Until)))
}

// Holds implements storage.Storage.
func (db *DB) Holds(ctx context.Context) ([]storage.Hold, error) {
	var out []storage.Hold
	row := func(r pgx.Rows) error {
		var credential []byte
		var until int64
		if err := r.Scan(&credential, &until); err != nil {
			return err
		}
		h := storage.Hold{Until: db.clock.in(until)}
		copy(h.Credential[:], credential)
		out = append(out, h)
		return nil
	}
	err := db.read(ctx, "look for credentials that are held back", get("holds", row).anew(func() { out = nil }))
	if err != nil {
		return nil, err
	}
	return out, nil
}

// Reserve implements storage.Storage.
func (db *DB) Reserve(ctx context.Context, credential batch.Owner, span time.Duration) (time.Time, error) {
	var from int64
	found := false
	err := db.write(ctx, "reserve time of a credential", get("reserve", scan(&found, &from), credential[:], span.Milliseconds()))
	if err != nil {
		return time.Time{}, err
	}
	return db.clock.in(from), nil
}
