package storage

import (
	"context"
	"fmt"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
)

// Queues is how nodes share the queues.
type Queues interface {
	// Runnable lists queues with an open batch and without a live owner, in the order of their IDs,
	// starting after the given one.
	Runnable(ctx context.Context, after QueueID, limit int) ([]Runnable, error)

	// Claim takes the queue and marks its oldest open batch as started. A node may claim a queue
	// that it already owns, which voids the earlier claim. Claim ignores the time that Release set,
	// because the caller decides when to claim. Errors: ErrNotOwner, if another live node owns the
	// queue, and ErrNothing.
	Claim(ctx context.Context, q QueueID) (*Claim, error)

	// Authorize returns nil once the node may send for the claim's queue. It waits while it can't
	// tell, for example because the database doesn't answer. Errors: ErrNotOwner, if the node
	// was considered dead after it made the claim. The node must then start nothing more for the
	// claim, but may record requests in flight.
	Authorize(ctx context.Context, c *Claim) error

	// Authorized reports whether the node may send for the claim's queue right now. It makes no
	// call to the database and takes well under a microsecond. It is safe for concurrent use, even
	// after the claim has ended.
	Authorized(c *Claim) bool

	// Offer notifies the other nodes of a queue that has work but isn't running on this node. It
	// doesn't wait. If the notification is lost, every node still finds the queue later through
	// Runnable.
	Offer(q QueueID)

	// Watch calls wake for queues that other nodes offer. It calls notify for queues that this node
	// owns and in which another node has stopped or deleted a batch. Neither may block, and each
	// may be called more than once for one event. A call to wake may be lost; a call to notify
	// comes within 2 s. Watch returns when ctx ends.
	Watch(ctx context.Context, wake, notify func(QueueID))
}

// Runs is how a node runs a batch that it has claimed.
type Runs interface {
	// Load fills in the requests and the marks of a claim. The claim's Bytes and Total indicate
	// roughly how much memory this takes. Load can be called again. Errors: ErrNotOwner, if the
	// batch was ended under a newer claim and then purged.
	Load(ctx context.Context, c *Claim) error

	// Record makes marks durable, in their order, and returns the creator's signals. Without marks,
	// it only returns the signals. If it fails, the first few marks may be durable. A Done mark is
	// final: Record, Finish and Release ignore a later mark of the same request. Errors:
	// ErrNotOwner.
	Record(ctx context.Context, c *Claim, marks []Mark) (Signals, error)

	// Progress reports that the batch is making progress. It resets the batch's Attempts to 1, and
	// records that the queue waits for nothing. Errors: ErrNotOwner.
	Progress(ctx context.Context, c *Claim) error

	// Finish records marks, ends the batch, removes its credential, and claims the queue's next
	// open batch under the same epoch. Requests without a Done mark count as not executed, for the
	// given reason, which may be empty. If there is no next batch, or release is set, Finish gives
	// up the queue and returns nil. It doesn't change a batch that has already ended or was purged.
	// Errors: ErrNotOwner.
	Finish(ctx context.Context, c *Claim, marks []Mark, reason string, release bool) (*Claim, error)

	// Release records marks and gives up the queue with its batch unfinished. The claim no longer
	// counts as one of the batch's Attempts. The queue becomes runnable again at the given time. It
	// becomes runnable at once if the time is zero, if its batch was stopped, or if the time is
	// Forever and the batch is no longer paused. Release also stores what the queue waits for, the
	// claim's Waits. If that is ForCredential, but the batch has got another credential since the
	// claim, the queue waits for nothing and becomes runnable at once. Errors: ErrNotOwner.
	Release(ctx context.Context, c *Claim, marks []Mark, notBefore time.Time) error

	// Quarantine quarantines the claim's batch for the given reason and gives up the queue. If the
	// batch was stopped, it ends instead: a request in flight ends as batch.OutcomeUnknown, and a
	// waiting one with its last answer. Errors: ErrNotOwner.
	Quarantine(ctx context.Context, c *Claim, reason string) error
}

// Runnable is a queue that has work and no live owner.
type Runnable struct {
	Queue     QueueID
	NotBefore time.Time // zero: now
	Waits     WaitReason
}

// Signals are what a creator requested while a batch was running.
type Signals struct {
	Stopped bool // start nothing more, and then finish the batch
	Deleted bool // like Stopped, but the results will not be read
	Paused  bool // start nothing more, and release the batch until Forever; never set with Stopped
}

// Claim is the right to run the oldest open batch of a queue. A node recovers a batch after a crash
// with the same call. A claim is small: Load reads the large part, after the caller has made room
// for it. Except for Authorized, only one goroutine at a time may use a claim.
type Claim struct {
	Queue      QueueID
	Epoch      int64 // the database may raise it, so that an unanswered call can no longer take effect
	Lease      int64 // for the database only: the registration of the node that made the claim
	ID         BatchID
	Ticket     batch.Ticket
	Store      string
	Owner      batch.Owner
	GroupID    string
	Options    batch.Options
	Credential []byte // sealed; empty: removed by Abandon
	CreatedAt  time.Time
	StartedAt  time.Time // when it was first claimed
	Trace      string    // see NewBatch
	Signals    Signals

	Total  int   // requests of the batch
	Bytes  int64 // memory that its requests take once they are loaded
	Marked bool  // there may be marks

	Waits WaitReason // what the queue waited for before the claim; Release stores its new value

	// Attempts counts this claim and every claim since the batch last made progress that ended
	// because its node died. A batch with more than MaxAttempts must not be loaded.
	Attempts int

	// These two, and the options below StopOnFailure, are filled in by Load.
	Requests []batch.Request
	Marks    []Mark // by index, without bodies and headers

	// These two are for the database only.
	Packed        []byte // the requests in stored form, if they are small; nil once they are loaded
	PackedOptions string // the options in stored form
}

// Fill decodes the stored form for Load. An error wraps ErrDamaged.
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
	if err := UnpackOptions(c.PackedOptions, &c.Options); err != nil {
		return err
	}
	c.Requests, c.Marks, c.Packed, c.Marked = requests, marks, nil, true
	return nil
}

// Pacing is the rate limits and holds of upstream credentials, which nodes share.
type Pacing interface {
	// Hold keeps every node from sending anything of the store with the credential before the given
	// time. Of two holds, the later time counts. Holds lists the holds that haven't ended.
	Hold(ctx context.Context, h Hold) error
	Holds(ctx context.Context) ([]Hold, error)

	// Reserve takes the next free span in the credential's schedule, which all nodes share, and
	// returns when the span begins. That is neither in the past nor before the end of an earlier
	// span. A span that isn't used is lost. Unlike the other methods, Reserve can't simply be
	// repeated: each call takes another span.
	Reserve(ctx context.Context, credential batch.Owner, span time.Duration) (time.Time, error)
}

// HoldLimit is the longest time for which a credential is held back, in case a wrong clock made the
// hold. It must exceed the waits that upstreams name, for example until a daily quota starts over.
const HoldLimit = 24 * time.Hour

// Hold is a time before which nothing of a store may be sent with an upstream credential.
type Hold struct {
	Credential batch.Owner // the credential's SHA-256
	Store      string
	Until      time.Time
}
