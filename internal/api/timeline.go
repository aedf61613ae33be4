package api

import (
	"strconv"
	"time"

	"github.com/sheafapi/sheaf/internal/api/reply"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// timeline answers with the progress of each request of a batch, without the bodies.
func (s *API) timeline(c *call) error {
	ticket, err := c.query.theTicket("name the batch whose timeline you want.")
	if err != nil {
		return err
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
	a.Buf = append(a.Buf, `,"parallel":`...)
	a.Buf = strconv.AppendBool(a.Buf, options.Parallel)
	a.Buf = append(a.Buf, `,"stopOnFirstFailure":`...)
	a.Buf = strconv.AppendBool(a.Buf, options.StopOnFailure)
	a.Buf = append(a.Buf, `,"requests":[`...)
	for i := range requests {
		var m storage.Mark
		if len(marks) > 0 && marks[0].Index == i {
			m, marks = marks[0], marks[1:]
		}
		if i > 0 {
			a.Buf = append(a.Buf, ',')
		}
		a.Buf = appendProgress(a.Buf, i, &requests[i], &m, st)
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

// appendProgress appends the progress of a request.
func appendProgress(dst []byte, i int, r *batch.Request, m *storage.Mark, st *storage.Status) []byte {
	moment := func(name string, t time.Time) {
		if !t.IsZero() {
			dst = append(append(append(dst, `,"`...), name...), `":"`...)
			dst = append(t.UTC().AppendFormat(dst, batch.Moment), '"')
		}
	}
	number := func(name string, n int) {
		if n > 0 {
			dst = strconv.AppendInt(append(append(append(dst, `,"`...), name...), `":`...), int64(n), 10)
		}
	}
	dst = strconv.AppendInt(append(dst, `{"index":`...), int64(i), 10)
	if r.ID != "" {
		dst = batch.AppendString(append(dst, `,"id":`...), r.ID)
	}
	dst = append(append(append(dst, `,"method":"`...), r.Method...), '"')
	dst = batch.AppendString(append(dst, `,"path":`...), r.Path)
	word := statePending
	switch {
	case m.State == storage.Done:
		word = m.Result.Status.String()
	case st.Status == batch.Completed:
		word = batch.NotExecuted.String()
	case m.State == storage.Begun:
		word = stateRunning
	case m.State == storage.Waiting:
		word = stateWaiting
	}
	dst = append(append(append(dst, `,"status":"`...), word...), '"')
	if m.State == storage.Done && m.Result.Status == batch.NotExecuted {
		if m.Result.Line != "" {
			dst = batch.AppendString(append(dst, `,"reason":`...), m.Result.Line)
		}
		return append(dst, '}')
	}
	number("httpStatusCode", m.Result.Code)
	if m.Result.Line != "" {
		dst = batch.AppendString(append(dst, `,"httpStatusLine":`...), m.Result.Line)
	}
	if m.InDoubt() {
		dst = append(dst, `,"inDoubt":true`...)
	}
	number("attempts", m.Tries.Attempts)
	number("retries", m.Tries.Retries)
	number("throttles", m.Tries.Throttles)
	moment("startedAt", m.Tries.StartedAt)
	moment("throttledAt", m.Tries.ThrottledSince)
	moment("endedAt", m.Tries.EndedAt)
	switch {
	case m.State == storage.Waiting:
		moment("nextAttemptAt", m.NotBefore)
	case m.State == storage.Done && m.Tries.Attempts > 1:
		moment("lastAttemptAt", m.NotBefore)
	}
	return append(dst, '}')
}
