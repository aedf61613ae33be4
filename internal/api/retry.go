package api

import (
	"bytes"
	"slices"

	"github.com/google/uuid"
	"github.com/sheafapi/sheaf/internal/api/reply"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// retry creates a batch that repeats the failed and unexecuted requests of another one, in the same
// order and with the same options. Until the new batch has ended, the same call returns its ticket.
func (s *API) retry(c *call) error {
	ticket := c.query.requiredTicket("set it to the ticket of the batch to retry.")
	if _, err := s.callback(c); err != nil {
		return err
	}
	which := c.query.repeat()
	dry := c.query.boolean("dryRun", false)
	if c.query.err != nil {
		return c.query.err
	}
	h := c.Hold(s.memory.decodes)
	defer h.Free()
	b, inDoubt, err := s.repetition(c, &h, ticket, which)
	if err != nil {
		return err
	}
	out := retryJSON{Valid: dry, Requests: len(b.Requests), InDoubt: inDoubt}
	if dry {
		return c.JSON(out)
	}
	if len(b.Requests) == 0 {
		return nothingToRepeat(inDoubt)
	}
	made, isNew, err := s.keep(c, b)
	if err != nil {
		return err
	}
	if !isNew {
		if err := s.checkRetry(c, made, b); err != nil {
			return err
		}
	}
	c.created = made
	out.Ticket = made.String()
	return c.JSON(out)
}

// retryJSON is the answer to a retry.
type retryJSON struct {
	Valid    bool   `json:"valid,omitzero"`  // set only for a dry run
	Ticket   string `json:"ticket,omitzero"` // of the new batch; empty for a dry run
	Requests int    `json:"totalRequests"`
	InDoubt  int    `json:"inDoubtRequests"`
}

// checkRetry returns an error if the unfinished retry with this ticket repeats different requests
// from the ones in want.
func (s *API) checkRetry(c *call, ticket batch.Ticket, want *storage.NewBatch) error {
	st, err := s.Storage.Status(c.R.Context(), c.Key(ticket), 0)
	if err != nil {
		return s.storageFailed(c, "retry", ticket, err)
	}
	existing, _, err := s.Storage.Requests(c.Ctx(), st.ID)
	if err != nil {
		return s.storageFailed(c, "retry", ticket, err)
	}
	same := func(a, b batch.Request) bool {
		return a.ID == b.ID && a.Method == b.Method && a.Path == b.Path && bytes.Equal(a.Body, b.Body)
	}
	if !slices.EqualFunc(existing, want.Requests, same) {
		return fail(conflict, "An earlier retry of this batch, %s, is unfinished and repeats other requests. Retry when it is COMPLETED.", ticket)
	}
	return nil
}

// repeat reads the parameter inDoubt of a retry.
func (p *params) repeat() batch.Repeat {
	const name = "inDoubt"
	if value, _ := p.get(name); value == "only" {
		return batch.RepeatInDoubt
	}
	own := params{values: p.values}
	all := own.boolean(name, false)
	switch {
	case own.err != nil:
		p.wrong("Parameter inDoubt must be false, true or only.")
	case all:
		return batch.RepeatAll
	}
	return batch.RepeatCertain
}

// repetition returns a batch that repeats the failed and unexecuted requests of another one, and how
// many requests of the old batch are in doubt. The new batch may be empty. Its memory is reserved in h.
func (s *API) repetition(c *call, h *reply.Hold, ticket batch.Ticket, which batch.Repeat) (*storage.NewBatch, int, error) {
	st, err := s.Storage.Status(c.R.Context(), c.Key(ticket), 0)
	if err != nil {
		return nil, 0, s.storageFailed(c, "retry", ticket, err)
	}
	if st.Status != batch.Completed {
		return nil, 0, fail(conflict, "This batch is %s. Retry its failed requests when it is COMPLETED.", st.Status)
	}
	if err := h.Need(2 * s.source.LargestBatch); err != nil {
		return nil, 0, busy(err)
	}
	old, options, err := s.Storage.Requests(c.Ctx(), st.ID)
	if err != nil {
		return nil, 0, s.storageFailed(c, "retry", ticket, err)
	}
	ends, values, err := s.ends(c, st, old)
	if err != nil {
		return nil, 0, s.storageFailed(c, "retry", ticket, err)
	}
	for i := range old { // the operator may have changed which headers are allowed
		if ends[i].Status == batch.Succeeded {
			continue
		}
		if err := s.Headers.CheckLinks(old[i].Links); err != nil {
			return nil, 0, fail(conflict, "This batch can't be retried as it is: $[%d].%v. Create a new one.", i, err)
		}
	}
	b := &storage.NewBatch{
		Ticket: uuid.New(), Store: c.Store, Owner: c.Owner, Queue: c.queue(), GroupID: st.GroupID, Options: options, RetryOf: ticket,
	}
	if b.Callback, err = s.callback(c); err != nil {
		return nil, 0, err
	}
	doubts := 0
	for i := range ends {
		if ends[i].InDoubt {
			doubts++
		}
	}
	if b.Requests, err = batch.Retry(ticket, ends, values, which); err != nil {
		return nil, 0, fail(conflict, "This batch can't be retried as it is: %v. Create a new one.", err)
	}
	return b, doubts, nil
}

// nothingToRepeat returns the error for a retry that would have no requests. inDoubt is the number
// of requests in doubt, which the retry leaves out.
func nothingToRepeat(inDoubt int) error {
	if inDoubt == 0 {
		return fail(conflict, "This batch has nothing to retry.")
	}
	return fail(conflict, "The only requests left to retry are in doubt: %d. Check whether the API has carried them out, then retry them with inDoubt=only.", inDoubt)
}

// ends reads how the requests of a batch ended, and the values in their answers to which other
// requests of the batch refer.
func (s *API) ends(c *call, st *storage.Status, requests []batch.Request) ([]batch.End, *batch.Values, error) {
	out, values := make([]batch.End, len(requests)), batch.NewValues(requests)
	for i := range out {
		out[i].Status = batch.NotExecuted
	}
	marks, err := s.Storage.Marks(c.R.Context(), st.ID)
	if err != nil {
		return nil, nil, err
	}
	for i := range marks {
		out[marks[i].Index].MaybeDone = marks[i].Tries.MaybeDone
	}
	for from := 0; from < len(requests); {
		page, err := s.Storage.Results(c.Ctx(), st.ID, from, reply.PageBytes)
		if err != nil || len(page) == 0 {
			return out, values, err
		}
		for i := range page {
			r := &page[i]
			values.Take(r.Index, &r.Result)
			// A 4xx answer means that the attempt changed nothing. After any other failure, it may
			// have changed something.
			end := &out[r.Index]
			end.Status, end.MaybeDone, end.InDoubt = r.Status, r.Status == batch.Failed && (end.MaybeDone || r.Code >= 500), r.InDoubt
			from = r.Index + 1
		}
	}
	return out, values, nil
}
