package storage

import (
	"context"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
)

// Operations is how the service and its operators look after the database.
type Operations interface {
	// Overview returns the state of the whole database, with the given number of queues at
	// most. It may take as long as counting the queues that have work.
	Overview(ctx context.Context, loads int) (Overview, error)

	// Size returns about how many bytes the database takes. It may leave out space that purged
	// batches have left for later ones. It is cheap enough for one call a second.
	Size(ctx context.Context) (int64, error)

	// Unfinished returns the number of unfinished batches in the queues whose names begin with
	// a prefix, which is not empty. It takes as long as reading those queues.
	Unfinished(ctx context.Context, prefix string) (int, error)

	// Quarantined lists batches that were set aside, in the order of their IDs and beginning
	// behind after.
	Quarantined(ctx context.Context, after BatchID, limit int) ([]QuarantinedBatch, error)

	// Unquarantine makes a batch that was set aside one of its queue's open batches again. The
	// queue is runnable at once. With end, it ends the batch instead, as Quarantine ends one
	// that was stopped. Errors: ErrNotFound, if no batch with this ticket is set aside.
	Unquarantine(ctx context.Context, ticket batch.Ticket, end bool) (QueueID, error)

	// Purge removes batches that ended longer than retention ago, whatever the state of their
	// deliveries, and batches that were deleted and have ended. It does a limited amount of
	// work in one transaction and reports whether there is more to do.
	Purge(ctx context.Context, retention time.Duration) (more bool, err error)

	// Ping reports whether the database answers. It also reports whether the database can be
	// written to, judging by the last changes. It changes nothing while the database works.
	Ping(ctx context.Context) error

	// Close gives up the node's queues and closes the database. Running calls end first;
	// later ones fail.
	Close() error
}

// Node is a node that is alive.
type Node struct {
	Name      string // the name of its connections to the database; of an embedded database: empty
	Self      bool   // the node that answers
	StartedAt time.Time
	RenewedAt time.Time // when it last renewed its registration; zero: it doesn't need one
	Queues    int       // that it owns
}

// Load is a queue with work.
type Load struct {
	Queue     string
	Open      int       // unfinished batches
	Oldest    time.Time // when the oldest of them was created
	Owned     bool      // a live node has it
	Paused    bool
	NotBefore time.Time // as in QueueState
}

// Overview is the state of the whole database.
type Overview struct {
	Nodes  []Node
	Queues int    // with unfinished batches
	Owned  int    // of these, that a live node has
	Open   int    // unfinished batches, without those that were set aside
	Loads  []Load // the queues with the most unfinished batches

	Quarantined int   // batches that were set aside
	Bytes       int64 // that the database takes
	LogBytes    int64 // of its write-ahead log, if the service must watch it; otherwise 0
}
