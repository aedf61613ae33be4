package api

import (
	"encoding/hex"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
)

// queueState answers with the state of the caller's queue.
func (s *API) queueState(c *call) error {
	q, err := s.Storage.Queue(c.Ctx(), c.queue())
	if err != nil {
		return s.storageFailed(c, "queue", batch.Ticket{}, err)
	}
	out := queueJSON{Unfinished: q.Open, Kept: q.Held, Paused: q.Paused, Quarantined: q.Quarantined}
	if !q.Paused && q.NotBefore.After(time.Now()) {
		out.WaitsUntil = jsonTime(q.NotBefore)
	}
	return c.JSON(out)
}

// queueJSON is the JSON form of a queue's state.
type queueJSON struct {
	Unfinished  int    `json:"unfinished"`
	Kept        int    `json:"kept"`
	Paused      bool   `json:"paused"`
	Quarantined int    `json:"quarantined,omitzero"`
	WaitsUntil  string `json:"waitsUntil,omitzero"`
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
