package storage

import (
	"errors"
	"fmt"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
)

// Quarantine
//
// A batch that can't be run is set aside: it is no longer one of its queue's open batches, so
// that the next one runs. Nothing of it is lost. It stays there until an operator releases or
// ends it, or until its creator stops or deletes it.
//
// Whether a batch kills the node that runs it shows in the number of its claims. A claim is
// counted in the transaction that makes it, before the batch's content is read, and taken
// back by Release. So Attempts counts the claims that a node's death ended. Progress sets it
// back to the claim under way.

// MaxAttempts is how many claims of a batch may end by a node's death, with no progress in
// between, before the batch is set aside.
const MaxAttempts = 5

// QuarantinedBatch is a batch that was set aside.
type QuarantinedBatch struct {
	ID        BatchID
	Ticket    batch.Ticket
	Store     string
	Queue     string // its queue's name
	GroupID   string
	Total     int // requests
	CreatedAt time.Time
	At        time.Time // when it was set aside
	Reason    string
}

// DamagedError says that what is stored of a batch can't be read. Nothing changed.
type DamagedError struct{ Err error }

func (e *DamagedError) Error() string {
	return "what is stored of the batch can't be read: " + e.Err.Error()
}

// Unwrap returns what is wrong.
func (e *DamagedError) Unwrap() error { return e.Err }

// RefusedError says that the database has answered and refuses what it was asked for. Nothing
// changed, and the same call is likely to be refused again. It is about the call's content:
// a database that is down, full or busy is no refusal.
type RefusedError struct{ Err error }

func (e *RefusedError) Error() string { return e.Err.Error() }

// Unwrap returns the database's error.
func (e *RefusedError) Unwrap() error { return e.Err }

// Refused reports whether an error is a RefusedError.
func Refused(err error) bool {
	_, ok := errors.AsType[*RefusedError](err)
	return ok
}

// Died is the reason for which a batch is set aside that has too many Attempts.
func Died(attempts int) string {
	return fmt.Sprintf("the node that ran the batch died %d times in a row, and nothing of the batch got done in between", attempts-1)
}

// EndedAside is the reason of a batch that an operator has ended while it was set aside.
func EndedAside(reason string) string {
	return "an operator ended the batch, which was set aside: " + reason
}

// Fill is what Load does with what it has read. An error wraps ErrDamaged.
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
	c.Requests, c.Marks, c.Packed, c.Marked = requests, marks, nil, true
	return nil
}

func (m *Mark) check(total int) error {
	switch {
	case m.Index < 0 || m.Index >= total:
		return fmt.Errorf("%w: there is a mark for request %d of %d", ErrDamaged, m.Index, total)
	case m.State < Begun || m.State > Done:
		return fmt.Errorf("%w: the mark of request %d has the state %d", ErrDamaged, m.Index, m.State)
	case m.Tries.Attempts < 0 || m.Tries.Retries < 0 || m.Tries.Throttles < 0:
		return fmt.Errorf("%w: the mark of request %d counts less than no attempts", ErrDamaged, m.Index)
	case m.State == Begun, m.State == Waiting && m.Result.Status == 0:
		return nil
	}
	return CheckResult(&m.Result)
}
