package storage

import (
	"fmt"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
)

// Quarantine
//
// A batch that can't be run is set aside. It is no longer one of its queue's open batches, so
// the next one runs. Nothing of it is lost. It stays there until an operator releases or ends it,
// or until its creator stops or deletes it.
//
// The number of its claims shows whether a batch kills the node that runs it. The transaction
// that makes a claim counts it, before the batch's content is read. Release takes the count back.
// So Attempts counts the claims that a node's death ended. Progress resets it to 1, the current
// claim.

// MaxAttempts is how many claims of a batch may end by a node's death, without progress in
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

// Died is the reason for setting aside a batch with too many Attempts.
func Died(attempts int) string {
	return fmt.Sprintf("the node that ran the batch died %d times in a row, and nothing of the batch got done in between", attempts-1)
}

// EndedAside is the reason of a batch that an operator ended while it was set aside.
func EndedAside(reason string) string {
	return "an operator ended the batch, which was set aside: " + reason
}
