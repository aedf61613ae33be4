package reply

import (
	"strconv"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// View says which responses of a batch an answer contains, and in which form.
type View struct {
	Form      batch.Form
	Responses bool
	After     int                // only responses after this index; -1: from the first
	Limit     int                // maximum number of responses; 0: no limit
	Only      batch.ResultStatus // only responses with this status; 0: any
	InDoubt   bool               // only responses in doubt
	Indexed   bool               // each response has its index
	Details   bool

	mediaType string
	all       bool            // with requests that were not executed
	requests  []batch.Request // for Details; only ids, methods and paths
}

// Accept sets the media type that the client prefers. Lines always have an index.
func (v *View) Accept(c *Call) {
	v.mediaType = mediaType(c.R.Header)
	v.Indexed = v.Indexed || v.lines()
}

// lines reports whether each response is a line, and the answer has nothing else.
func (v *View) lines() bool { return v.mediaType == linesType }

// IsStream reports whether the client wants a stream of events.
func (v *View) IsStream() bool { return v.mediaType == eventsType }

// Tag returns the validator of a status in this view (RFC 9110, section 8.8.3). It is weak, because
// the same status may be compressed or not.
func (v *View) Tag(st *storage.Status, query string) string {
	const prime, basis = 1099511628211, 14695981039346656037 // FNV-1a, without the allocation of hash/fnv
	hash := uint64(basis)
	for i := range len(query) {
		hash = (hash ^ uint64(query[i])) * prime
	}
	if v.lines() {
		hash++
	}
	if v.Responses {
		hash += 2
	}
	if !st.Quarantined.IsZero() {
		hash += 4
	}
	if v.Details {
		hash += uint64(st.Wait.For) << 3
	}
	b := append(make([]byte, 0, 64), `W/"`...)
	b = append(strconv.AppendInt(b, int64(st.Status), 10), '-')
	b = append(strconv.AppendInt(b, int64(st.Completed), 10), '-')
	b = append(strconv.AppendInt(b, int64(st.Ended.Len()), 10), '-')
	return string(append(strconv.AppendUint(b, hash, 16), '"'))
}

// has reports whether the view contains a response.
func (v *View) has(r *storage.IndexedResult) bool {
	return (v.Only == 0 || r.Status == v.Only) && (!v.InDoubt || r.InDoubt)
}

// append appends one response. It may call flush after each piece: see batch.Form.
func (v *View) append(dst []byte, ids []string, r *storage.IndexedResult, flush func([]byte) []byte) []byte {
	id := ""
	if ids != nil {
		id = ids[r.Index]
	}
	form, from := v.Form, len(dst)
	form.Flush = func(dst []byte) []byte {
		if v.lines() {
			oneLine(dst[from:])
		}
		dst = flush(dst)
		from = len(dst)
		return dst
	}
	if !v.Indexed {
		return form.AppendResult(dst, id, &r.Result, r.InDoubt)
	}
	var d *batch.Details
	if v.requests != nil && r.Index < len(v.requests) {
		d = &batch.Details{Request: &v.requests[r.Index], Attempts: r.Attempts, StartedAt: r.StartedAt, EndedAt: r.EndedAt, Throttles: r.Throttles, ThrottledAt: r.ThrottledSince}
	}
	dst = form.AppendIndexed(dst, r.Index, id, &r.Result, r.InDoubt, d)
	if v.lines() {
		oneLine(dst[from:])
	}
	return dst
}

// oneLine replaces the line breaks in a JSON text, which occur only between tokens, with spaces.
func oneLine(text []byte) {
	for i, c := range text {
		if c == '\n' || c == '\r' {
			text[i] = ' '
		}
	}
}

// AppendDetails appends the details of a whole batch.
func AppendDetails(dst []byte, st *storage.Status, now time.Time) []byte {
	dst = appendFailures(dst, st.Failed, st.InDoubt)
	dst = appendTime(dst, "createdAt", st.CreatedAt)
	dst = appendTime(dst, "startedAt", st.StartedAt)
	dst = appendTime(dst, "finishedAt", st.EndedAt)
	if st.RetryOf != (batch.Ticket{}) {
		dst = append(append(append(dst, `,"retryOf":"`...), st.RetryOf.String()...), '"')
	}
	if st.Paused {
		dst = append(dst, `,"paused":true`...)
	}
	if !st.Quarantined.IsZero() {
		dst = appendTime(dst, "quarantinedAt", st.Quarantined)
		dst = batch.AppendString(append(dst, `,"quarantineReason":`...), st.Reason)
	}
	switch {
	case st.Paused:
	case st.Wait.For != storage.NoWait:
		dst = appendWait(append(dst, ','), st.Wait)
	case st.NotBefore.After(now):
		dst = appendTime(dst, "waitsUntil", st.NotBefore)
	}
	if st.GroupID != "" {
		dst = batch.AppendString(append(dst, `,"groupId":`...), st.GroupID)
	}
	return dst
}

// appendWait appends what a batch waits for; nothing if it doesn't wait.
func appendWait(dst []byte, w storage.Wait) []byte {
	if w.For == storage.NoWait {
		return dst
	}
	dst = append(append(append(dst, `"waitingFor":"`...), w.For.String()...), '"')
	return appendTime(dst, "waitingSince", w.Since)
}

// appendFailures appends how many requests failed, and how many of these are in doubt.
func appendFailures(dst []byte, failed, inDoubt int) []byte {
	dst = strconv.AppendInt(append(dst, `,"failedRequests":`...), int64(failed), 10)
	return strconv.AppendInt(append(dst, `,"inDoubtRequests":`...), int64(inDoubt), 10)
}

// appendTime appends a time, unless it is zero.
func appendTime(dst []byte, name string, t time.Time) []byte {
	if t.IsZero() {
		return dst
	}
	dst = append(append(append(dst, `,"`...), name...), `":"`...)
	return append(t.UTC().AppendFormat(dst, batch.Moment), '"')
}
