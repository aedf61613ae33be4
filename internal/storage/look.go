package storage

import (
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
)

// Filter selects batches of one creator by what is known of them. Every condition that is
// set has to hold.
type Filter struct {
	Store   string
	Owner   batch.Owner
	Status  batch.Status // zero: any
	Open    bool         // only those that have not ended, and in the order in which they run; else newest first
	GroupID string       // empty: any
	From    time.Time    // created at this moment or later; zero: any
	To      time.Time    // created before this moment; zero: any
	Failed  bool         // only those that have ended, and of which a request failed
	InDoubt bool         // only those that have ended and have a request in doubt
	Code    int          // only those of which a request's end was an answer with this code; 0: any
	Path    string       // only those of which a request's path and query holds this text; empty: any
	After   BatchID      // only those behind this one in the order; 0: from its beginning
	Limit   int          // at most so many, from 1
}

// Matches reports whether a batch meets the conditions that its summary tells of: all but
// Code, Path and After.
func (f *Filter) Matches(s *Summary) bool {
	return (f.Status == 0 || s.Status == f.Status) &&
		(!f.Open || s.Status != batch.Completed) &&
		(f.GroupID == "" || s.GroupID == f.GroupID) &&
		(f.From.IsZero() || !s.CreatedAt.Before(f.From)) &&
		(f.To.IsZero() || s.CreatedAt.Before(f.To)) &&
		(!f.Failed || s.Status == batch.Completed && s.Failed > 0) &&
		(!f.InDoubt || s.Status == batch.Completed && s.InDoubt > 0)
}

// ClockError is by how much clocks may have been wrong without a search by time missing
// something: batches are looked through by their order, not by their moments.
const ClockError = time.Hour

// Ends reports whether nothing behind this batch can match any more, as all that follow
// are older.
func (f *Filter) Ends(s *Summary) bool {
	return !f.Open && !f.From.IsZero() && s.CreatedAt.Before(f.From.Add(-ClockError))
}

// Look is how many batches one Find looks at, at most: fewer where each costs more.
func (f *Filter) Look() int {
	switch {
	case f.Path != "":
		return 100
	case f.Code != 0:
		return 250
	}
	return 1000
}

// Page is what one Find has found.
type Page struct {
	Batches []Summary
	Next    BatchID // what After has to be to go on; 0: there is no more
}

// Summary is a batch as a list shows it.
type Summary struct {
	ID          BatchID
	Ticket      batch.Ticket
	GroupID     string
	Status      batch.Status
	Total       int
	Completed   int // requests that ran to an end, well or badly
	Failed      int // of them; of a batch that ended before failures were counted: 0
	InDoubt     int // of Failed
	CreatedAt   time.Time
	StartedAt   time.Time    // zero: not started
	EndedAt     time.Time    // zero: not ended
	RetryOf     batch.Ticket // zero: none
	Retried     bool         // another batch repeats what failed of this one
	Paused      bool         // the batch is kept from going on, apart from its queue
	Quarantined bool         // it was set aside
}

// QueueState is how things stand with a queue.
type QueueState struct {
	Open        int       // unfinished batches, without those that were set aside
	Quarantined int       // batches that were set aside
	Held        int       // batches of any state that were not purged yet
	Paused      bool      // it is kept from going on
	NotBefore   time.Time // it was released until then; zero: it was not, or for a pause
}

// Node is a node that is alive.
type Node struct {
	Name      string // what its connections to the database are called; of an embedded database: empty
	Self      bool   // the one that was asked
	StartedAt time.Time
	RenewedAt time.Time // when it last said that it lives; zero: it need not
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

// Overview is how things stand with the whole database.
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
