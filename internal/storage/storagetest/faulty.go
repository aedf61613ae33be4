package storagetest

import (
	"context"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// Faulty is a database whose calls fail or block when a test wants them to. This applies to
// callers' calls and to Unquarantine and Overview. All other calls go straight to the database.
type Faulty struct {
	storage.Storage
	hooks
}

// NewFaulty returns a database that does what s does until SetFault or SetGate is called.
func NewFaulty(s storage.Storage) *Faulty { return &Faulty{Storage: s} }

// pass makes a call, unless a hook makes it fail.
func pass[T any](ctx context.Context, f *Faulty, op string, call func() (T, error)) (T, error) {
	var zero T
	fault, err := f.before(ctx, op)
	if err != nil {
		return zero, err
	}
	out, err := call()
	if fault == FailedButStored {
		return zero, ErrInjected
	}
	return out, err
}

// Create implements storage.Batches.
func (f *Faulty) Create(ctx context.Context, b *storage.NewBatch) (storage.CreateResult, error) {
	return pass(ctx, f, "Create", func() (storage.CreateResult, error) { return f.Storage.Create(ctx, b) })
}

// Stop implements storage.Batches.
func (f *Faulty) Stop(ctx context.Context, sel storage.Selection) (storage.StopResult, error) {
	return pass(ctx, f, "Stop", func() (storage.StopResult, error) { return f.Storage.Stop(ctx, sel) })
}

// Pause implements storage.Batches.
func (f *Faulty) Pause(ctx context.Context, p storage.PauseRequest) (storage.StopResult, error) {
	return pass(ctx, f, "Pause", func() (storage.StopResult, error) { return f.Storage.Pause(ctx, p) })
}

// Delete implements storage.Batches.
func (f *Faulty) Delete(ctx context.Context, key storage.Key) (storage.QueueID, error) {
	return pass(ctx, f, "Delete", func() (storage.QueueID, error) { return f.Storage.Delete(ctx, key) })
}

// Status implements storage.Reader.
func (f *Faulty) Status(ctx context.Context, key storage.Key, maxBytes int) (*storage.Status, error) {
	return pass(ctx, f, "Status", func() (*storage.Status, error) { return f.Storage.Status(ctx, key, maxBytes) })
}

// Results implements storage.Reader.
func (f *Faulty) Results(ctx context.Context, id storage.BatchID, from, maxBytes int) ([]storage.IndexedResult, error) {
	return pass(ctx, f, "Results", func() ([]storage.IndexedResult, error) { return f.Storage.Results(ctx, id, from, maxBytes) })
}

// Marks implements storage.Reader.
func (f *Faulty) Marks(ctx context.Context, id storage.BatchID) ([]storage.Mark, error) {
	return pass(ctx, f, "Marks", func() ([]storage.Mark, error) { return f.Storage.Marks(ctx, id) })
}

// Requests implements storage.Reader.
func (f *Faulty) Requests(ctx context.Context, id storage.BatchID) (r []batch.Request, o batch.Options, err error) {
	r, err = pass(ctx, f, "Requests", func() (r []batch.Request, err error) {
		r, o, err = f.Storage.Requests(ctx, id)
		return r, err
	})
	return r, o, err
}

// News implements storage.Reader.
func (f *Faulty) News(ctx context.Context, ids []storage.BatchID) ([]storage.News, error) {
	return pass(ctx, f, "News", func() ([]storage.News, error) { return f.Storage.News(ctx, ids) })
}

// Find implements storage.Reader.
func (f *Faulty) Find(ctx context.Context, filter storage.Filter) (storage.Page, error) {
	return pass(ctx, f, "Find", func() (storage.Page, error) { return f.Storage.Find(ctx, filter) })
}

// Group implements storage.Reader.
func (f *Faulty) Group(ctx context.Context, store string, owner batch.Owner, group string) (storage.GroupCounts, error) {
	return pass(ctx, f, "Group", func() (storage.GroupCounts, error) { return f.Storage.Group(ctx, store, owner, group) })
}

// Queue implements storage.Reader.
func (f *Faulty) Queue(ctx context.Context, name string) (storage.QueueState, error) {
	return pass(ctx, f, "Queue", func() (storage.QueueState, error) { return f.Storage.Queue(ctx, name) })
}

// Unquarantine implements storage.Operations.
func (f *Faulty) Unquarantine(ctx context.Context, ticket batch.Ticket, end bool) (storage.QueueID, error) {
	return pass(ctx, f, "Unquarantine", func() (storage.QueueID, error) { return f.Storage.Unquarantine(ctx, ticket, end) })
}

// Overview implements storage.Operations.
func (f *Faulty) Overview(ctx context.Context, loads int) (storage.Overview, error) {
	return pass(ctx, f, "Overview", func() (storage.Overview, error) { return f.Storage.Overview(ctx, loads) })
}

// PutDelivery implements storage.Callbacks.
func (f *Faulty) PutDelivery(ctx context.Context, d *storage.Delivery) error {
	_, err := pass(ctx, f, "PutDelivery", func() (struct{}, error) { return struct{}{}, f.Storage.PutDelivery(ctx, d) })
	return err
}
