package api

import (
	"github.com/sheafapi/sheaf/internal/audit"
	"github.com/sheafapi/sheaf/internal/batch"
)

// audit logs a call after its answer.
func (s *API) audit(c *call) {
	if c.action == "" || !s.Audit.Wants(c.action) {
		return
	}
	e := audit.Event{Action: c.action, Store: c.Store, Who: c.who, Status: c.Status}
	ticket, given := c.query.ticket()
	if ticket != (batch.Ticket{}) {
		e.Ticket = ticket.String()
	}
	if e.Who == "" && c.token != "" {
		e.Who = batch.OwnerOf(c.token).Short()
	}
	if e.Action == actionRead && !given {
		e.Action = "search"
	}
	if c.created != (batch.Ticket{}) {
		e.Ticket = c.created.String()
	}
	e.Group = c.query.group()
	s.Audit.Add(c.R, e)
}
