package storage

import (
	"fmt"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
)

// Quarantine
//
// A batch that can't be run is quarantined. It is no longer one of its queue's open batches, so the
// next batch runs. None of its data is lost. It stays in quarantine until an operator releases or
// ends it, or until its creator stops or deletes it.
//
// The number of a batch's claims shows whether it kills the nodes that run it. The transaction that
// makes a claim counts it, before the batch's content is read. Release takes the count back. So
// Attempts counts the claims that ended with a node's death, and the current one. Progress resets
// it to 1, which is the current claim.

// MaxAttempts is the maximum number of claims of a batch without progress. A batch with more is
// quarantined.
const MaxAttempts = 5

// QuarantinedBatch is a batch in quarantine.
type QuarantinedBatch struct {
	ID        BatchID
	Ticket    batch.Ticket
	Store     string
	Queue     string // its queue's name
	GroupID   string
	Total     int // requests
	CreatedAt time.Time
	At        time.Time // when it was quarantined
	Reason    string
}

// Died returns the reason for quarantining a batch with too many Attempts.
func Died(attempts int) string {
	return fmt.Sprintf("the node that ran the batch died %d times in a row, and nothing of the batch got done in between", attempts-1)
}

// EndedAside returns the reason of a batch that an operator ended while it was quarantined.
func EndedAside(reason string) string {
	return "an operator ended the quarantined batch: " + reason
}
