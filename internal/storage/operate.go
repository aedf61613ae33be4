package storage

import (
	"context"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
)

// Operations is how the service and its operators look after the database.
type Operations interface {
	// Overview returns the state of the whole database, with at most the given number of
	// queues. It takes as long as counting the queues that have work.
	Overview(ctx context.Context, loads int) (Overview, error)

	// Size returns the approximate number of bytes that the database takes. The result may leave
	// out space that purged batches have left for later ones. The call is cheap enough to make
	// once a second.
	Size(ctx context.Context) (int64, error)

	// Unfinished returns the number of unfinished batches in the queues whose names begin with the
	// prefix, which must not be empty. It takes as long as reading those queues.
	Unfinished(ctx context.Context, prefix string) (int, error)

	// Quarantined lists quarantined batches in the order of their IDs, starting after the given
	// one.
	Quarantined(ctx context.Context, after BatchID, limit int) ([]QuarantinedBatch, error)

	// Unquarantine makes a quarantined batch one of its queue's open batches again. The queue
	// becomes runnable at once. With end, it ends the batch instead, as Quarantine does with a
	// batch that was stopped. Errors: ErrNotFound, if no batch with this ticket is quarantined.
	Unquarantine(ctx context.Context, ticket batch.Ticket, end bool) (QueueID, error)

	// Purge removes batches that ended longer than retention ago, whatever the state of their
	// deliveries, and batches that were deleted and have ended. It does a limited amount of work in
	// one transaction and reports whether there is more to do.
	Purge(ctx context.Context, retention time.Duration) (more bool, err error)

	// Ping reports whether the database answers and, judging by recent changes, can be written to.
	// It normally writes nothing.
	Ping(ctx context.Context) error

	// Close gives up the node's queues and closes the database. It waits for running calls; later
	// calls fail.
	Close() error
}

// Node is a node that is alive.
type Node struct {
	Name      string // the name of its connections to the database; empty: the database is embedded
	Self      bool   // the node that returns this list
	StartedAt time.Time
	RenewedAt time.Time // when it last renewed its registration; zero: it doesn't need one
	Queues    int       // queues that it owns
}

// Load is a queue with work.
type Load struct {
	Queue     string
	Open      int       // unfinished batches
	Oldest    time.Time // when the oldest of them was created
	Owned     bool      // a live node owns it
	Paused    bool
	NotBefore time.Time // as in QueueState
	Wait      Wait
}

// Overview is the state of the whole database.
type Overview struct {
	Nodes  []Node
	Queues int    // queues with unfinished batches
	Owned  int    // those that a live node owns
	Open   int    // unfinished batches, except quarantined ones
	Loads  []Load // the queues with the most unfinished batches

	Quarantined int   // quarantined batches
	Bytes       int64 // size of the database
	LogBytes    int64 // size of its write-ahead log, if the service must watch it; otherwise 0
}
