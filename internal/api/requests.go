package api

import (
	"github.com/sheafapi/sheaf/internal/batch"
)

// requests lists the requests of a batch as they were created.
func (s *API) requests(c *call) error {
	ticket := c.query.requiredTicket("set it to the ticket of the batch whose requests you want.")
	after := c.query.integer("after", -1, -1, batch.MaxRequests-1)
	limit := c.query.integer("limit", batch.MaxRequests, 1, batch.MaxRequests)
	most := c.query.bodyBytes()
	if c.query.err != nil {
		return c.query.err
	}
	st, err := s.Storage.Status(c.R.Context(), c.Key(ticket), 0)
	if err != nil {
		return s.storageFailed(c, "requests", ticket, err)
	}
	a := s.source.Answer(&c.Call)
	defer a.Free()
	first, last := after+1, min(after+limit, st.Total-1)
	all, _, err := a.Requests(st.ID, first, last)
	if err != nil {
		return s.storageFailed(c, "requests", ticket, err)
	}
	ids := make([]string, len(all))
	for i := range all {
		ids[i] = all[i].ID
	}
	a.Open()
	a.Buf = append(a.Buf, `{"requests":[`...)
	form := batch.Form{Most: most, Flush: a.Piece}
	for i := first; i <= min(last, len(all)-1); i++ {
		if i > first {
			a.Buf = append(a.Buf, ',')
		}
		a.Buf = form.AppendRequest(a.Buf, i, &all[i], ids)
		a.Flush()
	}
	a.Buf = append(a.Buf, `]}`...)
	a.End()
	return nil
}
