package api

import (
	"net/http"
	"strconv"

	"github.com/sheafapi/sheaf/internal/batch"
)

// body sends one body exactly as it came, as a file: of an answer, or with of=request of a
// request.
func (s *API) body(c *call) error {
	ticket, err := c.query.theTicket("name the batch whose body is wanted.")
	if err != nil {
		return err
	}
	index, err := c.query.integer("index", -1, 0, batch.MaxRequests-1)
	if err != nil {
		return err
	}
	of, given, err := c.query.get("of")
	switch {
	case err != nil:
		return err
	case index < 0:
		return fail(wrongParameter, "Parameter index is missing: name the request, or the answer, whose body is wanted.")
	case given && of != "request" && of != "answer":
		return fail(wrongParameter, "Parameter of must be one of answer, request.")
	}
	a := s.newAnswer(c)
	defer a.free()
	st, err := s.Storage.Status(c.r.Context(), c.key(ticket), 0)
	if err != nil {
		return s.storageFailed(c, "status", ticket, err)
	}
	if index >= st.Total {
		return fail(notFound, "This batch has no request with that index.")
	}
	var body []byte
	if of == "request" {
		all, _, err := a.requestsOf(st.ID, index, index)
		if err != nil {
			return s.storageFailed(c, "requests", ticket, err)
		}
		body = all[index].Body
	} else {
		if err := a.reserve(); err != nil {
			return err
		}
		page, err := s.Storage.Results(c.ctx(), st.ID, index, 1)
		if err != nil {
			return s.storageFailed(c, "results", ticket, err)
		}
		if len(page) == 0 || page[0].Index != index {
			return fail(notFound, "This request has no answer yet.")
		}
		body = page[0].Body
		a.settle(page)
	}
	if of == "" {
		of = "answer"
	}
	a.download(body, of+"-"+strconv.Itoa(index)+".txt")
	return nil
}

// download sends a file in pieces, each of which the client has to take in time.
func (a *answer) download(body []byte, name string) {
	h := a.c.w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Content-Disposition", `attachment; filename="`+name+`"`)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	a.c.started, a.c.status = true, http.StatusOK
	a.c.w.WriteHeader(http.StatusOK)
	for len(body) > 0 {
		piece := body[:min(len(body), flushBytes)]
		a.c.pace.write(a.c.w, len(piece), func() { a.c.write(piece) })
		if body = body[len(piece):]; a.c.r.Context().Err() != nil {
			abort() // nobody reads the rest
		}
	}
}
