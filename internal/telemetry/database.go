package telemetry

import (
	"context"
	"errors"
	"time"

	"github.com/sheafapi/sheaf/internal/storage"
)

// Database is a database whose operations are counted and timed. It also reports the batches for
// which something was recorded, so that calls that wait for their changes can be woken.
type Database struct {
	storage.Storage
	metrics *Metrics
	changed func(storage.BatchID)
}

// NewDatabase returns a Database that reports to m. It calls changed with each batch for which
// something was recorded. changed must not block.
func NewDatabase(db storage.Storage, m *Metrics, changed func(storage.BatchID)) *Database {
	return &Database{Storage: db, metrics: m, changed: changed}
}

// time counts an operation when it ends. An error that describes a known state is not a failure.
func (d *Database) time(name string, began time.Time, err *error) {
	_, damaged := errors.AsType[*storage.DamagedError](*err)
	failed := *err != nil && (damaged || !storage.Certain(*err)) && !errors.Is(*err, context.Canceled)
	d.metrics.storageCall(name, time.Since(began), failed)
}

// Create implements storage.Storage.
func (d *Database) Create(ctx context.Context, b *storage.NewBatch) (c storage.CreateResult, err error) {
	defer d.time("create", time.Now(), &err)
	return d.Storage.Create(ctx, b)
}

// Status implements storage.Storage.
func (d *Database) Status(ctx context.Context, key storage.Key, maxBytes int) (s *storage.Status, err error) {
	defer d.time("status", time.Now(), &err)
	return d.Storage.Status(ctx, key, maxBytes)
}

// Stop implements storage.Storage.
func (d *Database) Stop(ctx context.Context, sel storage.Selection) (s storage.StopResult, err error) {
	s, err = d.Storage.Stop(ctx, sel)
	d.metrics.countStopped(s.Count)
	return s, err
}

// Claim implements storage.Storage.
func (d *Database) Claim(ctx context.Context, q storage.QueueID) (c *storage.Claim, err error) {
	defer d.time("claim", time.Now(), &err)
	return d.Storage.Claim(ctx, q)
}

// Load implements storage.Storage.
func (d *Database) Load(ctx context.Context, c *storage.Claim) (err error) {
	defer d.time("load", time.Now(), &err)
	return d.Storage.Load(ctx, c)
}

// Record implements storage.Storage.
func (d *Database) Record(ctx context.Context, c *storage.Claim, marks []storage.Mark) (s storage.Signals, err error) {
	if len(marks) > 0 {
		defer d.time("record", time.Now(), &err)
	}
	if s, err = d.Storage.Record(ctx, c, marks); err == nil && len(marks) > 0 {
		d.changed(c.ID)
	}
	return s, err
}

// Finish implements storage.Storage.
func (d *Database) Finish(ctx context.Context, c *storage.Claim, marks []storage.Mark, reason string, release bool) (next *storage.Claim, err error) {
	defer d.time("finish", time.Now(), &err)
	id := c.ID // c may be reused for the next claim
	if next, err = d.Storage.Finish(ctx, c, marks, reason, release); err == nil {
		d.changed(id)
	}
	return next, err
}

// Release implements storage.Storage.
func (d *Database) Release(ctx context.Context, c *storage.Claim, marks []storage.Mark, notBefore time.Time) (err error) {
	defer d.time("release", time.Now(), &err)
	if err = d.Storage.Release(ctx, c, marks, notBefore); err == nil && (len(marks) > 0 || c.Waits != storage.NoWait) {
		d.changed(c.ID)
	}
	return err
}

// Progress implements storage.Storage.
func (d *Database) Progress(ctx context.Context, c *storage.Claim) error {
	err := d.Storage.Progress(ctx, c)
	if err == nil && c.Waits != storage.NoWait {
		d.changed(c.ID)
	}
	return err
}

// Results implements storage.Storage.
func (d *Database) Results(ctx context.Context, id storage.BatchID, from, maxBytes int) (page []storage.IndexedResult, err error) {
	defer d.time("results", time.Now(), &err)
	return d.Storage.Results(ctx, id, from, maxBytes)
}

// Quarantine implements storage.Storage.
func (d *Database) Quarantine(ctx context.Context, c *storage.Claim, reason string) (err error) {
	defer d.time("quarantine", time.Now(), &err)
	if err = d.Storage.Quarantine(ctx, c, reason); err == nil {
		d.changed(c.ID)
	}
	return err
}

// Runnable implements storage.Storage.
func (d *Database) Runnable(ctx context.Context, after storage.QueueID, limit int) (page []storage.Runnable, err error) {
	defer d.time("runnable", time.Now(), &err)
	return d.Storage.Runnable(ctx, after, limit)
}

// Purge implements storage.Storage.
func (d *Database) Purge(ctx context.Context, retention time.Duration) (more bool, err error) {
	defer d.time("purge", time.Now(), &err)
	return d.Storage.Purge(ctx, retention)
}
