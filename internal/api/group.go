package api

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// cancelGroup stops the unfinished batches of a group, or one batch
// (docs/contract.md#cancel-a-batch-or-a-group).
func (s *API) cancelGroup(c *call) error {
	sel := storage.Selection{Store: c.store, Owner: c.owner}
	var byTicket bool
	var err error
	if sel.Ticket, byTicket, err = c.query.ticket(); err != nil {
		return err
	}
	if sel.GroupID, err = c.query.group(); err != nil {
		return err
	}
	escaped, err := c.query.boolean("escapedJson", false)
	if err != nil {
		return err
	}
	if !byTicket && sel.GroupID == "" {
		return fail(wrongParameter, "Parameter groupId (a group) or ticketId (one batch) is missing.")
	}
	var stopped storage.StopResult
	// The zero ticket is one that can't exist. To storage it would mean the whole group.
	if known := sel.Ticket != (batch.Ticket{}); known || !byTicket {
		if stopped, err = s.Storage.Stop(c.r.Context(), sel); err != nil {
			return s.storageFailed(c, "stop", sel.Ticket, err)
		}
	}
	for _, queue := range stopped.Queues {
		s.Notify(queue)
	}
	s.hub.ChangedAny()
	s.Logger.Debug("batches stopped", "store", c.store, "count", stopped.Count)

	a := s.newAnswer(c)
	defer a.free()
	a.open()
	a.buf = append(a.buf, `{"updateCount":`...)
	a.buf = strconv.AppendInt(a.buf, int64(stopped.Count), 10)
	if byTicket && escaped {
		if err := a.whatHadRun(sel); err != nil {
			return err
		}
	}
	a.buf = append(a.buf, '}')
	a.end()
	return nil
}

// whatHadRun appends the responses of the selected batch that had ended, if there is
// such a batch.
func (a *answer) whatHadRun(sel storage.Selection) error {
	if sel.Ticket == (batch.Ticket{}) {
		return nil
	}
	if err := a.reserve(); err != nil {
		return err
	}
	st, err := a.s.Storage.Status(a.c.r.Context(), a.c.key(sel.Ticket), pageBytes)
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return nil
	case err != nil:
		return a.s.storageFailed(a.c, "status", sel.Ticket, err)
	case sel.GroupID != "" && sel.GroupID != st.GroupID:
		return nil
	}
	a.buf = append(a.buf, `,"responses":[`...)
	if err := a.responses(st, &view{form: batch.Form{Escaped: true}, after: -1}, ","); err != nil {
		return err
	}
	a.buf = append(a.buf, ']')
	return nil
}

// group counts over the caller's batches of a group.
func (s *API) group(c *call) error {
	group, err := c.query.group()
	switch {
	case err != nil:
		return err
	case group == "":
		return fail(wrongParameter, "Parameter groupId is missing: name the group to count over.")
	}
	n, err := s.Storage.Group(c.r.Context(), c.store, c.owner, group)
	if err != nil {
		return s.storageFailed(c, "group", batch.Ticket{}, err)
	}
	body := batch.AppendString([]byte(`{"groupId":`), group)
	body = fmt.Appendf(body, `,"batches":{"QUEUED":%d,"IN_PROGRESS":%d,"COMPLETED":%d},"totalRequests":%d,"completedRequests":%d,"responses":{"COMPLETED":%d,"FAILED":%d,"NOT_EXECUTED":%d},"inDoubtRequests":%d}`,
		n.Queued, n.InProgress, n.Completed, n.Requests, n.Succeeded+n.Failed, n.Succeeded, n.Failed, n.NotExecuted, n.InDoubt)
	c.send(http.StatusOK, body)
	return nil
}
