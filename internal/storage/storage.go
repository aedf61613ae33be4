// Package storage defines what the service needs from a database: the types, the errors and
// the contract.
//
// The contract has two parts. This comment holds what is true for every method. The comments of
// the small interfaces hold what each method does: Batches and Reader for callers, Queues and
// Runs for the engine, Callbacks for deliveries, Pacing for the governor, Secrets and Operations
// for the service itself. Packages that use a database declare the part that they need. Only the
// databases, their decorators and the conformance suite (storagetest) know the sum, Storage.
//
// # The contract
//
// Durability: when a method that changes something returns nil, the change survives the death of
// the process and of the machine. When it returns an error other than the documented ones, the
// change may or may not be stored. Every method can be called again with the same arguments, and
// a second call after a stored first one changes nothing more. Reserve is the exception.
//
// Order: the batches of one queue have the order in which their Creates became durable. A Create
// that began after another Create of the same queue returned comes after it. There is no order
// between queues.
//
// Ownership: one node at a time runs a queue. A Storage value is one node. Claim gives the queue
// to the node under an epoch that is larger than every earlier epoch of that queue. Record,
// Finish and Release apply only while that epoch is the queue's newest. They check this in the
// same transaction. Otherwise they change nothing and return ErrNotOwner.
//
// Epochs protect the database, not the upstream, because a request that has left can't be
// recalled. So a node must know that it still owns the queue it sends for. Authorize and
// Authorized answer that by the node's own clock, and they stop agreeing before the database lets
// another node take the queue over. A node that was taken for dead never gets its claims back.
// What it records for them still counts until another node claims the queue.
//
// Clocks: moments are the node's own. Where the clocks of nodes differ, the database translates
// between theirs and its own. A clock may be set at any time, and may have been wrong when a
// moment was stored, so every stored moment has a limit:
//
//   - A hold ends at most HoldLimit from now, and at most as long from now as it was meant to
//     last when it was stored.
//   - The schedule of Reserve reaches at most as far ahead as when it was last extended.
//   - A batch with a deduplication key that was created in the future counts as created when
//     the key is next used. Setting a clock forward while the node runs shortens no DedupWindow.
//   - The next moment and the lease of a delivery are at most DeliveryLimit from now, and at
//     most as far ahead as when they were stored.
//   - A batch that ended in the future counts as ended at the next Purge.
//   - The caller limits the moments of Release and of a Waiting mark. Forever is a pause and
//     stays one.
//   - Ownership does not depend on the wall clock at all.
//   - Other moments (created, started, ended, renewed) are only shown to people.
//
// Fairness: calls that wait for the database have classes. Results of running batches go first,
// then claims and the service's own work, then callers' changes, then callers' reads. A lower
// class never takes the last connection from a higher one. Within a class stores take turns, and
// within a store its owners. A read that takes longer than some seconds ends with an error.
//
// Bytes: request ids, group ids, lines, reasons and setting values may hold NUL, and queue names
// any bytes. Moments are kept in milliseconds.
//
// Concurrency: every method may be called from many goroutines at once. A call whose context ends
// returns early with the context's error. Whether its change was stored is then unknown, as above.
package storage

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"

	"github.com/sheafapi/sheaf/internal/batch"
)

// Storage is one node's access to the database: the sum of the contract. A package that uses a
// database declares the methods that it needs and doesn't use Storage.
type Storage interface {
	Batches
	Reader
	Queues
	Runs
	Callbacks
	Pacing
	Secrets
	Operations
}

// Errors with a meaning of their own. With each of them it is certain that nothing changed.
var (
	// ErrNotFound: the store and owner have no such batch. Unknown, foreign and deleted
	// batches are alike.
	ErrNotFound = errors.New("no such batch")
	// ErrNotOwner: the queue is claimed by another node, or under a newer epoch.
	ErrNotOwner = errors.New("the queue is owned elsewhere")
	// ErrNothing: the queue has no batch that could run.
	ErrNothing = errors.New("the queue has no open batch")
	// ErrTooManyCalls: the waiting line of this owner, or of this store, is full. Every
	// method that is called for a caller may return it.
	ErrTooManyCalls = errors.New("too many calls of this caller wait for the database")
	// ErrBusy: calls of other callers kept the database busy until this call's time was up.
	// Every method that is called for a caller may return it.
	ErrBusy = errors.New("the database is busy with other calls")
)

// Certain reports whether an error is one of this package. Such an error describes a known state
// in which nothing changed. The same call would return it again, so there is no point in a
// retry, except after ErrTooManyCalls and ErrBusy, which only callers' calls return.
func Certain(err error) bool {
	_, full := errors.AsType[*QuotaError](err)
	_, damaged := errors.AsType[*DamagedError](err)
	return full || damaged || errors.Is(err, ErrNotFound) || errors.Is(err, ErrNotOwner) || errors.Is(err, ErrNothing) ||
		errors.Is(err, ErrTooManyCalls) || errors.Is(err, ErrBusy)
}

// QuotaError is returned by Create when the queue is full. Nothing was stored.
type QuotaError struct {
	Limit int   // unfinished batches that the queue may hold; 0: this limit wasn't reached
	Bytes int64 // bytes that the queue's batches may take; 0: this limit wasn't reached
}

func (e *QuotaError) Error() string {
	if e.Limit == 0 {
		return fmt.Sprintf("the queue's batches would take more than %d bytes", e.Bytes)
	}
	return fmt.Sprintf("the queue already holds %d unfinished batches", e.Limit)
}

// DamagedError says that the stored form of a batch can't be read. Nothing changed.
type DamagedError struct{ Err error }

func (e *DamagedError) Error() string {
	return "what is stored of the batch can't be read: " + e.Err.Error()
}

// Unwrap returns what is wrong.
func (e *DamagedError) Unwrap() error { return e.Err }

// RefusedError says that the database answered and refused the call because of its content.
// Nothing changed, and the same call is likely to be refused again. A database that is down,
// full or busy doesn't return it.
type RefusedError struct{ Err error }

func (e *RefusedError) Error() string { return e.Err.Error() }

// Unwrap returns the database's error.
func (e *RefusedError) Unwrap() error { return e.Err }

// Refused reports whether an error is a RefusedError.
func Refused(err error) bool {
	_, ok := errors.AsType[*RefusedError](err)
	return ok
}

// QueueID names a queue inside one database. IDs are never reused.
type QueueID int64

// BatchID names a batch inside one database. Within a queue a later batch has a larger one. IDs
// are never reused.
type BatchID int64

// Key names a batch as its creator does. All three fields must match.
type Key struct {
	Store  string
	Owner  batch.Owner
	Ticket batch.Ticket
}

// Covers reports whether the key names a batch of this store and owner. It compares the owner's
// hash in constant time.
func (k *Key) Covers(store string, owner []byte) bool {
	same := subtle.ConstantTimeCompare(k.Owner[:], owner) == 1
	return store == k.Store && same
}

// Secrets guards the key that credentials are sealed with.
type Secrets interface {
	// Seals returns the distinct first n bytes of the credentials of all batches that have
	// not ended. The sealer marks there which key it used.
	Seals(ctx context.Context, n int) ([][]byte, error)

	// Abandon ends every unfinished batch for the given reason and returns how many it ended.
	// Requests in flight are recorded as failed and in doubt, with the result inDoubt. Waiting
	// requests end with their last answer, or as not executed if they have none. Abandon must
	// be called before anything is claimed.
	Abandon(ctx context.Context, inDoubt batch.Result, reason string) (int, error)

	// Setting returns a named value, empty if there is none. PutSetting stores it.
	Setting(ctx context.Context, name string) (string, error)
	PutSetting(ctx context.Context, name, value string) error

	// InitSetting stores a value that is not empty under a name that has none yet, and
	// returns the stored value. Of many nodes that start at once, all get the same.
	InitSetting(ctx context.Context, name, value string) (string, error)
}
