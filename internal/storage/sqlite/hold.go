package sqlite

import (
	"bytes"
	"context"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
	"zombiezen.com/go/sqlite"
)

// lastOwner is the largest possible credential.
var lastOwner = batch.Owner(bytes.Repeat([]byte{0xff}, len(batch.Owner{})))

// Hold implements storage.Storage.
func (db *DB) Hold(ctx context.Context, h storage.Hold) error {
	return db.write(ctx, "hold a credential back", func(c *sqlite.Conn) error {
		now := db.clock.Now().UnixMilli()
		if err := correctHolds(c, now, h.Credential, h.Credential); err != nil {
			return err
		}
		return query(c, "hold", nil, h.Credential[:], storage.Millis(h.Until), now, storage.HoldLimit.Milliseconds(), h.Store)
	})
}

// correctHolds limits the holds of a range of credentials that were written by a clock that was
// ahead.
func correctHolds(c *sqlite.Conn, now int64, first, last batch.Owner) error {
	return query(c, "correct_holds", nil, now, storage.HoldLimit.Milliseconds(), first[:], last[:])
}

// Holds implements storage.Storage.
func (db *DB) Holds(ctx context.Context) ([]storage.Hold, error) {
	out, doubtful, err := db.holds(ctx)
	if err != nil || !doubtful {
		return out, err
	}
	err = db.write(ctx, "correct what credentials wait for", func(c *sqlite.Conn) error {
		return correctHolds(c, db.clock.Now().UnixMilli(), batch.Owner{}, lastOwner)
	})
	if err != nil {
		return nil, err
	}
	out, _, err = db.holds(ctx)
	return out, err
}

// holds also reports whether any of them may have been written by a clock that was ahead.
func (db *DB) holds(ctx context.Context) (out []storage.Hold, doubtful bool, err error) {
	err = db.read(ctx, "look for credentials that are held back", func(c *sqlite.Conn) error {
		return query(c, "holds", func(s *sqlite.Stmt) error {
			h := storage.Hold{Store: s.ColumnText(1), Until: storage.FromMillis(s.ColumnInt64(2))}
			s.ColumnBytes(0, h.Credential[:])
			out, doubtful = append(out, h), doubtful || s.ColumnBool(3)
			return nil
		}, db.clock.Now().UnixMilli(), storage.HoldLimit.Milliseconds())
	})
	if err != nil {
		return nil, false, err
	}
	return out, doubtful, nil
}

// Reserve implements storage.Storage.
func (db *DB) Reserve(ctx context.Context, credential batch.Owner, span time.Duration) (time.Time, error) {
	var from int64
	err := db.write(ctx, "reserve time of a credential", func(c *sqlite.Conn) (err error) {
		now := db.clock.Now().UnixMilli()
		if err := correctHolds(c, now, credential, credential); err != nil {
			return err
		}
		from, err = queryInt(c, "reserve", credential[:], now, span.Milliseconds())
		return err
	})
	if err != nil {
		return time.Time{}, err
	}
	return storage.FromMillis(from), nil
}

// Outages implements storage.Storage.
func (db *DB) Outages(ctx context.Context) ([]storage.Outage, error) {
	var out []storage.Outage
	err := db.read(ctx, "look for outages", func(c *sqlite.Conn) error {
		out = nil
		return query(c, "outages", func(s *sqlite.Stmt) error {
			out = append(out, storage.Outage{
				Upstream: s.ColumnText(0), Since: storage.FromMillis(s.ColumnInt64(1)), Probes: s.ColumnInt(2), ProbeAt: storage.FromMillis(s.ColumnInt64(3)),
			})
			return nil
		})
	})
	return out, err
}

// PutOutage implements storage.Storage.
func (db *DB) PutOutage(ctx context.Context, o storage.Outage) (bool, error) {
	var stored int64
	err := db.write(ctx, "store an outage", func(c *sqlite.Conn) (err error) {
		stored, err = queryInt(c, "put_outage", o.Upstream, storage.Millis(o.Since), o.Probes, storage.Millis(o.ProbeAt))
		return err
	})
	return stored == 1, err
}

// EndOutage implements storage.Storage.
func (db *DB) EndOutage(ctx context.Context, upstream string) error {
	return db.write(ctx, "end an outage", func(c *sqlite.Conn) error { return query(c, "end_outage", nil, upstream) })
}

// Accepted implements storage.Storage.
func (db *DB) Accepted(ctx context.Context, credential batch.Owner) error {
	return db.write(ctx, "record that a credential was accepted", func(c *sqlite.Conn) error {
		return query(c, "accepted", nil, credential[:], db.clock.Now().UnixMilli())
	})
}

// WasAccepted implements storage.Storage.
func (db *DB) WasAccepted(ctx context.Context, credential batch.Owner) (bool, error) {
	var accepted int64
	err := db.read(ctx, "look for a credential", func(c *sqlite.Conn) (err error) {
		accepted, err = queryInt(c, "was_accepted", credential[:])
		return err
	})
	return accepted == 1, err
}

// Expire implements storage.Storage.
func (db *DB) Expire(ctx context.Context, credential batch.Owner) error {
	return db.write(ctx, "record that a credential has expired", func(c *sqlite.Conn) error {
		return query(c, "expire", nil, credential[:], db.clock.Now().UnixMilli())
	})
}

// Expired implements storage.Storage.
func (db *DB) Expired(ctx context.Context, since time.Time) (map[batch.Owner]time.Time, error) {
	var out map[batch.Owner]time.Time
	err := db.read(ctx, "look for expired credentials", func(c *sqlite.Conn) error {
		out = map[batch.Owner]time.Time{}
		return query(c, "expired_credentials", func(s *sqlite.Stmt) error {
			var id batch.Owner
			s.ColumnBytes(0, id[:])
			out[id] = storage.FromMillis(s.ColumnInt64(1))
			return nil
		}, storage.Millis(since))
	})
	return out, err
}

// Renew implements storage.Storage.
func (db *DB) Renew(ctx context.Context, r storage.Renewal) (storage.QueueID, error) {
	var q storage.QueueID
	err := db.writeFor(ctx, callerOf(r.Key), 0, "renew a credential", func(c *sqlite.Conn) error {
		b, err := byTicket(c, r.Key)
		if err != nil {
			return err
		}
		q = b.queue
		if err := query(c, "renew", nil, int64(b.id), r.NewOwner[:], r.Credential); err != nil {
			return err
		}
		if r.NewQueue != "" {
			if err := query(c, "rename_queue", nil, int64(q), r.NewQueue); err != nil {
				return err
			}
		}
		return query(c, "wake_renewed", nil, int64(q))
	})
	return q, err
}
