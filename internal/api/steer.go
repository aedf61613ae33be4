package api

import (
	"net/http"
	"strconv"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// pause keeps a batch, or without a ticket the caller's whole queue, from starting anything
// more; resume lets it go on.
func (s *API) pause(c *call) error { return s.steer(c, true) }

func (s *API) resume(c *call) error { return s.steer(c, false) }

func (s *API) steer(c *call, paused bool) error {
	ticket, given, err := c.query.ticket()
	switch {
	case err != nil:
		return err
	case given && ticket == batch.Ticket{}:
		return noBatch()
	}
	p := storage.PauseRequest{Key: c.key(ticket), Queue: c.queue(), Paused: paused}
	hit, err := s.Storage.Pause(c.r.Context(), p)
	if err != nil {
		return s.storageFailed(c, "pause", ticket, err)
	}
	for _, q := range hit.Queues {
		s.Notify(q)
	}
	c.send(http.StatusOK, []byte(`{"updateCount":`+strconv.Itoa(hit.Count)+`}`))
	return nil
}
