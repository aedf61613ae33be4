package sqlite

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/sheafapi/sheaf/batch"
	"github.com/sheafapi/sheaf/storage"
	"zombiezen.com/go/sqlite"
)

// DueDeliveries implements storage.Storage.
func (db *DB) DueDeliveries(ctx context.Context, limit int, lease time.Duration) (out []storage.Delivery, err error) {
	// Looked for beside the writer first: most of the time there is none.
	due := false
	err = db.read(ctx, "look for deliveries", func(c *sqlite.Conn) error {
		n, err := queryInt(c, "any_delivery", db.clock.Now().UnixMilli(), storage.DeliveryLimit.Milliseconds())
		due = n > 0
		return err
	})
	if err != nil || !due {
		return nil, err
	}
	err = db.write(ctx, "take deliveries", func(c *sqlite.Conn) error {
		out = nil
		var ids []int64
		now := db.clock.Now().UnixMilli()
		if err := query(c, "correct_deliveries", nil, now, storage.DeliveryLimit.Milliseconds()); err != nil {
			return err
		}
		err := query(c, "due_deliveries", func(s *sqlite.Stmt) error {
			ids = append(ids, s.ColumnInt64(0))
			return nil
		}, now, lease.Milliseconds(), limit)
		if err != nil {
			return err
		}
		for _, id := range ids {
			found := false
			err := query(c, "delivery", func(s *sqlite.Stmt) error {
				out, found = append(out, readDelivery(s)), true
				return nil
			}, id)
			if err == nil && !found { // its batch was deleted
				err = query(c, "delete_delivery", nil, id)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	return out, err
}

func readDelivery(s *sqlite.Stmt) storage.Delivery {
	d := storage.Delivery{
		ID: s.ColumnInt64(0), Store: s.ColumnText(2), GroupID: s.ColumnText(3), URL: s.ColumnText(4),
		State: storage.DeliveryState(s.ColumnInt(5)), Attempts: s.ColumnInt(6),
		NextAt: batch.FromMillis(s.ColumnInt64(7)), CreatedAt: batch.FromMillis(s.ColumnInt64(8)),
		Code: s.ColumnInt(9), Problem: s.ColumnText(10),
		Total: s.ColumnInt(11), Completed: s.ColumnInt(12), Failed: s.ColumnInt(13),
	}
	s.ColumnBytes(1, d.Ticket[:])
	return d
}

// PutDelivery implements storage.Storage.
func (db *DB) PutDelivery(ctx context.Context, d *storage.Delivery) error {
	return db.write(ctx, "store what became of a delivery", func(c *sqlite.Conn) error {
		return query(c, "put_delivery", nil, d.ID, int(d.State), batch.Millis(d.NextAt), d.Code, d.Problem, d.Attempts, db.clock.Now().UnixMilli())
	})
}

// Deliveries implements storage.Storage.
func (db *DB) Deliveries(ctx context.Context, q storage.DeliverySearch) ([]storage.Delivery, error) {
	var out []storage.Delivery
	err := db.readFor(ctx, storage.Caller{Store: q.Store, Owner: q.Owner}, "list deliveries", func(c *sqlite.Conn) error {
		out = nil
		return query(c, "deliveries", func(s *sqlite.Stmt) error {
			out = append(out, readDelivery(s))
			return nil
		}, q.Store, q.Owner[:], dedupKey(q.Ticket), q.Limit, q.Offset)
	})
	return out, err
}

// Redeliver implements storage.Storage.
func (db *DB) Redeliver(ctx context.Context, key storage.Key) error {
	if key.Ticket == uuid.Nil {
		return storage.ErrNotFound
	}
	return db.writeFor(ctx, callerOf(key), "send a delivery again", func(c *sqlite.Conn) error {
		b, err := byTicket(c, key)
		if err != nil {
			return err
		}
		id, err := queryInt(c, "redeliver", int64(b.id), db.clock.Now().UnixMilli())
		if err == nil && id == 0 {
			err = storage.ErrNotFound
		}
		return err
	})
}
