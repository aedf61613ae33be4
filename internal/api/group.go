package api

import (
	"errors"
	"strconv"

	"github.com/sheafapi/sheaf/internal/api/reply"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// cancelGroup stops the unfinished batches of a group, or one batch
// (docs/contract.md#cancel-a-batch-or-a-group).
func (s *API) cancelGroup(c *call) error {
	sel := storage.Selection{Store: c.Store, Owner: c.Owner}
	var byTicket bool
	sel.Ticket, byTicket = c.query.ticket()
	sel.GroupID = c.query.group()
	escaped := c.query.boolean("escapedJson", false)
	if c.query.err != nil {
		return c.query.err
	}
	if !byTicket && sel.GroupID == "" {
		return fail(wrongParameter, "Parameter groupId (a group) or ticketId (one batch) is missing.")
	}
	var stopped storage.StopResult
	// A malformed ticket is parsed as the zero ticket, which no batch has. Don't pass it on:
	// storage would stop the whole group.
	if known := sel.Ticket != (batch.Ticket{}); known || !byTicket {
		var err error
		if stopped, err = s.Storage.Stop(c.R.Context(), sel); err != nil {
			return s.storageFailed(c, "stop", sel.Ticket, err)
		}
	}
	for _, queue := range stopped.Queues {
		s.Notify(queue)
	}
	s.Hub.ChangedAny()
	s.Logger.Debug("batches stopped", "store", c.Store, "count", stopped.Count)

	a := s.source.Answer(&c.Call)
	defer a.Free()
	a.Open()
	a.Buf = append(a.Buf, `{"updateCount":`...)
	a.Buf = strconv.AppendInt(a.Buf, int64(stopped.Count), 10)
	if byTicket && escaped {
		if err := s.appendEnded(c, a, sel); err != nil {
			return s.storageFailed(c, "status", sel.Ticket, err)
		}
	}
	a.Buf = append(a.Buf, '}')
	a.End()
	return nil
}

// appendEnded appends the responses of the requests that have run in the selected batch. It appends
// nothing if there is no such batch.
func (s *API) appendEnded(c *call, a *reply.Answer, sel storage.Selection) error {
	if sel.Ticket == (batch.Ticket{}) {
		return nil
	}
	v := reply.View{Form: batch.Form{Escaped: true}, Responses: true, After: -1}
	st, err := a.Status(c.Key(sel.Ticket), &v)
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return nil
	case err != nil:
		return err
	case sel.GroupID != "" && sel.GroupID != st.GroupID:
		return nil
	}
	a.Buf = append(a.Buf, `,"responses":[`...)
	if err := a.Responses(st, &v, ","); err != nil {
		return err
	}
	a.Buf = append(a.Buf, ']')
	return nil
}

// group counts the caller's batches in a group, and their requests.
func (s *API) group(c *call) error {
	group := c.query.group()
	switch {
	case c.query.err != nil:
		return c.query.err
	case group == "":
		return fail(wrongParameter, "Parameter groupId is missing. Set it to the group to count.")
	}
	n, err := s.Storage.Group(c.R.Context(), c.Store, c.Owner, group)
	if err != nil {
		return s.storageFailed(c, "group", batch.Ticket{}, err)
	}
	out := groupJSON{GroupID: group, Requests: n.Requests, Completed: n.Succeeded + n.Failed, InDoubt: n.InDoubt}
	out.Batches.Queued, out.Batches.InProgress, out.Batches.Completed = n.Queued, n.InProgress, n.Completed
	out.Responses.Completed, out.Responses.Failed, out.Responses.NotExecuted = n.Succeeded, n.Failed, n.NotExecuted
	return c.JSON(out)
}

// groupJSON is the JSON form of a group's counts.
type groupJSON struct {
	GroupID string `json:"groupId"`
	Batches struct {
		Queued     int `json:"QUEUED"`
		InProgress int `json:"IN_PROGRESS"`
		Completed  int `json:"COMPLETED"`
	} `json:"batches"`
	Requests  int `json:"totalRequests"`
	Completed int `json:"completedRequests"`
	Responses struct {
		Completed   int `json:"COMPLETED"`
		Failed      int `json:"FAILED"`
		NotExecuted int `json:"NOT_EXECUTED"`
	} `json:"responses"`
	InDoubt int `json:"inDoubtRequests"`
}
