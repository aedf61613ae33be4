// Package storage defines what the service needs from a database: the types, the errors and
// the contract.
//
// The contract has two parts. This comment describes what holds for every method. The comments of
// the small interfaces describe what each method does: Batches and Reader for callers, Queues and
// Runs for the engine, Callbacks for deliveries, Pacing, Outages and Credentials for the governor,
// Secrets and Operations for the service itself. Packages that use a database declare the part that
// they need. Only the databases, their decorators and the conformance suite (storagetest) use all
// of it, Storage.
//
// # The contract
//
// Durability: when a method that changes something returns nil, the change survives the death of
// the process and of the machine. When it returns an error other than the documented ones, the
// change may or may not be stored. Every method except Reserve can be called again with the same
// arguments. If the first call was stored, the second one changes nothing more.
//
// Order: the batches of a queue are ordered by when their Creates became durable. A Create that
// began after another Create for the same queue returned comes after it. There is no order between
// queues.
//
// Ownership: one node at a time runs a queue. A Storage value is one node. Claim gives the queue to
// the node under an epoch that is larger than every earlier epoch of that queue. Record, Finish and
// Release apply only while that epoch is the queue's newest, which they check in the same
// transaction. Otherwise they change nothing and return ErrNotOwner.
//
// Epochs protect the database, but not the upstream, because a request that has left can't be
// recalled. So a node must know that it still owns the queue that it sends for. Authorize and
// Authorized decide this by the node's own clock. They refuse before the database lets another node
// take over the queue. A node that was considered dead never gets its claims back. What it records
// for them still counts until another node claims the queue.
//
// Clocks: times are by the node's own clock. If the clocks of nodes differ, the database translates
// between theirs and its own. A clock may be set at any time, and may have been wrong when a time
// was stored, so every stored time has a limit:
//
//   - A hold ends at most HoldLimit from now, and at most as long from now as it was meant to
//     last when it was stored.
//   - The schedule of Reserve reaches at most as far ahead as when it was last extended.
//   - A batch with a deduplication key that was created in the future counts as created when
//     the key is next used. Setting a clock forward while the node runs shortens no DedupWindow.
//   - The next time and the lease of a delivery are at most DeliveryLimit from now, and at
//     most as far ahead as when they were stored.
//   - A batch that ended in the future counts as ended at the next Purge.
//   - The caller limits the times of Release and of a Waiting mark. Forever is a pause and
//     stays one.
//   - Ownership does not depend on the wall clock at all.
//   - Other times (created, started, ended, renewed) are only shown to people.
//
// Fairness: calls that wait for the database have classes. Results of running batches go first,
// then claims and the service's own work, then callers' changes, then callers' reads. A lower class
// never takes the last connection from a higher one. Within a class, stores take turns, and within
// a store, its owners. A read that takes longer than a few seconds ends with an error.
//
// Bytes: request ids, group ids, lines, reasons and setting values may contain NUL; queue names may
// contain any bytes. Times are stored in milliseconds.
//
// Concurrency: all methods are safe for concurrent use. A call whose context ends returns early
// with the context's error. As above, its change may or may not be stored.
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
	Outages
	Credentials
	Secrets
	Operations
}

// Errors with a meaning of their own. Each of them guarantees that nothing changed.
var (
	// ErrNotFound: the store and owner have no such batch. The error doesn't reveal whether the
	// batch is unknown, deleted, or someone else's.
	ErrNotFound = errors.New("no such batch")
	// ErrNotOwner: the queue is claimed by another node, or under a newer epoch.
	ErrNotOwner = errors.New("the queue is owned elsewhere")
	// ErrNothing: the queue has no batch to run.
	ErrNothing = errors.New("the queue has no open batch")
	// ErrTooManyCalls: too many calls of this owner, or of this store, are waiting already. Every
	// method that is called for a caller may return it.
	ErrTooManyCalls = errors.New("too many calls of this caller wait for the database")
	// ErrBusy: the calls of other callers kept the database busy until this call timed out. Every
	// method that is called for a caller may return it.
	ErrBusy = errors.New("the database is busy with other calls")
)

// Certain reports whether an error is one of this package. Such an error describes a known state in
// which nothing changed. The same call would return it again, so don't retry, except after
// ErrTooManyCalls and ErrBusy, which only callers' calls return.
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

// DamagedError means that the stored form of a batch can't be read. Nothing changed.
type DamagedError struct{ Err error }

func (e *DamagedError) Error() string {
	return "what is stored of the batch can't be read: " + e.Err.Error()
}

// Unwrap returns what is wrong.
func (e *DamagedError) Unwrap() error { return e.Err }

// RefusedError means that the database answered, but refused the call because of its content.
// Nothing changed, and the same call would probably be refused again. A database that is down, full
// or busy doesn't return it.
type RefusedError struct{ Err error }

func (e *RefusedError) Error() string { return e.Err.Error() }

// Unwrap returns the database's error.
func (e *RefusedError) Unwrap() error { return e.Err }

// Refused reports whether an error is a RefusedError.
func Refused(err error) bool {
	_, ok := errors.AsType[*RefusedError](err)
	return ok
}

// QueueID identifies a queue within one database. IDs are never reused.
type QueueID int64

// BatchID identifies a batch within one database. Within a queue, a later batch has a larger ID.
// IDs are never reused.
type BatchID int64

// Key identifies a batch by its creator and ticket. All three fields must match.
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

// Secrets helps the service with the key that credentials are sealed with.
type Secrets interface {
	// Seals returns the distinct values of the first n bytes of the credentials of all unfinished
	// batches. In these bytes, the sealer records which key it used.
	Seals(ctx context.Context, n int) ([][]byte, error)

	// Abandon ends every unfinished batch for the given reason and returns how many it ended.
	// Requests in flight are recorded as failed and in doubt, with the result inDoubt. Waiting
	// requests end with their last answer, or as not executed if they have none. Abandon must be
	// called before any batch is claimed.
	Abandon(ctx context.Context, inDoubt batch.Result, reason string) (int, error)

	// Setting returns a named value, or the empty string if there is none. PutSetting stores it.
	Setting(ctx context.Context, name string) (string, error)
	PutSetting(ctx context.Context, name, value string) error

	// InitSetting stores a value, which must not be empty, unless the name already has one. It
	// returns the stored value. All nodes that start at once get the same value.
	InitSetting(ctx context.Context, name, value string) (string, error)
}
