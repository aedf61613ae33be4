package sqlite

import (
	"context"
	"time"

	"github.com/sheafapi/sheaf/batch"
	"github.com/sheafapi/sheaf/storage"
	"zombiezen.com/go/sqlite"
)

// Hold implements storage.Storage.
func (db *DB) Hold(ctx context.Context, h storage.Hold) error {
	return db.write(ctx, "hold a credential back", func(c *sqlite.Conn) error {
		return query(c, "hold", nil, h.Credential[:], batch.Millis(h.Until))
	})
}

// Holds implements storage.Storage.
func (db *DB) Holds(ctx context.Context) ([]storage.Hold, error) {
	var out []storage.Hold
	err := db.read(ctx, "look for credentials that are held back", func(c *sqlite.Conn) error {
		return query(c, "holds", func(s *sqlite.Stmt) error {
			h := storage.Hold{Until: batch.FromMillis(s.ColumnInt64(1))}
			s.ColumnBytes(0, h.Credential[:])
			out = append(out, h)
			return nil
		}, time.Now().UnixMilli())
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// Reserve implements storage.Storage.
func (db *DB) Reserve(ctx context.Context, credential batch.Owner, span time.Duration) (time.Time, error) {
	var from int64
	err := db.write(ctx, "reserve time of a credential", func(c *sqlite.Conn) (err error) {
		from, err = queryInt(c, "reserve", credential[:], time.Now().UnixMilli(), span.Milliseconds())
		return err
	})
	if err != nil {
		return time.Time{}, err
	}
	return batch.FromMillis(from), nil
}
