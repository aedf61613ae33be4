package storage

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/sheafapi/sheaf/internal/batch"
)

// Batches is how callers create and change batches.
type Batches interface {
	// Create stores a batch at the end of its queue.
	//
	// Before Create checks the quota, it looks in the same transaction for an earlier batch of the
	// same store and owner: by the deduplication key, by RetryOf, or by the ticket itself, which
	// means that this call is a repetition. If there is one, it returns that batch's ticket. Of two
	// concurrent Creates, the later one returns the earlier one's ticket once that batch is
	// durable.
	//
	// A deduplication key can be used again after DedupWindow, or once its batch is deleted.
	// RetryOf finds only an unfinished batch with the same RetryOf. With Once, it finds such a
	// batch in any state. Errors: *QuotaError.
	Create(ctx context.Context, b *NewBatch) (CreateResult, error)

	// Stop ends unfinished batches. A batch that is quarantined, or that no node has started, ends
	// at once. Any other batch is ended by the node that runs it, and its queue becomes runnable at
	// once, whatever time Release set.
	Stop(ctx context.Context, sel Selection) (StopResult, error)

	// Pause keeps a batch or a whole queue from starting any more requests. Requests in flight end
	// normally. With Paused unset, it resumes the batch or the queue, which makes the queue
	// runnable at once. A batch that was stopped or has ended doesn't change. A queue without
	// batches can be paused too. The result's Count is 1 if the call changed something. Errors:
	// ErrNotFound, for a ticket.
	Pause(ctx context.Context, p PauseRequest) (StopResult, error)

	// Delete stops a batch as Stop does, whatever its state, and hides it: the batch is no longer
	// found, and its deduplication key is free. Purge removes the rest once the batch has ended.
	// Delete returns the queue in which the batch may be running. Errors: ErrNotFound.
	Delete(ctx context.Context, key Key) (QueueID, error)
}

// NewBatch is what Create stores.
type NewBatch struct {
	Ticket     batch.Ticket
	Store      string
	Owner      batch.Owner
	Queue      string    // batches with equal values run one after the other
	GroupID    string    // empty: none
	DedupKey   uuid.UUID // zero: none
	Options    batch.Options
	Requests   []batch.Request // 1 to batch.MaxRequests
	Credential []byte          // sealed; removed when the batch ends
	Quota      int             // unfinished batches that the queue may hold; 0: no limit
	QuotaBytes int64           // bytes that the queue's batches may take, including this one; 0: no limit
	Callback   string          // the URL that is notified when the batch ends; empty: none
	RetryOf    batch.Ticket    // the batch whose failed requests this one repeats; zero: none
	Once       bool            // with RetryOf: a batch that has ended counts as the repetition too
	Trace      string          // the trace that the batch continues, in ASCII; empty: none
}

// For QuotaBytes, a batch counts with its requests as Pack returns them and, once it has ended, the
// bodies of its results. It counts until it is purged.

// DedupWindow is how long a deduplication key leads to the batch that was created with it.
const DedupWindow = time.Hour

// CreateResult is the outcome of Create.
type CreateResult struct {
	Ticket    batch.Ticket // the new batch's, or the earlier one's
	Queue     QueueID
	Duplicate bool // there is an earlier batch; nothing was stored
}

// Selection names the batches to stop: by ticket, by group, or by a ticket and the group that the
// batch must be in.
type Selection struct {
	Store   string
	Owner   batch.Owner
	Ticket  batch.Ticket // zero: every batch of the group
	GroupID string       // empty: any
}

// StopResult is the outcome of Stop and of Pause.
type StopResult struct {
	Count  int       // batches that this call changed
	Queues []QueueID // where a batch may be running, so that its node can be notified
}

// PauseRequest names a batch by its ticket, or a whole queue by its name.
type PauseRequest struct {
	Key           // with the zero ticket, the request is for the whole queue
	Queue  string // the queue's name
	Paused bool   // false: resume
}

// Forever is the time until which a paused batch is released.
var Forever = time.UnixMilli(1 << 47)
