package api

import (
	"time"
	"unicode/utf8"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// maxFound is the maximum number of batches that one search returns
// (docs/contract.md#search-batches).
const maxFound = 100

// search lists the caller's batches with one status, oldest first, or all of them, newest first.
func (s *API) search(c *call) error {
	status, given := c.query.get("status")
	st, ok := batch.ParseStatus(status)
	if given && !ok {
		c.query.wrong("Parameter status must be one of QUEUED, IN_PROGRESS, COMPLETED.")
	}
	limit := c.query.integer("limit", maxFound, 1, maxFound)
	offset := c.query.offset("call GET /api/v3/{storeId}/batch/search, and set after in each call to the value of next in the previous answer")
	if c.query.err != nil {
		return c.query.err
	}
	found, err := s.searchPage(c, storage.Filter{Store: c.Store, Owner: c.Owner, Status: st, Oldest: given}, limit, offset)
	if err != nil {
		return err
	}
	type item struct {
		Ticket      string `json:"ticket"`
		Status      string `json:"status"`
		Quarantined bool   `json:"quarantined,omitzero"`
	}
	out := list[item]{Items: make([]item, len(found))}
	for i, f := range found {
		out.Items[i] = item{f.Ticket.String(), f.Status.String(), f.Quarantined}
	}
	return c.JSON(out)
}

// list is an answer with a page of items. Next, if not 0, is the value of the parameter after for
// the next page.
type list[T any] struct {
	Items []T   `json:"items"`
	Next  int64 `json:"next,omitzero"`
}

const (
	// searchTime is how long one call searches before it answers with what it has found so far. The
	// next call continues there.
	searchTime = time.Second
	// maxPathPart is the maximum length of a text to search for in paths, in bytes.
	maxPathPart = 256
	// unfinished is the parameter for batches with any status except COMPLETED.
	unfinished = "UNFINISHED"
)

// filter reads the parameters that select batches. Check c.query.err afterwards.
func (c *call) filter() storage.Filter {
	f := storage.Filter{Store: c.Store, Owner: c.Owner}
	status, given := c.query.get("status")
	switch st, ok := batch.ParseStatus(status); {
	case status == unfinished:
		f.Open = true
	case given && !ok:
		c.query.wrong("Parameter status must be one of QUEUED, IN_PROGRESS, COMPLETED, UNFINISHED.")
	default:
		f.Status = st
	}
	f.GroupID = c.query.group()
	f.From = c.query.moment("createdFrom")
	f.To = c.query.moment("createdTo")
	f.Failed = c.query.boolean("failed", false)
	f.InDoubt = c.query.boolean("inDoubt", false)
	f.Code = c.query.integer("code", 0, 100, 999)
	f.Path, _ = c.query.get("path")
	if len(f.Path) > maxPathPart || !utf8.ValidString(f.Path) {
		c.query.wrong("Parameter path must be UTF-8 text of at most %d bytes.", maxPathPart)
	}
	return f
}

// find lists the batches that match a filter: newest first, but unfinished batches in the order in which
// they run.
func (s *API) find(c *call) error {
	f := c.filter()
	f.Limit = c.query.integer("limit", maxFound, 1, maxFound)
	f.After = storage.BatchID(c.query.integer("after", 0, 1, 1<<62))
	if c.query.err != nil {
		return c.query.err
	}
	var found []storage.Summary
	for began := time.Now(); ; {
		page, err := s.findPage(c, f)
		if err != nil {
			return err
		}
		found = append(found, page.Batches...)
		f.After = page.Next
		if f.Limit -= len(page.Batches); f.Limit == 0 || f.After == 0 || time.Since(began) > searchTime {
			break
		}
	}
	out := list[summaryJSON]{Items: make([]summaryJSON, len(found)), Next: int64(f.After)}
	for i := range found {
		out.Items[i] = summary(&found[i])
	}
	return c.JSON(out)
}

// findPage reads a page of the batches that match a filter. A search by path reads requests, so it
// holds memory during each page, but not between pages.
func (s *API) findPage(c *call, f storage.Filter) (storage.Page, error) {
	h := c.Hold(s.source.Reads)
	if f.Path != "" {
		if err := h.Need(s.source.LargestBatch); err != nil {
			return storage.Page{}, busy(err)
		}
		defer h.Free()
	}
	page, err := s.Storage.Find(c.R.Context(), f)
	if err != nil {
		return page, s.storageFailed(c, "search", batch.Ticket{}, err)
	}
	return page, nil
}

// summaryJSON is the JSON form of a batch in a search.
type summaryJSON struct {
	Ticket      string `json:"ticket"`
	Status      string `json:"status"`
	Total       int    `json:"totalRequests"`
	Completed   int    `json:"completedRequests"`
	Failed      int    `json:"failedRequests"`
	InDoubt     int    `json:"inDoubtRequests"`
	CreatedAt   string `json:"createdAt,omitzero"`
	StartedAt   string `json:"startedAt,omitzero"`
	FinishedAt  string `json:"finishedAt,omitzero"`
	RetryOf     string `json:"retryOf,omitzero"`
	Retried     bool   `json:"retried,omitzero"`
	Paused      bool   `json:"paused,omitzero"`
	Quarantined bool   `json:"quarantined,omitzero"`
	GroupID     string `json:"groupId,omitzero"`
}

func summary(s *storage.Summary) summaryJSON {
	out := summaryJSON{
		Ticket: s.Ticket.String(), Status: s.Status.String(), Total: s.Total, Completed: s.Completed, Failed: s.Failed, InDoubt: s.InDoubt,
		CreatedAt: jsonTime(s.CreatedAt), StartedAt: jsonTime(s.StartedAt), FinishedAt: jsonTime(s.EndedAt),
		Retried: s.Retried, Paused: s.Paused, Quarantined: s.Quarantined, GroupID: s.GroupID,
	}
	if s.RetryOf != (batch.Ticket{}) {
		out.RetryOf = s.RetryOf.String()
	}
	return out
}

// searchPage skips offset batches that a filter selects, and returns the next ones, at most limit.
func (s *API) searchPage(c *call, f storage.Filter, limit, offset int) (found []storage.Summary, err error) {
	for {
		f.Limit = min(offset+limit-len(found), 1000)
		page, err := s.findPage(c, f)
		if err != nil {
			return nil, err
		}
		skipped := min(offset, len(page.Batches))
		offset -= skipped
		found = append(found, page.Batches[skipped:]...)
		if f.After = page.Next; f.After == 0 || len(found) == limit {
			return found, nil
		}
	}
}
