package storage

import (
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
)

// Filter selects batches of one creator. A batch must meet every condition that is set.
type Filter struct {
	Store   string
	Owner   batch.Owner
	Status  batch.Status // zero: any
	Open    bool         // only those that have not ended, in the order in which they run; otherwise newest first
	GroupID string       // empty: any
	From    time.Time    // created at this time or later; zero: any
	To      time.Time    // created before this time; zero: any
	Failed  bool         // only those that have ended and have a failed request
	InDoubt bool         // only those that have ended and have a request in doubt
	Code    int          // only those with a request that ended with an answer of this code; 0: any
	Path    string       // only those with a request whose path and query contain this text; empty: any
	Oldest  bool         // oldest first, as with Open; without a Status it has no effect
	After   BatchID      // only those after this one in that order; 0: from the beginning
	Limit   int          // maximum number of batches to return, at least 1
}

// Matches reports whether a batch meets the conditions that its summary can answer: all but Code,
// Path and After.
func (f *Filter) Matches(s *Summary) bool {
	return (f.Status == 0 || s.Status == f.Status) &&
		(!f.Open || s.Status != batch.Completed) &&
		(f.GroupID == "" || s.GroupID == f.GroupID) &&
		(f.From.IsZero() || !s.CreatedAt.Before(f.From)) &&
		(f.To.IsZero() || s.CreatedAt.Before(f.To)) &&
		(!f.Failed || s.Status == batch.Completed && s.Failed > 0) &&
		(!f.InDoubt || s.Status == batch.Completed && s.InDoubt > 0)
}

// ClockError is the largest error of a clock at which a search by time still finds every batch.
// Such a search reads batches in the order of their IDs, not of their times.
const ClockError = time.Hour

// Ends reports whether no batch after this one can match because all of them are older.
func (f *Filter) Ends(s *Summary) bool {
	return !f.Ascending() && !f.From.IsZero() && s.CreatedAt.Before(f.From.Add(-ClockError))
}

// Ascending reports whether the filter's order is that of the batches' IDs.
func (f *Filter) Ascending() bool { return f.Open || f.Oldest && f.Status != 0 }

// Look returns the maximum number of batches that one Find reads. The more a batch costs to check,
// the fewer it reads. If exact is set, the database reads only batches with the filter's Status.
// Without another condition, it then needs to read only one batch more than the limit.
func (f *Filter) Look(exact bool) int {
	switch {
	case f.Path != "":
		return 100
	case f.Code != 0:
		return 250
	case exact && f.GroupID == "" && f.From.IsZero() && f.To.IsZero() && !f.Failed && !f.InDoubt:
		return min(f.Limit+1, 1000)
	}
	return 1000
}

// Page is the result of one Find.
type Page struct {
	Batches []Summary
	Next    BatchID // the After of the next page; 0: there are no more
}

// Summary is a batch as a list shows it.
type Summary struct {
	ID          BatchID
	Ticket      batch.Ticket
	GroupID     string
	Status      batch.Status
	Total       int
	Completed   int // requests that were executed, whether they succeeded or failed
	Failed      int // of Completed; 0 for a batch that ended before failures were counted
	InDoubt     int // of Failed
	CreatedAt   time.Time
	StartedAt   time.Time    // zero: not started
	EndedAt     time.Time    // zero: not ended
	RetryOf     batch.Ticket // zero: none
	Retried     bool         // another batch repeats the failed requests of this one
	Paused      bool         // the batch itself is paused; its queue may be, too
	Quarantined bool         // see Quarantine
}
