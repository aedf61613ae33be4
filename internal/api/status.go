package api

import (
	"net/http"

	"github.com/sheafapi/sheaf/batch"
)

// statusOrSearch serves GET: with a ticket the status of that batch, else a search.
func (s *server) statusOrSearch(c *call) error {
	ticket, given, err := c.query.ticket()
	if err != nil {
		return err
	}
	if given {
		return s.status(c, ticket)
	}
	status, given, err := c.query.get("status")
	if err != nil {
		return err
	}
	if given {
		return s.search(c, status)
	}
	return fail(wrongParameter, "Parameter ticket (one batch) or status (a search) is missing.")
}

// status shows one batch (wire contract, "Status").
func (s *server) status(c *call, ticket batch.Ticket) error {
	escaped, err := c.query.boolean("escapedJson", false)
	if err != nil {
		return err
	}
	responses, err := c.query.boolean("responses", true)
	if err != nil {
		return err
	}
	if ticket == (batch.Ticket{}) {
		return noBatch()
	}
	a := s.newAnswer(c)
	defer a.free()
	maxBytes := 0
	if responses && c.r.Method != http.MethodHead {
		maxBytes = pageBytes
		if err := a.reserve(); err != nil {
			return err
		}
	}
	st, err := s.Storage.Status(c.r.Context(), c.key(ticket), maxBytes)
	if err != nil {
		return s.storageFailed(c, "status", ticket, err)
	}
	a.open()
	a.buf = batch.AppendHead(a.buf, st.Status, st.Total, st.Completed)
	if responses && c.r.Method != http.MethodHead {
		if err := a.responses(st, escaped, st.Status == batch.Completed); err != nil {
			return err
		}
	}
	a.buf = append(a.buf, '}')
	a.end()
	return nil
}
