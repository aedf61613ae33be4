package storage

import (
	"context"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
)

// Reader is how callers read batches.
type Reader interface {
	// Status returns a batch. If maxBytes is positive, it also returns the batch's first results in
	// request order: as many as have bodies of at most maxBytes in total, and at least one if there
	// is any. Results reads later ones. Errors: ErrNotFound.
	Status(ctx context.Context, key Key, maxBytes int) (*Status, error)

	// Results returns a batch's results in request order, starting at index from, and limited like
	// those of Status. Errors: ErrNotFound if the batch is gone.
	Results(ctx context.Context, id BatchID, from, maxBytes int) ([]IndexedResult, error)

	// Marks returns the marks of a batch's requests, by index, without the answers' bodies and
	// headers. Errors: ErrNotFound if the batch is gone.
	Marks(ctx context.Context, id BatchID) ([]Mark, error)

	// Requests returns a batch's requests and options. Errors: ErrNotFound if the batch is gone.
	Requests(ctx context.Context, id BatchID) ([]batch.Request, batch.Options, error)

	// News returns the progress of batches, in any order. It leaves out batches that are gone.
	News(ctx context.Context, ids []BatchID) ([]News, error)

	// Find returns the batches that a filter selects. It does a limited amount of work, so a page
	// may hold fewer batches than the limit, or none, even if there are more.
	Find(ctx context.Context, f Filter) (Page, error)

	// Group counts the batches in a creator's group that haven't been purged.
	Group(ctx context.Context, store string, owner batch.Owner, group string) (GroupCounts, error)

	// Queue returns the state of a queue, by its name; the zero value if there is no such queue.
	Queue(ctx context.Context, name string) (QueueState, error)
}

// Status is a batch as its creator sees it, at one point in time.
type Status struct {
	ID          BatchID
	Ticket      batch.Ticket
	GroupID     string
	Status      batch.Status
	Total       int
	Completed   int // requests that were executed, whether they succeeded or failed
	Failed      int // of Completed
	InDoubt     int // of Failed
	CreatedAt   time.Time
	StartedAt   time.Time // zero: not started
	EndedAt     time.Time // zero: not ended
	RetryOf     batch.Ticket
	Paused      bool            // the batch is paused, or its queue is
	NotBefore   time.Time       // the time until which its queue was released; zero if there is none, for a pause, and once the batch has ended
	Wait        Wait            // what its queue waits for; the zero value for a quarantined batch, and once the batch has ended
	Reason      string          // why requests were not executed, if not just because the batch was stopped; or why it was quarantined
	Quarantined time.Time       // when the batch was quarantined; zero: it isn't
	IDs         []string        // the requests' ids, by index; nil if no request has one
	Ended       batch.Set       // requests that have a result; empty unless maxBytes is positive
	Results     []IndexedResult // the first results; see Reader.Status
}

// IndexedResult is a result with the index of its request in the batch.
type IndexedResult struct {
	Index int
	batch.Result
	InDoubt        bool // see Mark.InDoubt
	Attempts       int
	Throttles      int       // refusals because of a rate limit
	ThrottledSince time.Time // the first of these; zero: none
	StartedAt      time.Time // of the first attempt; zero: the request wasn't sent
	EndedAt        time.Time // of the last attempt
}

// News is the progress of a batch.
type News struct {
	ID        BatchID
	Status    batch.Status
	Completed int        // requests that were executed
	Results   int        // requests that have a result: executed ones, and those with their own reason for not being executed
	Waits     WaitReason // as Status.Wait
}

// GroupCounts are counts of a creator's batches in one group.
type GroupCounts struct {
	Queued, InProgress, Completed int // batches

	Requests    int // of all these batches
	Succeeded   int
	Failed      int
	InDoubt     int // of Failed
	NotExecuted int
}

// QueueState is the state of a queue.
type QueueState struct {
	Open        int       // unfinished batches, except quarantined ones
	Quarantined int       // quarantined batches
	Held        int       // batches in any state that haven't been purged
	Paused      bool      // no request starts until the queue is resumed
	NotBefore   time.Time // the time until which it was released; zero if there is none, and for a pause
	Wait        Wait      // what it waits for
}
