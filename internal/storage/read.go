package storage

import (
	"context"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
)

// Reader is how callers read batches.
type Reader interface {
	// Status returns a batch and, if maxBytes is positive, its first results in request
	// order: as many as maxBytes of bodies allow, and at least one if there is any. Results
	// reads later ones. Errors: ErrNotFound.
	Status(ctx context.Context, key Key, maxBytes int) (*Status, error)

	// Results returns results of a batch in request order, beginning at index from, limited
	// like those of Status. Errors: ErrNotFound if the batch is gone.
	Results(ctx context.Context, id BatchID, from, maxBytes int) ([]IndexedResult, error)

	// Marks returns the marks of a batch's requests, by index, without the bodies and headers
	// of answers. Errors: ErrNotFound if the batch is gone.
	Marks(ctx context.Context, id BatchID) ([]Mark, error)

	// Requests returns a batch's requests and options. Errors: ErrNotFound if the batch is gone.
	Requests(ctx context.Context, id BatchID) ([]batch.Request, batch.Options, error)

	// News returns how far batches have come, in any order. It leaves out those that are gone.
	News(ctx context.Context, ids []BatchID) ([]News, error)

	// Find returns the batches that a filter selects. It does a limited amount of work: a page
	// may hold fewer batches than the limit, even none, although there are more.
	Find(ctx context.Context, f Filter) (Page, error)

	// Group counts over all remaining batches of a creator's group.
	Group(ctx context.Context, store string, owner batch.Owner, group string) (GroupCounts, error)

	// Queue returns the state of a queue, by its name; zero if there is none.
	Queue(ctx context.Context, name string) (QueueState, error)
}

// Status is a batch as its creator may see it, at one moment.
type Status struct {
	ID          BatchID
	Ticket      batch.Ticket
	GroupID     string
	Status      batch.Status
	Total       int
	Completed   int // requests that were executed, successfully or not
	Failed      int // of Completed
	InDoubt     int // of Failed
	CreatedAt   time.Time
	StartedAt   time.Time // zero: not started
	EndedAt     time.Time // zero: not ended
	RetryOf     batch.Ticket
	Paused      bool            // the batch is paused, or its queue is
	NotBefore   time.Time       // its queue was released until then; zero: it was not, or for a pause, or the batch has ended
	Reason      string          // why requests were not executed, if there is more to say than "stopped"; or why the batch was set aside
	Quarantined time.Time       // when the batch was set aside; zero: it is not
	IDs         []string        // the requests' ids, by index; nil when none has one
	Ended       batch.Set       // requests that have a result; empty unless results were requested
	Results     []IndexedResult // the first results, see Reader.Status
}

// IndexedResult is a result with the index of its request in the batch.
type IndexedResult struct {
	Index int
	batch.Result
	InDoubt        bool // see Mark.InDoubt
	Attempts       int
	Throttles      int       // answers 429
	ThrottledSince time.Time // the first 429; zero: none
	StartedAt      time.Time // of the first attempt; zero: it was not sent
	EndedAt        time.Time // of the last attempt
}

// News is how far a batch has come.
type News struct {
	ID        BatchID
	Status    batch.Status
	Completed int // requests that were executed
	Results   int // requests that have a result: the executed ones, and those with a reason of their own not to be
}

// GroupCounts are counts over a creator's batches of one group.
type GroupCounts struct {
	Queued, InProgress, Completed int // batches

	Requests    int // of all of them
	Succeeded   int
	Failed      int
	InDoubt     int // of Failed
	NotExecuted int
}

// QueueState is the state of a queue.
type QueueState struct {
	Open        int       // unfinished batches, without those that were set aside
	Quarantined int       // batches that were set aside
	Held        int       // batches of any state that were not purged yet
	Paused      bool      // nothing of it starts until it is resumed
	NotBefore   time.Time // it was released until then; zero: it was not, or for a pause
}
