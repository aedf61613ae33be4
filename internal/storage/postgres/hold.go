package postgres

import (
	"bytes"
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// lastOwner is the largest possible credential.
var lastOwner = batch.Owner(bytes.Repeat([]byte{0xff}, len(batch.Owner{})))

// correctHolds limits the holds of a range of credentials that were written by a clock that was
// ahead.
func correctHolds(first, last batch.Owner) step {
	return do("correct_holds", storage.HoldLimit.Milliseconds(), first[:], last[:])
}

// Hold implements storage.Storage.
func (db *DB) Hold(ctx context.Context, h storage.Hold) error {
	return db.write(ctx, claims, "hold a credential back", correctHolds(h.Credential, h.Credential),
		do("hold", h.Credential[:], db.clock.out(h.Until), storage.HoldLimit.Milliseconds(), []byte(h.Store)))
}

// Holds implements storage.Storage.
func (db *DB) Holds(ctx context.Context) ([]storage.Hold, error) {
	out, doubtful, err := db.holds(ctx)
	if err != nil || !doubtful {
		return out, err
	}
	err = db.write(ctx, claims, "correct what credentials wait for", correctHolds(batch.Owner{}, lastOwner))
	if err != nil {
		return nil, err
	}
	out, _, err = db.holds(ctx)
	return out, err
}

// holds also reports whether any of them may have been written by a clock that was ahead.
func (db *DB) holds(ctx context.Context) (out []storage.Hold, doubtful bool, err error) {
	row := func(r pgx.Rows) error {
		var credential, store []byte
		var until int64
		var doubt bool
		if err := r.Scan(&credential, &store, &until, &doubt); err != nil {
			return err
		}
		h := storage.Hold{Store: string(store), Until: db.clock.in(until)}
		copy(h.Credential[:], credential)
		out, doubtful = append(out, h), doubtful || doubt
		return nil
	}
	read := get("holds", row, storage.HoldLimit.Milliseconds()).anew(func() { out, doubtful = nil, false })
	if err := db.read(ctx, claims, "look for credentials that are held back", read); err != nil {
		return nil, false, err
	}
	return out, doubtful, nil
}

// Reserve implements storage.Storage.
func (db *DB) Reserve(ctx context.Context, credential batch.Owner, span time.Duration) (time.Time, error) {
	var from int64
	found := false
	err := db.write(ctx, claims, "reserve time of a credential", correctHolds(credential, credential),
		get("reserve", scan(&found, &from), credential[:], span.Milliseconds()))
	if err != nil {
		return time.Time{}, err
	}
	return db.clock.in(from), nil
}

// Outages implements storage.Storage.
func (db *DB) Outages(ctx context.Context) ([]storage.Outage, error) {
	var out []storage.Outage
	err := db.read(ctx, claims, "look for outages", get("outages", func(r pgx.Rows) error {
		var o storage.Outage
		var upstream []byte
		var since, probeAt int64
		err := r.Scan(&upstream, &since, &o.Probes, &probeAt)
		o.Upstream, o.Since, o.ProbeAt = string(upstream), db.clock.in(since), db.clock.in(probeAt)
		out = append(out, o)
		return err
	}).anew(func() { out = nil }))
	return out, err
}

// PutOutage implements storage.Storage.
func (db *DB) PutOutage(ctx context.Context, o storage.Outage) (bool, error) {
	stored := false
	err := db.write(ctx, claims, "store an outage",
		get("put_outage", scan(&stored, new(int)), []byte(o.Upstream), db.clock.out(o.Since), o.Probes, db.clock.out(o.ProbeAt)))
	return stored, err
}

// EndOutage implements storage.Storage.
func (db *DB) EndOutage(ctx context.Context, upstream string) error {
	return db.write(ctx, claims, "end an outage", do("end_outage", []byte(upstream)))
}

// Accepted implements storage.Storage.
func (db *DB) Accepted(ctx context.Context, credential batch.Owner) error {
	return db.write(ctx, claims, "record that a credential was accepted", do("accepted", credential[:]))
}

// WasAccepted implements storage.Storage.
func (db *DB) WasAccepted(ctx context.Context, credential batch.Owner) (accepted bool, err error) {
	err = db.read(ctx, claims, "look for a credential", get("was_accepted", scan(new(bool), &accepted), credential[:]).anew(func() { accepted = false }))
	return accepted, err
}

// Expire implements storage.Storage.
func (db *DB) Expire(ctx context.Context, credential batch.Owner) error {
	return db.write(ctx, claims, "record that a credential has expired", do("expire", credential[:]))
}

// Expired implements storage.Storage.
func (db *DB) Expired(ctx context.Context, since time.Time) (map[batch.Owner]time.Time, error) {
	out := map[batch.Owner]time.Time{}
	err := db.read(ctx, claims, "look for expired credentials", get("expired_credentials", func(r pgx.Rows) error {
		var id []byte
		var at int64
		err := r.Scan(&id, &at)
		if len(id) == len(batch.Owner{}) {
			out[batch.Owner(id)] = db.clock.in(at)
		}
		return err
	}, db.clock.out(since)).anew(func() { clear(out) }))
	return out, err
}

// Renew implements storage.Storage.
func (db *DB) Renew(ctx context.Context, r storage.Renewal) (storage.QueueID, error) {
	const what = "renew a credential"
	l := creates(callerOf(r.Key))
	var id int64
	var queue storage.QueueID
	var store string
	var owner []byte
	found := false
	err := db.read(ctx, l, what, get("batch_by_ticket", scan(&found, &id, &queue, &store, &owner), r.Ticket).anew(func() { found = false }))
	if err != nil {
		return 0, err
	}
	if !found || !r.Covers(store, owner) {
		return 0, storage.ErrNotFound
	}
	renewed := false
	steps := []step{
		do("lock_queues", []int64{int64(queue)}),
		get("renew", scan(&renewed, new(int64)), id, r.NewOwner[:], r.Credential, r.Owner[:]).anew(func() { renewed = false }),
		do("wake_renewed", queue),
	}
	if r.NewQueue != "" {
		steps = append(steps, do("rename_queue", queue, []byte(r.NewQueue)))
	}
	if err := db.write(ctx, l, what, steps...); err != nil {
		return 0, err
	}
	if !renewed {
		return 0, storage.ErrNotFound
	}
	return queue, nil
}
