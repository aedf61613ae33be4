package postgres

import (
	"context"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/sheafapi/sheaf/internal/storage"
)

// lanesAtOnce is how many lanes one call of DueDeliveries looks at.
const lanesAtOnce = 1000

// DueDeliveries implements storage.Storage. It skips deliveries that other nodes are taking.
func (db *DB) DueDeliveries(ctx context.Context, q storage.DueQuery) ([]storage.Delivery, storage.Lane, error) {
	var out []storage.Delivery
	var next storage.Lane
	var stores, hosts []string
	for _, b := range q.Busy {
		stores, hosts = append(stores, b.Store), append(hosts, b.Host)
	}
	more := false
	err := db.write(ctx, claims, "take deliveries",
		do("correct_deliveries", storage.DeliveryLimit.Milliseconds()),
		get("last_lane", scan(&more, &next.Store, &next.Host), q.After.Store, q.After.Host, lanesAtOnce).anew(func() { next, more = storage.Lane{}, false }),
		get("due_deliveries", db.readDelivery(&out), q.Limit, q.Lease.Milliseconds(), q.After.Store, q.After.Host, lanesAtOnce, stores, hosts).anew(func() { out = nil }))
	if err != nil {
		return nil, storage.Lane{}, err
	}
	if n := len(out); n > 0 && n == q.Limit { // the statement may have stopped before the last lane
		next = storage.Lane{Store: out[n-1].Store, Host: out[n-1].Host}
	}
	return out, next, nil
}

// readDelivery reads a row of the statements that select deliveries.
func (db *DB) readDelivery(out *[]storage.Delivery) func(r pgx.Rows) error {
	return func(r pgx.Rows) error {
		var d storage.Delivery
		var ticket uuid.UUID
		var group, url, problem []byte
		var nextAt, endedAt int64
		err := r.Scan(&d.ID, &ticket, &d.Store, &group, &url, &d.State, &d.Attempts, &nextAt, &endedAt, &d.Code, &problem, &d.Total, &d.Completed, &d.Failed, &d.Host, &d.InDoubt)
		d.Ticket, d.GroupID, d.URL, d.Problem = ticket, string(group), string(url), string(problem)
		d.NextAt, d.CreatedAt = db.clock.in(nextAt), db.clock.in(endedAt)
		*out = append(*out, d)
		return err
	}
}

// PutDelivery implements storage.Storage.
func (db *DB) PutDelivery(ctx context.Context, d *storage.Delivery) error {
	if d.Spared {
		return db.write(ctx, claims, "take an attempt back", do("spare_delivery", d.ID, d.Attempts, db.clock.out(d.NextAt)))
	}
	return db.write(ctx, claims, "store the outcome of a delivery",
		do("put_delivery", d.ID, int16(d.State), db.clock.out(d.NextAt), d.Code, []byte(d.Problem), d.Attempts))
}

// Deliveries implements storage.Storage.
func (db *DB) Deliveries(ctx context.Context, q storage.DeliverySearch) ([]storage.Delivery, error) {
	var out []storage.Delivery
	err := db.read(ctx, reads(storage.Caller{Store: q.Store, Owner: q.Owner}), "list deliveries",
		get("deliveries", db.readDelivery(&out), q.Store, q.Owner[:], nullable(q.Ticket), q.Limit, q.Offset, q.Before()).anew(func() { out = nil }))
	if err != nil {
		return nil, err
	}
	return out, nil
}

// Redeliver implements storage.Storage.
func (db *DB) Redeliver(ctx context.Context, key storage.Key) error {
	found := false
	err := db.write(ctx, creates(callerOf(key)), "send a delivery again",
		get("redeliver", scan(&found, new(int64)), key.Ticket, key.Store, key.Owner[:]).anew(func() { found = false }))
	if err == nil && !found {
		err = storage.ErrNotFound
	}
	return err
}
