package api

import (
	"github.com/sheafapi/sheaf/internal/batch"
)

// requests tells the requests of a batch as they were created.
func (s *API) requests(c *call) error {
	ticket, err := c.query.theTicket("name the batch whose requests are wanted.")
	if err != nil {
		return err
	}
	after, err := c.query.integer("after", -1, -1, batch.MaxRequests-1)
	if err != nil {
		return err
	}
	limit, err := c.query.integer("limit", batch.MaxRequests, 1, batch.MaxRequests)
	if err != nil {
		return err
	}
	most, err := c.bodyBytes()
	if err != nil {
		return err
	}
	st, err := s.Storage.Status(c.r.Context(), c.key(ticket), 0)
	if err != nil {
		return s.storageFailed(c, "requests", ticket, err)
	}
	a := s.newAnswer(c)
	defer a.free()
	first, last := after+1, min(after+limit, st.Total-1)
	all, _, err := a.requestsOf(st.ID, first, last)
	if err != nil {
		return s.storageFailed(c, "requests", ticket, err)
	}
	ids := make([]string, len(all))
	for i := range all {
		ids[i] = all[i].ID
	}
	a.open()
	a.buf = append(a.buf, `{"requests":[`...)
	form := batch.Form{Most: most, Flush: a.piece}
	for i := first; i <= min(last, len(all)-1); i++ {
		if i > first {
			a.buf = append(a.buf, ',')
		}
		a.buf = form.AppendRequest(a.buf, i, &all[i], ids)
		a.flush()
	}
	a.buf = append(a.buf, `]}`...)
	a.end()
	return nil
}
