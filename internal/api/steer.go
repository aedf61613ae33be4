package api

import (
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// pause keeps a batch, or the caller's whole queue if there is no ticket, from starting more
// requests; resume undoes that.
func (s *API) pause(c *call) error { return s.steer(c, true) }

func (s *API) resume(c *call) error { return s.steer(c, false) }

// updateAnswer is the answer to a call that changes batches.
type updateAnswer struct {
	Count int `json:"updateCount"`
}

func (s *API) steer(c *call, paused bool) error {
	ticket, given := c.query.ticket()
	switch {
	case c.query.err != nil:
		return c.query.err
	case given && ticket == batch.Ticket{}:
		return noBatch()
	}
	p := storage.PauseRequest{Key: c.Key(ticket), Queue: c.queue(), Paused: paused}
	hit, err := s.Storage.Pause(c.R.Context(), p)
	if err != nil {
		return s.storageFailed(c, "pause", ticket, err)
	}
	for _, q := range hit.Queues {
		s.Notify(q)
	}
	return c.JSON(updateAnswer{hit.Count})
}
