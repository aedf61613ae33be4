package api

import (
	"errors"
	"net/http"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// delete stops a batch and removes it (docs/contract.md#delete-a-batch).
func (s *API) delete(c *call) error {
	ticket, given, err := c.query.ticket()
	switch {
	case err != nil:
		return err
	case !given:
		return fail(wrongParameter, "Parameter ticketId is missing: name the batch to delete.")
	case ticket == batch.Ticket{}:
		c.Send(http.StatusOK, []byte(`{"deleteCount":0}`))
		return nil
	}
	queue, err := s.Storage.Delete(c.R.Context(), c.Key(ticket))
	switch {
	case errors.Is(err, storage.ErrNotFound):
		c.Send(http.StatusOK, []byte(`{"deleteCount":0}`))
		return nil
	case err != nil:
		return s.storageFailed(c, "delete", ticket, err)
	}
	s.Notify(queue)
	s.hub.ChangedAny()
	s.Logger.Debug("batch deleted", "store", c.Store, "ticket", ticket)
	c.Send(http.StatusOK, []byte(`{"deleteCount":1}`))
	return nil
}
