package api

import (
	"strconv"

	"github.com/sheafapi/sheaf/internal/batch"
)

// body sends the body of an answer as a file, byte for byte. With of=request, it sends the body of
// a request instead.
func (s *API) body(c *call) error {
	ticket := c.query.requiredTicket("set it to the ticket of the batch whose body you want.")
	index := c.query.integer("index", -1, 0, batch.MaxRequests-1)
	of, given := c.query.get("of")
	switch {
	case c.query.err != nil:
		return c.query.err
	case index < 0:
		return fail(wrongParameter, "Parameter index is missing: set it to the index of the request whose body or answer you want.")
	case given && of != "request" && of != "answer":
		return fail(wrongParameter, "Parameter of must be one of answer, request.")
	}
	a := s.source.Answer(&c.Call)
	defer a.Free()
	st, err := s.Storage.Status(c.R.Context(), c.Key(ticket), 0)
	if err != nil {
		return s.storageFailed(c, "status", ticket, err)
	}
	if index >= st.Total {
		return fail(notFound, "This batch has no request with that index.")
	}
	var body []byte
	if of == "request" {
		all, _, err := a.Requests(st.ID, index, index)
		if err != nil {
			return s.storageFailed(c, "requests", ticket, err)
		}
		body = all[index].Body
	} else {
		result, err := a.Result(st.ID, index)
		if err != nil {
			return s.storageFailed(c, "results", ticket, err)
		}
		if result == nil {
			return fail(notFound, "This request has no answer yet.")
		}
		body = result.Body
	}
	if of == "" {
		of = "answer"
	}
	a.File(of+"-"+strconv.Itoa(index)+".txt", body)
	return nil
}
