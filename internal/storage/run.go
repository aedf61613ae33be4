package storage

import (
	"context"
	"fmt"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
)

// Queues is how nodes share queues among each other.
type Queues interface {
	// Runnable lists queues with an open batch and without a live owner, in the order of
	// their IDs and beginning behind after.
	Runnable(ctx context.Context, after QueueID, limit int) ([]Runnable, error)

	// Claim takes the queue and marks its oldest open batch as started. A node may claim a
	// queue that it already owns, which voids the earlier claim. Claim ignores the moment that
	// Release named, because the caller decides when to claim.
	// Errors: ErrNotOwner (another live node has it), ErrNothing.
	Claim(ctx context.Context, q QueueID) (*Claim, error)

	// Authorize returns nil when the node may send for the claim's queue. It waits while that
	// is uncertain, for example because the database does not answer.
	// Errors: ErrNotOwner, when the node was taken for dead after it made the claim. The node
	// must then start nothing more for the claim, and may record requests in flight.
	Authorize(ctx context.Context, c *Claim) error

	// Authorized reports whether the node may send for the claim's queue at this moment. It
	// makes no call to the database and takes well under a microsecond. It may be called from
	// many goroutines, even after the claim has ended.
	Authorized(c *Claim) bool

	// Offer notifies the other nodes of a queue with work that this node doesn't run now. It
	// does not wait and may be lost. Every node finds the queue by Runnable later.
	Offer(q QueueID)

	// Watch calls wake for queues that other nodes offer. It calls notify for queues that this
	// node owns and in which a batch was stopped or deleted through another node. Both must
	// not block and may be called more than once. A call of wake may be lost, and one of
	// notify comes within 2 s. Watch returns when ctx ends.
	Watch(ctx context.Context, wake, notify func(QueueID))
}

// Runs is how a node runs the batch that it has claimed.
type Runs interface {
	// Load fills in the requests and the marks of a claim. It takes about as much memory as
	// the claim's Bytes and Total say. It can be called again.
	// Errors: ErrNotOwner, if the batch was ended under a newer claim and then purged.
	Load(ctx context.Context, c *Claim) error

	// Record makes marks durable, in their order, and returns what the creator requested
	// meanwhile. Without marks it only returns that. When it fails, a first part of the marks
	// may be durable. A Done mark is final: Record, Finish and Release ignore a later mark of
	// the same request. Errors: ErrNotOwner.
	Record(ctx context.Context, c *Claim, marks []Mark) (Signals, error)

	// Progress says that the batch makes progress, so its Attempts are 1 again.
	// Errors: ErrNotOwner.
	Progress(ctx context.Context, c *Claim) error

	// Finish records marks, ends the batch, removes its credential, and claims the queue's
	// next open batch under the same epoch. Requests without a Done mark were not executed,
	// for the given reason, which may be empty. If there is no next batch, or with release,
	// Finish gives the queue up and returns nil. A batch that has already ended, or was purged
	// since, stays as it is. Errors: ErrNotOwner.
	Finish(ctx context.Context, c *Claim, marks []Mark, reason string, release bool) (*Claim, error)

	// Release records marks and gives the queue up with its batch unfinished. The claim no
	// longer counts as one of the batch's Attempts. The queue becomes runnable again at the
	// given moment. It is runnable at once if the moment is zero, if its batch was stopped,
	// or if the moment is Forever and the batch is no longer paused. Errors: ErrNotOwner.
	Release(ctx context.Context, c *Claim, marks []Mark, notBefore time.Time) error

	// Quarantine sets the claim's batch aside for a reason and gives the queue up. A batch
	// that was stopped ends instead: a request in flight as batch.OutcomeUnknown, a waiting
	// one with its last answer. Errors: ErrNotOwner.
	Quarantine(ctx context.Context, c *Claim, reason string) error
}

// Runnable is a queue that has work and no live owner.
type Runnable struct {
	Queue     QueueID
	NotBefore time.Time // zero: now
}

// Signals is what a creator requested while a batch was running.
type Signals struct {
	Stopped bool // start nothing more, then finish
	Deleted bool // as Stopped; the results will not be read
	Paused  bool // start nothing more, and release it until Forever; not with Stopped
}

// Claim is the right to run a queue, with its oldest open batch. Recovery after a crash is the
// same call. A claim is small: Load reads the large part, after the caller has made room for it.
// One goroutine at a time uses a claim, except for Authorized.
type Claim struct {
	Queue      QueueID
	Epoch      int64 // the database may raise it, to shut out the effect of an unanswered call
	Lease      int64 // the database's own: the registration of the node that made the claim
	ID         BatchID
	Ticket     batch.Ticket
	Store      string
	Owner      batch.Owner
	GroupID    string
	Options    batch.Options
	Credential []byte // sealed; empty: it was abandoned
	CreatedAt  time.Time
	StartedAt  time.Time // when it was first claimed
	Trace      string    // see NewBatch
	Signals    Signals

	Total  int   // requests of the batch
	Bytes  int64 // that its requests take when they are loaded
	Marked bool  // there may be marks

	// Attempts counts this claim, and earlier ones since the batch's last progress that the
	// death of a node ended. A batch with more than MaxAttempts must not be loaded.
	Attempts int

	// Load fills in these two.
	Requests []batch.Request
	Marks    []Mark // by index, without bodies and headers

	Packed []byte // the database's own: the requests as they are stored, if they are few bytes; nil once they are loaded
}

// Fill does the work of Load once the database has read the stored form. An error wraps
// ErrDamaged.
func (c *Claim) Fill(packed []byte, marks []Mark) error {
	requests, err := Unpack(packed)
	switch {
	case err != nil:
		return err
	case len(requests) != c.Total:
		return fmt.Errorf("%w: there are %d requests, not %d", ErrDamaged, len(requests), c.Total)
	}
	for i := range marks {
		if err := marks[i].check(c.Total); err != nil {
			return err
		}
	}
	c.Requests, c.Marks, c.Packed, c.Marked = requests, marks, nil, true
	return nil
}

// Pacing is what nodes share about one upstream credential.
type Pacing interface {
	// Hold makes every node know that nothing of the store may be sent with the credential
	// before the moment. Of two holds, the later moment counts. Holds lists those whose moment
	// has not come.
	Hold(ctx context.Context, h Hold) error
	Holds(ctx context.Context) ([]Hold, error)

	// Reserve takes the next span of time in the schedule that all nodes share for the
	// credential, and returns the span's beginning. It begins neither in the past nor before
	// the end of an earlier span. A span that is not used is lost. A repeated call takes
	// another span, unlike a repeated call of any other method.
	Reserve(ctx context.Context, credential batch.Owner, span time.Duration) (time.Time, error)
}

// HoldLimit is the longest time for which a credential is held back.
const HoldLimit = 5 * time.Minute

// Hold is a moment before which nothing of a store may be sent with an upstream credential.
type Hold struct {
	Credential batch.Owner // the credential's SHA-256
	Store      string
	Until      time.Time
}
