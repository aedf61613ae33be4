package api

import (
	"net/http"
	"slices"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// statusOrSearch serves GET: with a ticket the status of that batch, else a search.
func (s *API) statusOrSearch(c *call) error {
	ticket, given, err := c.query.ticket()
	if err != nil {
		return err
	}
	if given {
		if slices.Equal(c.query["offset"], []string{"0"}) { // some clients send it with every call
			delete(c.query, "offset")
		}
		if err := c.query.refuse(searchParams, statusParams, "the status of a batch (a call with ticket)"); err != nil {
			return err
		}
		return s.status(c, ticket)
	}
	if err := c.query.refuse(statusParams, searchParams, "a search (a call without ticket)"); err != nil {
		return err
	}
	return s.search(c)
}

// status shows one batch (docs/contract.md#read-a-status).
func (s *API) status(c *call, ticket batch.Ticket) error {
	v, err := c.view()
	if err != nil {
		return err
	}
	wait, err := c.waits()
	if err != nil {
		return err
	}
	if ticket == (batch.Ticket{}) {
		return noBatch()
	}
	c.w.Header()["Vary"] = byTypeAndCoding
	if v.mediaType == eventsType && c.r.Method == http.MethodGet {
		return s.events(c, ticket, v)
	}
	if wait > 0 {
		leave, err := s.stay(c)
		if err != nil {
			return err
		}
		err = s.await(c, c.key(ticket), wait, &v)
		leave()
		if err != nil {
			return s.storageFailed(c, "status", ticket, err)
		}
	}
	a := s.newAnswer(c)
	defer a.free()
	st, err := a.status(ticket, &v)
	if err != nil {
		return s.storageFailed(c, "status", ticket, err)
	}
	tag := v.tag(st, c.r.URL.RawQuery)
	c.w.Header()["Etag"] = []string{tag}
	if st.Status != batch.Completed {
		c.w.Header()["Retry-After"] = pause(st, time.Now())
	}
	if unchanged(c.r.Header, tag) {
		c.started, c.status = true, http.StatusNotModified
		c.w.WriteHeader(http.StatusNotModified)
		return nil
	}
	v.all = st.Status == batch.Completed
	a.open()
	if v.lines {
		return a.allLines(st, &v)
	}
	a.buf = batch.AppendHead(a.buf, st.Status, st.Total, st.Completed)
	if v.details {
		a.buf = appendBatchDetails(a.buf, st, time.Now())
	}
	if v.responses {
		a.buf = append(a.buf, `,"responses":[`...)
		if err := a.responses(st, &v, ","); err != nil {
			return err
		}
		a.buf = append(a.buf, ']')
	}
	a.buf = append(a.buf, '}')
	a.end()
	return nil
}

// status reads a status with what the view has of it.
func (a *answer) status(ticket batch.Ticket, v *view) (*storage.Status, error) {
	ctx, key := a.c.r.Context(), a.c.key(ticket)
	if !v.responses {
		return a.s.Storage.Status(ctx, key, 0)
	}
	if v.details {
		st, err := a.s.Storage.Status(ctx, key, 0)
		if err == nil {
			v.requests, _, err = a.requestsOf(st.ID, 0, -1)
		}
		if err != nil {
			return nil, err
		}
	}
	if err := a.reserve(); err != nil {
		return nil, err
	}
	return a.s.Storage.Status(ctx, key, pageBytes)
}

// allLines sends the responses as lines of JSON, and nothing else.
func (a *answer) allLines(st *storage.Status, v *view) error {
	a.c.w.Header()["Content-Type"] = []string{linesType}
	if v.responses {
		if err := a.responses(st, v, ""); err != nil {
			a.c.w.Header().Del("Content-Type")
			return err
		}
	}
	a.end()
	return nil
}
