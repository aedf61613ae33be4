package api

import (
	"net/http"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// maxFound is the most batches that one search returns (docs/contract.md#search-batches).
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

const (
	// lookTime is how long one call looks for batches before it answers with what it has
	// found, and where to go on.
	lookTime = time.Second
	// maxPathPart bounds the text that is looked for in paths, in bytes.
	maxPathPart = 256
	// unfinished is the word for batches of any status but COMPLETED.
	unfinished = "UNFINISHED"
)

// filter reads which batches are meant.
func (c *call) filter() (f storage.Filter, err error) {
	f = storage.Filter{Store: c.store, Owner: c.owner}
	status, given, err := c.query.get("status")
	if err != nil {
		return f, err
	}
	switch st, ok := batch.ParseStatus(status); {
	case status == unfinished:
		f.Open = true
	case given && !ok:
		return f, fail(wrongParameter, "Parameter status must be one of QUEUED, IN_PROGRESS, COMPLETED, UNFINISHED.")
	default:
		f.Status = st
	}
	if f.GroupID, err = c.query.group(); err != nil {
		return f, err
	}
	if f.From, err = c.query.moment("createdFrom"); err != nil {
		return f, err
	}
	if f.To, err = c.query.moment("createdTo"); err != nil {
		return f, err
	}
	if f.Failed, err = c.query.boolean("failed", false); err != nil {
		return f, err
	}
	if f.InDoubt, err = c.query.boolean("inDoubt", false); err != nil {
		return f, err
	}
	if f.Code, err = c.query.integer("code", 0, 100, 999); err != nil {
		return f, err
	}
	if f.Path, _, err = c.query.get("path"); err != nil {
		return f, err
	}
	if len(f.Path) > maxPathPart || !utf8.ValidString(f.Path) {
		return f, fail(wrongParameter, "Parameter path must be UTF-8 text of at most %d bytes.", maxPathPart)
	}
	return f, nil
}

// find lists batches by what is known of them, newest first, or unfinished ones in the order
// in which they run.
func (s *API) find(c *call) error {
	f, err := c.filter()
	if err != nil {
		return err
	}
	if f.Limit, err = c.query.integer("limit", maxFound, 1, maxFound); err != nil {
		return err
	}
	after, err := c.query.integer("after", 0, 1, 1<<62)
	if err != nil {
		return err
	}
	f.After = storage.BatchID(after)
	var found []storage.Summary
	for began := time.Now(); ; {
		page, err := s.findPage(c, f)
		if err != nil {
			return err
		}
		found = append(found, page.Batches...)
		f.After = page.Next
		if f.Limit -= len(page.Batches); f.Limit == 0 || f.After == 0 || time.Since(began) > lookTime {
			break
		}
	}
	body := append([]byte(nil), `{"items":[`...)
	for i := range found {
		if i > 0 {
			body = append(body, ',')
		}
		body = appendSummary(body, &found[i])
	}
	body = append(body, ']')
	if f.After != 0 {
		body = append(body, `,"next":`...)
		body = strconv.AppendInt(body, int64(f.After), 10)
	}
	c.send(http.StatusOK, append(body, '}'))
	return nil
}

// findPage reads a page of what a filter selects. A search by path reads requests, and holds
// memory for that while it reads, not between pages. Storage gives callers their turns.
func (s *API) findPage(c *call, f storage.Filter) (storage.Page, error) {
	h := c.hold(s.memory.reads)
	if f.Path != "" {
		if err := h.need(s.memory.largestBatch); err != nil {
			return storage.Page{}, err
		}
		defer h.free()
	}
	page, err := s.Storage.Find(c.r.Context(), f)
	if err != nil {
		return page, s.storageFailed(c, "search", batch.Ticket{}, err)
	}
	return page, nil
}

func appendSummary(dst []byte, s *storage.Summary) []byte {
	number := func(name string, n int) {
		dst = strconv.AppendInt(append(append(append(dst, `,"`...), name...), `":`...), int64(n), 10)
	}
	dst = append(append(append(dst, `{"ticket":"`...), s.Ticket.String()...), `","status":"`...)
	dst = append(append(dst, s.Status.String()...), '"')
	number("totalRequests", s.Total)
	number("completedRequests", s.Completed)
	dst = appendFailures(dst, s.Failed, s.InDoubt)
	dst = appendMoments(dst, s.CreatedAt, s.StartedAt, s.EndedAt)
	if s.RetryOf != (batch.Ticket{}) {
		dst = append(append(append(dst, `,"retryOf":"`...), s.RetryOf.String()...), '"')
	}
	if s.Retried {
		dst = append(dst, `,"retried":true`...)
	}
	if s.Paused {
		dst = append(dst, `,"paused":true`...)
	}
	if s.Quarantined {
		dst = append(dst, `,"quarantined":true`...)
	}
	if s.GroupID != "" {
		dst = batch.AppendString(append(dst, `,"groupId":`...), s.GroupID)
	}
	return append(dst, '}')
}
