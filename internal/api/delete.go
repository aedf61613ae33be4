package api

import (
	"errors"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// delete stops a batch and removes it (docs/contract.md#delete-a-batch).
func (s *API) delete(c *call) error {
	ticket, given := c.query.ticket()
	switch {
	case c.query.err != nil:
		return c.query.err
	case !given:
		return fail(wrongParameter, "Parameter ticketId is missing: set it to the ticket of the batch to delete.")
	case ticket == batch.Ticket{}:
		return c.JSON(deleteAnswer{0})
	}
	queue, err := s.Storage.Delete(c.R.Context(), c.Key(ticket))
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return c.JSON(deleteAnswer{0})
	case err != nil:
		return s.storageFailed(c, "delete", ticket, err)
	}
	s.Notify(queue)
	s.Hub.ChangedAny()
	s.Logger.Debug("batch deleted", "store", c.Store, "ticket", ticket)
	return c.JSON(deleteAnswer{1})
}

// deleteAnswer is the answer to a delete.
type deleteAnswer struct {
	Count int `json:"deleteCount"`
}
