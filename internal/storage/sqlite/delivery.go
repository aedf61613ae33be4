package sqlite

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/sheafapi/sheaf/internal/storage"
	"zombiezen.com/go/sqlite"
)

// lanesAtOnce is how many lanes one call of DueDeliveries looks at.
const lanesAtOnce = 1000

// DueDeliveries implements storage.Storage.
func (db *DB) DueDeliveries(ctx context.Context, q storage.DueQuery) (out []storage.Delivery, next storage.Lane, err error) {
	// Check without the writer first, because usually no delivery is due.
	due := false
	err = db.read(ctx, "look for deliveries", func(c *sqlite.Conn) error {
		n, err := queryInt(c, "any_delivery", db.clock.Now().UnixMilli(), storage.DeliveryLimit.Milliseconds())
		due = n > 0
		return err
	})
	if err != nil || !due {
		return nil, storage.Lane{}, err
	}
	err = db.write(ctx, "take deliveries", func(c *sqlite.Conn) error {
		now := db.clock.Now().UnixMilli()
		if err := query(c, "correct_deliveries", nil, now, storage.DeliveryLimit.Milliseconds()); err != nil {
			return err
		}
		out, next, err = takeDeliveries(c, q, now)
		return err
	})
	if err != nil {
		return nil, storage.Lane{}, err
	}
	return out, next, nil
}

// takeDeliveries visits one lane after the other. It takes at most one delivery of each store and of
// each host.
func takeDeliveries(c *sqlite.Conn, q storage.DueQuery, now int64) (out []storage.Delivery, lane storage.Lane, err error) {
	busy, hosts, stores := map[storage.Lane]bool{}, map[string]bool{}, map[string]bool{}
	for _, b := range q.Busy {
		switch {
		case b.Host == "":
			stores[b.Store] = true
		case b.Store == "":
			hosts[b.Host] = true
		default:
			busy[b] = true
		}
	}
	lane = q.After
	for range lanesAtOnce {
		if len(out) == q.Limit {
			return out, lane, nil
		}
		found := false
		to := func(s *sqlite.Stmt) error {
			lane, found = storage.Lane{Store: s.ColumnText(0), Host: s.ColumnText(1)}, true
			return nil
		}
		if stores[lane.Store] && lane.Host != "" {
			err = query(c, "next_store", to, lane.Store)
		} else {
			err = query(c, "next_lane", to, lane.Store, lane.Host)
		}
		switch {
		case err != nil:
			return nil, lane, err
		case !found:
			return out, storage.Lane{}, nil
		case busy[lane] || hosts[lane.Host] || stores[lane.Store]:
			continue
		}
		n := len(out)
		if out, err = takeDelivery(c, lane, now, q.Lease, out); err != nil {
			return nil, lane, err
		}
		if len(out) > n {
			hosts[lane.Host], stores[lane.Store] = true, true
		}
	}
	return out, lane, nil
}

// takeDelivery takes the delivery of a lane that has been due longest, if any is due.
func takeDelivery(c *sqlite.Conn, lane storage.Lane, now int64, lease time.Duration, out []storage.Delivery) ([]storage.Delivery, error) {
	id, err := queryInt(c, "take_delivery", lane.Store, lane.Host, now, lease.Milliseconds())
	if err != nil || id == 0 {
		return out, err
	}
	n := len(out)
	err = query(c, "delivery", func(s *sqlite.Stmt) error {
		out = append(out, readDelivery(s))
		return nil
	}, id)
	if err == nil && len(out) == n { // its batch was deleted
		err = query(c, "delete_delivery", nil, id)
	}
	return out, err
}

func readDelivery(s *sqlite.Stmt) storage.Delivery {
	d := storage.Delivery{
		ID: s.ColumnInt64(0), Store: s.ColumnText(2), GroupID: s.ColumnText(3), URL: s.ColumnText(4),
		State: storage.DeliveryState(s.ColumnInt(5)), Attempts: s.ColumnInt(6),
		NextAt: storage.FromMillis(s.ColumnInt64(7)), CreatedAt: storage.FromMillis(s.ColumnInt64(8)),
		Code: s.ColumnInt(9), Problem: s.ColumnText(10),
		Total: s.ColumnInt(11), Completed: s.ColumnInt(12), Failed: s.ColumnInt(13), InDoubt: s.ColumnInt(15), Host: s.ColumnText(14),
	}
	s.ColumnBytes(1, d.Ticket[:])
	return d
}

// PutDelivery implements storage.Storage.
func (db *DB) PutDelivery(ctx context.Context, d *storage.Delivery) error {
	return db.write(ctx, "store the outcome of a delivery", func(c *sqlite.Conn) error {
		if d.Spared {
			return query(c, "spare_delivery", nil, d.ID, d.Attempts, storage.Millis(d.NextAt), db.clock.Now().UnixMilli())
		}
		return query(c, "put_delivery", nil, d.ID, int(d.State), storage.Millis(d.NextAt), d.Code, d.Problem, d.Attempts, db.clock.Now().UnixMilli())
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
		}, q.Store, q.Owner[:], nullable(q.Ticket), q.Limit, q.Offset, q.Before())
	})
	return out, err
}

// Redeliver implements storage.Storage.
func (db *DB) Redeliver(ctx context.Context, key storage.Key) error {
	if key.Ticket == uuid.Nil {
		return storage.ErrNotFound
	}
	return db.writeFor(ctx, callerOf(key), 0, "send a delivery again", func(c *sqlite.Conn) error {
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
