// Package storage defines what the service asks of a database.
//
// # The contract
//
// Durability: when a method that changes something returns nil, the change
// survives the death of the process and of the machine. When it returns an error
// other than the ones documented below, the change may or may not be stored;
// every method can be called again with the same arguments, and a second call
// after a stored first one changes nothing more.
//
// Order: the batches of one queue have the order in which their Creates became
// durable. A Create that began after another Create of the same queue returned
// comes after it. Queues have no order among each other.
//
// Ownership: a queue is run by one node at a time. A Storage value is one node.
// Claim gives the queue to the node under an epoch that is larger than every
// earlier one of that queue. Record, Finish and Release apply only while that
// epoch is the queue's newest, checked in the same transaction, and return
// ErrNotOwner otherwise, having changed nothing.
//
// Epochs protect the database, not the upstream: what a node sends they can't call
// back. So a node has to know that it still owns what it sends for. Authorize and
// Authorized tell, by the node's own clock and earlier than the database lets
// another node take the queue over. A node that was taken for dead never gets its
// claims back; what it records for them still counts until another node claims the
// queue.
//
// Clocks: moments are the node's own. Where nodes have clocks that differ, Storage
// translates between theirs and the database's. A clock may be set at any time, and may have
// been wrong when a moment was stored, so every stored moment has a limit:
//
//   - A hold ends at most HoldLimit from now, and at most as long from now as it was to last
//     when it was stored.
//   - The schedule of Reserve lies at most as far ahead as when it was extended last.
//   - A batch with a deduplication key that was created in the future counts as created when
//     the key is used next. A clock that is set forward while the node runs shortens no
//     DedupWindow.
//   - A delivery's next moment, and its lease, lie at most DeliveryLimit from now, and at most
//     as far ahead as when they were stored.
//   - A batch that ended in the future counts as ended at the next Purge.
//   - The moments of Release and of a Waiting mark are the caller's to limit. Forever is
//     a pause and stays one.
//   - Ownership does not depend on the wall clock at all.
//   - Other moments (created, started, ended, renewed) are for people.
//
// Fairness: calls that wait for the database have classes. Results of running batches go
// first, then claims and the service's own work, then what callers change, then what
// callers read; a lower class never takes the last connection from a higher one. Within
// a class stores take turns, and within a store its owners. A read that takes longer than
// some seconds is ended with an error.
//
// Bytes: request ids, group ids, lines, reasons and setting values may hold NUL, and
// queue names any bytes. Moments are kept in milliseconds.
//
// Concurrency: every method may be called from many goroutines at once. A call
// whose context ends returns early with the context's error; whether it was
// stored is then unknown, as above.
package storage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/sheafapi/sheaf/internal/batch"
)

// Errors with a meaning of their own. They say for certain that nothing changed.
var (
	// ErrNotFound: there is no such batch for this store and owner. Unknown,
	// foreign and deleted batches are alike.
	ErrNotFound = errors.New("no such batch")
	// ErrNotOwner: the queue is claimed by another node, or under a newer epoch.
	ErrNotOwner = errors.New("the queue is owned elsewhere")
	// ErrNothing: the queue has no batch that could run.
	ErrNothing = errors.New("the queue has no open batch")
	// ErrTooManyCalls: as many calls of this owner, or of this store, wait for their turn
	// as may. Every method that is called for a caller may return it.
	ErrTooManyCalls = errors.New("too many calls of this caller wait for the database")
	// ErrBusy: the database had no turn for the call in time, because calls of other
	// callers keep it busy. Every method that is called for a caller may return it.
	ErrBusy = errors.New("the database is busy with other calls")
)

// Certain reports whether an error is one of this package, which says how things are and
// that nothing changed. Except for ErrTooManyCalls and ErrBusy, which only callers' calls
// return, the same call would return it again, so nobody repeats it.
func Certain(err error) bool {
	_, full := errors.AsType[*QuotaError](err)
	_, damaged := errors.AsType[*DamagedError](err)
	return full || damaged || errors.Is(err, ErrNotFound) || errors.Is(err, ErrNotOwner) || errors.Is(err, ErrNothing) ||
		errors.Is(err, ErrTooManyCalls) || errors.Is(err, ErrBusy)
}

// QuotaError is returned by Create when the queue is full. Nothing was stored.
type QuotaError struct {
	Limit int   // unfinished batches that the queue may hold; 0: these are not the reason
	Bytes int64 // bytes that the queue's batches may take; 0: these are not the reason
}

func (e *QuotaError) Error() string {
	if e.Limit == 0 {
		return fmt.Sprintf("the queue's batches would take more than %d bytes", e.Bytes)
	}
	return fmt.Sprintf("the queue already holds %d unfinished batches", e.Limit)
}

// QueueID names a queue inside one database. IDs are never used twice.
type QueueID int64

// BatchID names a batch inside one database; within a queue a later batch has
// a larger one. IDs are never used twice.
type BatchID int64

// Key names a batch the way its creator does. All three have to match.
type Key struct {
	Store  string
	Owner  batch.Owner
	Ticket batch.Ticket
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
	Callback   string          // where its end is told; empty: nowhere
	RetryOf    batch.Ticket    // the batch of which this one repeats what failed; zero: none
	Once       bool            // with RetryOf: also a batch that has ended counts as the repetition
	Trace      string          // what a trace goes on from, in ASCII; empty: there is none
}

// What a batch takes, in bytes, for QuotaBytes: its requests as Pack returns them
// and, once it has ended, the bodies of its results. It counts until it is purged.

// DedupWindow is how long a deduplication key leads to the batch that it
// created first.
const DedupWindow = time.Hour

// Created is the outcome of Create.
type Created struct {
	Ticket    batch.Ticket // the new batch's, or the earlier one's
	Queue     QueueID
	Duplicate bool // the deduplication key led to an earlier batch; nothing was stored
}

// Status is a batch as its creator may see it, at one moment.
type Status struct {
	ID          BatchID
	Ticket      batch.Ticket
	GroupID     string
	Status      batch.Status
	Total       int
	Completed   int // requests that ran to an end, well or badly
	Failed      int // of Completed
	InDoubt     int // of Failed
	CreatedAt   time.Time
	StartedAt   time.Time // zero: not started
	EndedAt     time.Time // zero: not ended
	RetryOf     batch.Ticket
	Paused      bool      // the batch is kept from going on, or its queue is
	NotBefore   time.Time // its queue was released until then; zero: it was not, or for a pause, or the batch has ended
	Reason      string    // why what was not executed was not, where there is more to say than "stopped"; or why it was set aside
	Quarantined time.Time // when the batch was set aside; zero: it is not
	IDs         []string  // the requests' ids, by index; nil when none has one
	Ended       batch.Set // requests that have a result; filled only when results were asked for
	Results     []Indexed // the first results, see Storage.Status
}

// Indexed is a result with its request's place in the batch.
type Indexed struct {
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
	Completed int // requests that ran to an end
	Results   int // requests that have a result: these, and those that were not executed for a reason of their own
}

// Search selects batches of one creator.
type Search struct {
	Store  string
	Owner  batch.Owner
	Status batch.Status // zero: any, newest first
	Limit  int
	Offset int
}

// Found is one batch that a search found.
type Found struct {
	Ticket      batch.Ticket
	Status      batch.Status
	Quarantined bool // it was set aside
}

// Selection names the batches to stop: by ticket, by group, or by ticket with
// the group that it has to be in.
type Selection struct {
	Store   string
	Owner   batch.Owner
	Ticket  batch.Ticket // zero: every batch of the group
	GroupID string       // empty: not looked at
}

// Stopped is the outcome of Stop.
type Stopped struct {
	Count  int       // unfinished batches that this call stopped
	Queues []QueueID // where a batch may be under way, so that its runner can be told
}

// Pausing names a batch by its ticket, or a whole queue by its name, and says whether it is
// to pause or to go on.
type Pausing struct {
	Key           // the zero ticket: the queue
	Queue  string // its name
	Paused bool
}

// Forever is the moment that a paused batch is released until.
var Forever = time.UnixMilli(1 << 47)

// GroupCounts are counts over a creator's batches of one group.
type GroupCounts struct {
	Queued, InProgress, Completed int // batches

	Requests    int // of all of them
	Succeeded   int
	Failed      int
	InDoubt     int // of Failed
	NotExecuted int
}

// DeliveryState is what became of telling the end of a batch.
type DeliveryState uint8

// The states of a delivery.
const (
	Pending   DeliveryState = iota + 1 // to be tried at NextAt
	Delivered                          // the receiver has taken it
	GivenUp                            // it is tried no more
)

// Delivery is the telling of a batch's end to its callback. It is made in the transaction
// that ends the batch, and is gone with it.
type Delivery struct {
	ID        int64
	Ticket    batch.Ticket
	Store     string
	GroupID   string
	URL       string
	Host      string // the URL's, with its port, in lower case
	State     DeliveryState
	Attempts  int // that were made, or begun
	NextAt    time.Time
	CreatedAt time.Time // when the batch ended
	Code      int       // of the last answer; 0: there was none
	Problem   string    // why the last attempt failed; empty: it did not
	Spared    bool      // for PutDelivery: the attempt was not made and does not count

	Total, Completed, Failed, InDoubt int // of the batch's requests
}

// Lane is the deliveries of one store to one host. As a part of Due.Busy, an empty store or
// host stands for all.
type Lane struct{ Store, Host string }

// Covers reports whether a lane is one that l stands for.
func (l Lane) Covers(lane Lane) bool {
	return (l.Store == "" || l.Store == lane.Store) && (l.Host == "" || l.Host == lane.Host)
}

// Compare orders lanes by store and host.
func (l Lane) Compare(m Lane) int {
	return cmp.Or(strings.Compare(l.Store, m.Store), strings.Compare(l.Host, m.Host))
}

// Due asks for deliveries whose moment has come.
type Due struct {
	Limit int
	Lease time.Duration // how long nobody else takes them
	After Lane          // lanes after this one, in the database's order of lanes
	Busy  []Lane        // lanes that nothing is wanted of
}

// DeliverySearch selects deliveries of one creator, newest first.
type DeliverySearch struct {
	Store  string
	Owner  batch.Owner
	Ticket batch.Ticket // zero: of all batches
	After  int64        // only those behind the one with this ID; 0: from the newest
	Limit  int
	Offset int
}

// Before returns the ID that all deliveries of the page are below.
func (s *DeliverySearch) Before() int64 {
	if s.After == 0 {
		return math.MaxInt64
	}
	return s.After
}

// MarkState is how far a request has come.
type MarkState uint8

// The states of a request that has left a mark. One without a mark was never
// sent.
const (
	Begun   MarkState = iota + 1 // may have been sent: the intent, durable before the request left
	Waiting                      // was answered (or failed) and is to be sent again, not before a moment
	Done                         // ended
)

// Mark is what is durable about one request of a running batch. A batch has at most one mark
// for each request; a later one replaces it. But where the later one's Result has no status,
// the stored answer stays: an answer may be large, and whoever sends a request again, or ends
// it with the answer that it has, need not have it in memory.
type Mark struct {
	Index     int
	State     MarkState
	Tries     Tries
	NotBefore time.Time    // Waiting: the moment of the next attempt. Done: when the last attempt began; zero: that is unknown
	Result    batch.Result // Done: the end. Waiting: the last answer. Begun: none. Load and Marks leave bodies and headers out
}

// Tries counts what was done for one request so far.
type Tries struct {
	Attempts       int       // times that it was sent, or may have been
	Retries        int       // attempts that failed and were followed by another
	Throttles      int       // answers 429
	ThrottledSince time.Time // the first 429; zero: none
	MaybeDone      bool      // an earlier attempt may have taken effect
	InDoubt        bool      // it is unknown whether an attempt was carried out, and no later answer shows it
	StartedAt      time.Time // the first attempt
	EndedAt        time.Time // the end of the last attempt
}

// Signals is what a creator asked for while a batch was running.
type Signals struct {
	Stopped bool // start nothing more, then finish
	Deleted bool // as Stopped; the results will not be read
	Paused  bool // start nothing more, and release it until Forever; not with Stopped
}

// Claim is the right to run a queue, with its oldest open batch. Recovery after a crash is
// the same call. A claim is small: Load reads what may be large, after the caller has made
// room for it. A claim is used by one goroutine at a time, except by Authorized.
type Claim struct {
	Queue      QueueID
	Epoch      int64 // Storage may raise it, to shut out what an unanswered call may still do
	Lease      int64 // Storage's own: under which of the node's registrations it was made
	ID         BatchID
	Ticket     batch.Ticket
	Store      string
	Owner      batch.Owner
	GroupID    string
	Options    batch.Options
	Credential []byte // sealed; empty: it was abandoned
	CreatedAt  time.Time
	StartedAt  time.Time // when it was claimed first
	Trace      string    // as it was created with
	Signals    Signals

	Total  int   // requests of the batch
	Bytes  int64 // that its requests take when they are loaded
	Marked bool  // there may be marks

	// Attempts counts this claim and those before it that a node's death has ended, since the
	// batch's last progress. A batch with more than MaxAttempts is not to be loaded.
	Attempts int

	// Filled in by Load:
	Requests []batch.Request
	Marks    []Mark // by index, without bodies and headers

	Packed []byte // Storage's own: the requests as they are stored, if they are few bytes; nil once they are loaded
}

// HoldLimit is the longest time for which a credential is held back.
const HoldLimit = 5 * time.Minute

// DeliveryLimit is longer than any pause between two attempts of a delivery.
const DeliveryLimit = 12 * time.Hour

// Hold is a moment before which nothing of a store may be sent with an upstream credential.
type Hold struct {
	Credential batch.Owner // the credential's SHA-256
	Store      string
	Until      time.Time
}

// Runnable is a queue that has work and no live owner.
type Runnable struct {
	Queue     QueueID
	NotBefore time.Time // zero: now
}

// Storage is one node's access to the database.
type Storage interface {
	// Create stores a batch at the end of its queue. The deduplication key is
	// looked up first, before the quota, for the same store and owner, in the
	// same transaction: of two Creates at once, the later one returns the
	// earlier one's ticket, after that is durable. The key is free again after
	// DedupWindow and when the batch is deleted. A batch with RetryOf leads likewise to
	// an unfinished one of the same creator with the same RetryOf, with Once to one of any state. A Create with a ticket that is
	// stored already is the repetition of a call and stores nothing.
	// Errors: *QuotaError.
	Create(ctx context.Context, b *NewBatch) (Created, error)

	// Status returns a batch and, if maxBytes is positive, its first results in
	// request order: as many as maxBytes of bodies allow, and at least one if
	// there is any. Later ones are read with Results. Errors: ErrNotFound.
	Status(ctx context.Context, key Key, maxBytes int) (*Status, error)

	// Results returns results of a batch in request order, beginning at index
	// from, bounded like those of Status. Errors: ErrNotFound if the batch is gone.
	Results(ctx context.Context, id BatchID, from, maxBytes int) ([]Indexed, error)

	// Marks returns what is recorded of a batch's requests, by index, without the bodies and
	// headers of answers. Errors: ErrNotFound if the batch is gone.
	Marks(ctx context.Context, id BatchID) ([]Mark, error)

	// Requests returns a batch's requests and options. Errors: ErrNotFound if the batch is gone.
	Requests(ctx context.Context, id BatchID) ([]batch.Request, batch.Options, error)

	// News returns how far batches have come, in any order; one that is gone is left out.
	News(ctx context.Context, ids []BatchID) ([]News, error)

	// Search returns a creator's batches of one status, oldest first; without one all of
	// them, newest first.
	Search(ctx context.Context, s Search) ([]Found, error)

	// Find returns batches that a filter selects. It does a bounded amount of work: a page
	// may hold fewer than the limit, even none, and there may be more all the same.
	Find(ctx context.Context, f Filter) (Page, error)

	// Queue returns how things stand with a queue, by its name; zero if there is none.
	Queue(ctx context.Context, name string) (QueueState, error)

	// Overview returns how things stand with the whole database, with at most so many
	// queues. It may take as long as counting the queues that have work.
	Overview(ctx context.Context, loads int) (Overview, error)

	// Size returns how many bytes the database takes, about. Space that purged batches have left
	// for later ones need not be counted. It is cheap enough to be called once a second.
	Size(ctx context.Context) (int64, error)

	// Unfinished returns the number of unfinished batches in the queues whose names begin with a
	// prefix, which is not empty. It takes as long as reading those queues.
	Unfinished(ctx context.Context, prefix string) (int, error)

	// Stop asks for the end of unfinished batches. One that no node has
	// started, or that was set aside, ends at once; any other is ended by its runner, and its queue is
	// runnable at once, whatever moment Release named.
	Stop(ctx context.Context, sel Selection) (Stopped, error)

	// Pause keeps a batch, or all of a queue, from starting anything more, or lets it go
	// on: its queue is runnable at once then. What is under way ends. A batch that has
	// ended or was stopped is left as it is. The count is 1 if that changed something,
	// and the queue is where. A queue that has no batches can be paused too.
	// Errors: ErrNotFound, of a ticket.
	Pause(ctx context.Context, p Pausing) (Stopped, error)

	// DueDeliveries takes pending deliveries whose moment has come. They count one attempt more,
	// and their moment is lease later, so that somebody tries again if nobody stores their
	// outcome. No two of one call are of the same store or to the same host, so that however
	// many there are in a lane, the others get their turn. It looks at a bounded number of
	// lanes and returns where the next call goes on; the zero lane: at the beginning.
	DueDeliveries(ctx context.Context, q Due) (due []Delivery, next Lane, err error)

	// PutDelivery stores the state, next moment, code and problem of a delivery after its
	// attempt with that number. A later attempt's, or one that was sent again meanwhile, stays.
	// A spared attempt is taken back: only the state and the next moment are stored.
	PutDelivery(ctx context.Context, d *Delivery) error

	// Deliveries lists deliveries.
	Deliveries(ctx context.Context, s DeliverySearch) ([]Delivery, error)

	// Redeliver makes the delivery of a creator's batch pending again, at once and as if
	// it had never been tried. Errors: ErrNotFound.
	Redeliver(ctx context.Context, key Key) error

	// Group counts over all batches of a creator's group that are still there.
	Group(ctx context.Context, store string, owner batch.Owner, group string) (GroupCounts, error)

	// Delete stops a batch as Stop does, whatever its state, and hides it: from
	// now on it is not found, and its deduplication key is free. Purge removes the
	// rest once it has ended. The queue is where it may be under way.
	// Errors: ErrNotFound.
	Delete(ctx context.Context, key Key) (QueueID, error)

	// Runnable lists queues, with IDs above after and in their order, that have
	// an open batch and no live owner.
	Runnable(ctx context.Context, after QueueID, limit int) ([]Runnable, error)

	// Claim takes the queue and marks its oldest open batch as started. A node
	// may claim a queue that it owns already; the earlier claim is void then.
	// The moment that Release named is ignored: the caller decides.
	// Errors: ErrNotOwner (another live node has it), ErrNothing.
	Claim(ctx context.Context, q QueueID) (*Claim, error)

	// Load fills in the requests and the marks of a claim. It takes about as much memory as
	// the claim's Bytes and Total say. It can be called again.
	// Errors: ErrNotOwner, if the batch was ended since under a newer claim, and purged.
	Load(ctx context.Context, c *Claim) error

	// Record makes marks durable, in their order, and tells what the creator asked
	// for meanwhile. When it fails, a first part of them may be durable. Without marks it only tells. A Done mark is final: a later
	// one for the same request is ignored, here and in Finish and Release.
	// Errors: ErrNotOwner.
	Record(ctx context.Context, c *Claim, marks []Mark) (Signals, error)

	// Finish records marks, ends the batch (requests without a Done mark were
	// not executed, for the given reason, which may be empty), removes its
	// credential, and claims the queue's next open batch under the same epoch.
	// If there is none, or release is set, it gives the queue up and returns
	// nil. A batch that has ended already, or was purged since, is left as it is.
	// Errors: ErrNotOwner.
	Finish(ctx context.Context, c *Claim, marks []Mark, reason string, release bool) (*Claim, error)

	// Release records marks and gives the queue up with its batch unfinished. The claim is not
	// one of the batch's Attempts any more.
	// It becomes runnable again at the given moment; zero, or where its batch was
	// stopped, or until Forever and is not paused any more: at once.
	// Errors: ErrNotOwner.
	Release(ctx context.Context, c *Claim, marks []Mark, notBefore time.Time) error

	// Progress says that the batch gets on: its Attempts are 1 again.
	// Errors: ErrNotOwner.
	Progress(ctx context.Context, c *Claim) error

	// Quarantine sets the claim's batch aside for a reason and gives the queue up. A batch that
	// was stopped ends instead: a request in flight as batch.OutcomeUnknown, one that waits with
	// its last answer.
	// Errors: ErrNotOwner.
	Quarantine(ctx context.Context, c *Claim, reason string) error

	// Quarantined lists batches that were set aside, with IDs above after and in their order.
	Quarantined(ctx context.Context, after BatchID, limit int) ([]QuarantinedBatch, error)

	// Unquarantine makes a batch that was set aside one of its queue's open batches again, which
	// is runnable at once. With end it ends the batch instead, as Quarantine does with one that
	// was stopped. Errors: ErrNotFound, if no batch with this ticket is set aside.
	Unquarantine(ctx context.Context, ticket batch.Ticket, end bool) (QueueID, error)

	// Authorize returns nil when the node may send for the claim's queue. While that
	// is not certain it waits: because the database does not answer, for one.
	// Errors: ErrNotOwner, when the node was taken for dead since it made the claim;
	// it must start nothing more for it, and may record what was under way.
	Authorize(ctx context.Context, c *Claim) error

	// Authorized reports whether the node may send for the claim's queue at this very
	// moment. It asks nobody, takes well under a microsecond, and may be called
	// from many goroutines, whatever becomes of the claim.
	Authorized(c *Claim) bool

	// Offer tells the other nodes of a queue with work that this one does not run
	// now. It does not wait, and is a hint: it may be lost, as every node finds
	// the queue by Runnable later.
	Offer(q QueueID)

	// Watch calls wake for queues that other nodes offer, and notify for those that
	// this node owns and in which a batch was stopped or deleted through another node.
	// Both are hints, may come more than once, and must not block; a stop is told
	// within 2 s even where a hint was lost. It returns when ctx ends.
	Watch(ctx context.Context, wake, notify func(QueueID))

	// Abandon ends every batch that is unfinished, for the given reason:
	// requests in flight are recorded as failed and in doubt, with this result, those that wait
	// with their last answer; without one they were not executed. It returns how
	// many batches it ended. To be called before anything is claimed.
	Abandon(ctx context.Context, inDoubt batch.Result, reason string) (int, error)

	// Purge removes batches that ended longer than retention ago, whatever became of their
	// deliveries, or were deleted and have ended. It does a bounded amount of work in one
	// transaction and reports whether there is more to do.
	Purge(ctx context.Context, retention time.Duration) (more bool, err error)

	// Hold lets every node know that nothing of the store may be sent with the credential before
	// the moment. Of two, the later one counts. Holds lists those whose moment has not come.
	Hold(ctx context.Context, h Hold) error
	Holds(ctx context.Context) ([]Hold, error)

	// Reserve takes the next span of time in the schedule that all nodes keep of the
	// credential, and returns where it begins: not before now, and not before the end of
	// every span that was taken earlier. A span that is not used is lost. It is the one
	// method that does not do the same when it is called again: it takes another span.
	Reserve(ctx context.Context, credential batch.Owner, span time.Duration) (time.Time, error)

	// Seals returns the distinct first n bytes of the credentials of the batches that have
	// not ended: what they were sealed with, as the sealer marks it there.
	Seals(ctx context.Context, n int) ([][]byte, error)

	// Setting returns a named value, empty if there is none; PutSetting stores it.
	Setting(ctx context.Context, name string) (string, error)
	PutSetting(ctx context.Context, name, value string) error

	// InitSetting stores a value that is not empty under a name that has none yet, and
	// returns what is stored then: of many nodes that start at once, all get the same.
	InitSetting(ctx context.Context, name, value string) (string, error)

	// Ping reports whether the database answers, and whether it can be written to, judging by the
	// last changes. It changes nothing while the database works.
	Ping(ctx context.Context) error

	// Close gives up the node's queues and closes the database. Calls under way
	// end first; later ones fail.
	Close() error
}
