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
	q, err := s.Storage.Queue(c.ctx(), s.queue(c))
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

// queue returns where the caller's batches run one after the other: in its store. Where
// nobody has checked the token, a queue belongs to a store and a token, so that whoever
// makes a token up can't block a tenant (docs/contract.md#order).
func (s *API) queue(c *call) string {
	if s.Authorize == nil {
		return c.store + "/" + hex.EncodeToString(c.owner[:])
	}
	return c.store
}
