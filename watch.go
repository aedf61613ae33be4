package sheaf

import (
	"context"
	"time"

	"github.com/sheafapi/sheaf/internal/api"
	"github.com/sheafapi/sheaf/internal/engine"
	"github.com/sheafapi/sheaf/internal/storage"
)

// observed is the engine's storage. It reports every batch for which something was recorded.
type observed struct {
	engine.Storage
	changed func(storage.BatchID)
}

// Record implements engine.Storage.
func (o *observed) Record(ctx context.Context, c *storage.Claim, marks []storage.Mark) (storage.Signals, error) {
	s, err := o.Storage.Record(ctx, c, marks)
	if err == nil && len(marks) > 0 {
		o.changed(c.ID)
	}
	return s, err
}

// Finish implements engine.Storage.
func (o *observed) Finish(ctx context.Context, c *storage.Claim, marks []storage.Mark, reason string, release bool) (*storage.Claim, error) {
	id := c.ID
	next, err := o.Storage.Finish(ctx, c, marks, reason, release)
	if err == nil {
		o.changed(id)
	}
	return next, err
}

// Release implements engine.Storage.
func (o *observed) Release(ctx context.Context, c *storage.Claim, marks []storage.Mark, notBefore time.Time) error {
	err := o.Storage.Release(ctx, c, marks, notBefore)
	if err == nil && len(marks) > 0 {
		o.changed(c.ID)
	}
	return err
}

// Quarantine implements engine.Storage.
func (o *observed) Quarantine(ctx context.Context, c *storage.Claim, reason string) error {
	err := o.Storage.Quarantine(ctx, c, reason)
	if err == nil {
		o.changed(c.ID)
	}
	return err
}

// introducing is storage as the API uses it: the engine learns whose queue a batch came to.
type introducing struct {
	api.Storage
	engine *engine.Engine
}

// Create implements api.Storage.
func (i *introducing) Create(ctx context.Context, b *storage.NewBatch) (storage.CreateResult, error) {
	created, err := i.Storage.Create(ctx, b)
	if err == nil {
		i.engine.Introduce(created.Queue, b.Store, b.Owner)
	}
	return created, err
}
