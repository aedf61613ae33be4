package api

import (
	"net/http"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// maxFound is how many batches one search tells at most (wire contract, "Search").
const maxFound = 100

// search lists the caller's batches of one status, oldest first, or all of them, newest
// first.
func (s *API) search(c *call) error {
	status, given, err := c.query.get("status")
	if err != nil {
		return err
	}
	st, ok := batch.ParseStatus(status)
	if given && !ok {
		return fail(wrongParameter, "Parameter status must be one of QUEUED, IN_PROGRESS, COMPLETED.")
	}
	limit, err := c.query.integer("limit", maxFound, 1, maxFound)
	if err != nil {
		return err
	}
	offset, err := c.query.offset("call GET /api/v3/{storeId}/batch/search, and send the number next of each answer as the parameter after of the next call")
	if err != nil {
		return err
	}
	found, err := s.Storage.Search(c.r.Context(), storage.Search{
		Store: c.store, Owner: c.owner, Status: st, Limit: limit, Offset: offset,
	})
	if err != nil {
		return s.storageFailed(c, "search", batch.Ticket{}, err)
	}
	body := append([]byte(nil), `{"items":[`...)
	for i, f := range found {
		if i > 0 {
			body = append(body, ',')
		}
		body = append(body, `{"ticket":"`...)
		body = append(body, f.Ticket.String()...)
		body = append(body, `","status":"`...)
		body = append(append(body, f.Status.String()...), '"')
		if f.Quarantined {
			body = append(body, `,"quarantined":true`...)
		}
		body = append(body, '}')
	}
	c.send(http.StatusOK, append(body, `]}`...))
	return nil
}
