package api

import (
	"time"

	"github.com/sheafapi/sheaf/internal/api/reply"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// timeline answers with the progress of each request of a batch, without the bodies.
func (s *API) timeline(c *call) error {
	ticket := c.query.requiredTicket("set it to the ticket of the batch whose timeline you want.")
	if c.query.err != nil {
		return c.query.err
	}
	a := s.source.Answer(&c.Call)
	defer a.Free()
	ctx := c.Ctx()
	st, err := s.Storage.Status(ctx, c.Key(ticket), 0)
	if err != nil {
		return s.storageFailed(c, "timeline", ticket, err)
	}
	requests, options, err := a.Requests(st.ID, 0, -1)
	if err != nil {
		return s.storageFailed(c, "timeline", ticket, err)
	}
	marks, err := s.Storage.Marks(ctx, st.ID)
	if err != nil {
		return s.storageFailed(c, "timeline", ticket, err)
	}
	now := time.Now()
	a.Open()
	a.Buf = batch.AppendHead(a.Buf, st.Status, st.Total, st.Completed)
	a.Buf = reply.AppendDetails(a.Buf, st, now)
	a.Buf = append(appendOptions(a.Buf, &options), `,"requests":[`...)
	for i := range requests {
		var m storage.Mark
		if len(marks) > 0 && marks[0].Index == i {
			m, marks = marks[0], marks[1:]
		}
		if i > 0 {
			a.Buf = append(a.Buf, ',')
		}
		if err := a.AppendJSON(progress(i, &requests[i], &m, st)); err != nil {
			return err
		}
		a.Flush()
	}
	a.Buf = append(a.Buf, `]}`...)
	a.End()
	return nil
}

// The states of a request that has not ended.
const (
	statePending = "PENDING" // not sent yet
	stateRunning = "RUNNING" // may have been sent; a read, which needs no mark, stays PENDING
	stateWaiting = "WAITING" // will be sent again later
)

// progressJSON is the JSON form of a request's progress.
type progressJSON struct {
	Index          int    `json:"index"`
	ID             string `json:"id,omitzero"`
	Method         string `json:"method"`
	Path           string `json:"path"`
	Status         string `json:"status"`
	Reason         string `json:"reason,omitzero"` // only of a request that was not executed
	HTTPStatusCode int    `json:"httpStatusCode,omitzero"`
	HTTPStatusLine string `json:"httpStatusLine,omitzero"`
	InDoubt        bool   `json:"inDoubt,omitzero"`
	Attempts       int    `json:"attempts,omitzero"`
	Retries        int    `json:"retries,omitzero"`
	Throttles      int    `json:"throttles,omitzero"`
	StartedAt      string `json:"startedAt,omitzero"`
	ThrottledAt    string `json:"throttledAt,omitzero"`
	EndedAt        string `json:"endedAt,omitzero"`
	NextAttemptAt  string `json:"nextAttemptAt,omitzero"`
	LastAttemptAt  string `json:"lastAttemptAt,omitzero"`
}

func progress(i int, r *batch.Request, m *storage.Mark, st *storage.Status) progressJSON {
	p := progressJSON{Index: i, ID: r.ID, Method: r.Method, Path: r.Path, Status: statePending}
	switch {
	case m.State == storage.Done:
		p.Status = m.Result.Status.String()
	case st.Status == batch.Completed:
		p.Status = batch.NotExecuted.String()
	case m.State == storage.Begun:
		p.Status = stateRunning
	case m.State == storage.Waiting:
		p.Status = stateWaiting
	}
	if m.State == storage.Done && m.Result.Status == batch.NotExecuted {
		p.Reason = m.Result.Line
		return p
	}
	p.HTTPStatusCode, p.HTTPStatusLine, p.InDoubt = m.Result.Code, m.Result.Line, m.InDoubt()
	p.Attempts, p.Retries, p.Throttles = m.Tries.Attempts, m.Tries.Retries, m.Tries.Throttles
	p.StartedAt, p.ThrottledAt, p.EndedAt = jsonTime(m.Tries.StartedAt), jsonTime(m.Tries.ThrottledSince), jsonTime(m.Tries.EndedAt)
	switch {
	case m.State == storage.Waiting:
		p.NextAttemptAt = jsonTime(m.NotBefore)
	case m.State == storage.Done && m.Tries.Attempts > 1:
		p.LastAttemptAt = jsonTime(m.NotBefore)
	}
	return p
}
