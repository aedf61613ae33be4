package api

import (
	"encoding/hex"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// queueState answers with the state of the caller's queue.
func (s *API) queueState(c *call) error {
	q, err := s.Storage.Queue(c.Ctx(), c.queue())
	if err != nil {
		return s.storageFailed(c, "queue", batch.Ticket{}, err)
	}
	out := queueJSON{Unfinished: q.Open, Kept: q.Held, Paused: q.Paused, Quarantined: q.Quarantined}
	if !q.Paused {
		out.waitJSON = waitOf(q.Wait, q.NotBefore, time.Now())
	}
	return c.JSON(out)
}

// queueJSON is the JSON form of a queue's state.
type queueJSON struct {
	Unfinished  int  `json:"unfinished"`
	Kept        int  `json:"kept"`
	Paused      bool `json:"paused"`
	Quarantined int  `json:"quarantined,omitzero"`
	waitJSON
}

// waitJSON says what a queue waits for: the upstream or its credential, or a moment.
type waitJSON struct {
	WaitingFor   string `json:"waitingFor,omitempty"`
	WaitingSince string `json:"waitingSince,omitempty"`
	WaitsUntil   string `json:"waitsUntil,omitempty"`
}

// waitOf returns the JSON of a queue's wait.
func waitOf(w storage.Wait, notBefore, now time.Time) (out waitJSON) {
	switch {
	case w.For != storage.NoWait:
		out.WaitingFor, out.WaitingSince = w.For.String(), jsonTime(w.Since)
	case notBefore.After(now):
		out.WaitsUntil = jsonTime(notBefore)
	}
	return out
}

// queue returns the name of the queue in which the caller's batches run one after the other. Callers
// whose tokens were checked share their store's queue. Any other token has a queue of its own in the
// store, so that made-up tokens can't block a tenant (docs/contract.md#order).
func (c *call) queue() string {
	if c.shared {
		return c.Store
	}
	return c.Store + "/" + hex.EncodeToString(c.Owner[:])
}
