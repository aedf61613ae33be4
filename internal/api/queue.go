package api

import (
	"encoding/hex"
	"fmt"
	"net/http"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
)

// queueState tells how things stand with the caller's queue.
func (s *API) queueState(c *call) error {
	q, err := s.Storage.Queue(c.ctx(), c.queue())
	if err != nil {
		return s.storageFailed(c, "queue", batch.Ticket{}, err)
	}
	body := fmt.Appendf(nil, `{"unfinished":%d,"kept":%d,"paused":%t`, q.Open, q.Held, q.Paused)
	if q.Quarantined > 0 {
		body = fmt.Appendf(body, `,"quarantined":%d`, q.Quarantined)
	}
	if !q.Paused && q.NotBefore.After(time.Now()) {
		body = append(body, `,"waitsUntil":"`...)
		body = append(q.NotBefore.UTC().AppendFormat(body, batch.Moment), '"')
	}
	c.send(http.StatusOK, append(body, '}'))
	return nil
}

// queue returns the name of the queue in which the caller's batches run one after the other. Callers
// whose tokens were judged share their store's queue. Any other token has a queue of its own in the
// store, so that made-up tokens can't block a tenant (docs/contract.md#order).
func (c *call) queue() string {
	if c.shared {
		return c.store
	}
	return c.store + "/" + hex.EncodeToString(c.owner[:])
}
