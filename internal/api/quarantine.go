package api

import (
	"strconv"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// quarantinePage is the maximum number of batches in one answer.
const quarantinePage = 100

type (
	quarantineJSON struct {
		Batches []quarantinedJSON `json:"batches"`
		Next    string            `json:"next,omitempty"`
	}
	quarantinedJSON struct {
		Ticket        string `json:"ticket"`
		Store         string `json:"storeId"`
		GroupID       string `json:"groupId,omitempty"`
		Total         int    `json:"totalRequests"`
		CreatedAt     string `json:"createdAt"`
		QuarantinedAt string `json:"quarantinedAt"`
		Reason        string `json:"reason"`
	}
)

// quarantine lists the quarantined batches of all stores.
func (s *API) quarantine(c *call) error {
	value, given := c.query.get("after")
	if c.query.err != nil {
		return c.query.err
	}
	after, err := strconv.ParseInt(value, 10, 64)
	if given && (err != nil || after < 0) {
		return fail(wrongParameter, "Parameter after must be the value of next in an earlier answer.")
	}
	found, err := s.Operations.Quarantined(storage.ForService(c.R.Context()), storage.BatchID(after), quarantinePage)
	if err != nil {
		return s.storageFailed(c, "quarantine", batch.Ticket{}, err)
	}
	var out quarantineJSON
	for _, b := range found {
		out.Batches = append(out.Batches, quarantinedJSON{
			b.Ticket.String(), b.Store, b.GroupID, b.Total, jsonTime(b.CreatedAt), jsonTime(b.At), b.Reason,
		})
	}
	if len(found) == quarantinePage {
		out.Next = strconv.FormatInt(int64(found[quarantinePage-1].ID), 10)
	}
	return c.JSON(out)
}

// releaseQuarantined takes a batch out of quarantine so that it runs again. endQuarantined takes it
// out and ends it without sending anything more.
func (s *API) releaseQuarantined(c *call) error { return s.unquarantine(c, false) }

func (s *API) endQuarantined(c *call) error { return s.unquarantine(c, true) }

func (s *API) unquarantine(c *call, end bool) error {
	ticket := c.query.requiredTicket("set it to the ticket of the quarantined batch.")
	if c.query.err != nil {
		return c.query.err
	}
	q, err := s.Operations.Unquarantine(c.R.Context(), ticket, end)
	if err != nil {
		return s.storageFailed(c, "unquarantine", ticket, err)
	}
	s.Wake(q)
	s.Hub.ChangedAny()
	s.Logger.Info("an operator took a batch out of quarantine", "ticket", ticket, "ended", end)
	return c.JSON(updateAnswer{1})
}
