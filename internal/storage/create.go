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
	// Before the quota it looks for an earlier batch of the same store and owner, in the same
	// transaction, and returns that batch's ticket if there is one: by the deduplication key,
	// by RetryOf, or by the ticket itself, which means that this call is a repetition. Of two
	// Creates at once, the later returns the earlier one's ticket once that is durable.
	//
	// A deduplication key is free again after DedupWindow and when the batch is deleted.
	// RetryOf leads to an unfinished batch with the same RetryOf. With Once, it leads to such
	// a batch in any state.
	// Errors: *QuotaError.
	Create(ctx context.Context, b *NewBatch) (CreateResult, error)

	// Stop requests the end of unfinished batches. A batch that no node has started, or that
	// was set aside, ends at once. The node that runs it ends any other, and its queue is
	// runnable at once, whatever moment Release named.
	Stop(ctx context.Context, sel Selection) (StopResult, error)

	// Pause keeps a batch or a whole queue from starting anything more, or resumes it, which
	// makes its queue runnable at once. Requests in flight end normally. A batch that has
	// ended or was stopped stays as it is. A queue without batches can be paused too.
	// The result's Count is 1 if the call changed something. Errors: ErrNotFound, for a ticket.
	Pause(ctx context.Context, p PauseRequest) (StopResult, error)

	// Delete stops a batch as Stop does, whatever its state, and hides it: from now on it is
	// not found, and its deduplication key is free. Purge removes the rest once the batch has
	// ended. The returned queue is where it may be running. Errors: ErrNotFound.
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
	QuotaBytes int64           // bytes that its batches may take, this one included; 0: no limit
	Callback   string          // the address that is notified of its end; empty: none
	RetryOf    batch.Ticket    // the batch whose failed requests this one repeats; zero: none
	Once       bool            // with RetryOf: a batch that has ended counts as the repetition too
	Trace      string          // the trace that the batch continues, in ASCII; empty: none
}

// A batch takes these bytes for QuotaBytes: its requests as Pack returns them and, once it
// has ended, the bodies of its results. It counts until it is purged.

// DedupWindow is how long a deduplication key leads to the batch that it created first.
const DedupWindow = time.Hour

// CreateResult is the outcome of Create.
type CreateResult struct {
	Ticket    batch.Ticket // the new batch's, or the earlier one's
	Queue     QueueID
	Duplicate bool // there is an earlier batch; nothing was stored
}

// Selection names the batches to stop: by ticket, by group, or by ticket with the group that the
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
	Key           // the zero ticket: the queue
	Queue  string // its name
	Paused bool   // false: resume
}

// Forever is the moment that a paused batch is released until.
var Forever = time.UnixMilli(1 << 47)
