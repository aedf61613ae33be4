package api

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// view is which responses of a batch are told, and how.
type view struct {
	responses bool
	form      batch.Form
	all       bool // with what was not executed for no reason of its own
	after     int  // those behind this index; -1: from the first one on
	limit     int  // at most so many; 0: all
	only      batch.ResultStatus
	inDoubt   bool            // only those in doubt
	indexed   bool            // each tells its index
	mediaType string          // of the answer
	lines     bool            // each is a line, and nothing else is told
	requests  []batch.Request // each tells details; nil: no. Only methods and paths: see headsOf
	details   bool
}

// inDoubt is the value that selects requests that are FAILED and in doubt.
const inDoubt = "IN_DOUBT"

// view reads what a status is asked for.
func (c *call) view() (v view, err error) {
	if v.form.Escaped, err = c.query.boolean("escapedJson", false); err != nil {
		return v, err
	}
	if v.responses, err = c.query.boolean("responses", true); err != nil {
		return v, err
	}
	if v.details, err = c.query.boolean("details", false); err != nil {
		return v, err
	}
	if v.after, err = c.query.integer("after", -1, -1, batch.MaxRequests-1); err != nil {
		return v, err
	}
	if v.limit, err = c.query.integer("limit", 0, 1, batch.MaxRequests); err != nil {
		return v, err
	}
	if v.form.Most, err = c.bodyBytes(); err != nil {
		return v, err
	}
	only, given, err := c.query.get("only")
	if err != nil {
		return v, err
	}
	for _, s := range []batch.ResultStatus{batch.Succeeded, batch.Failed, batch.NotExecuted} {
		if given && only == s.String() {
			v.only = s
		}
	}
	v.inDoubt = only == inDoubt
	if given && v.only == 0 && !v.inDoubt {
		return v, fail(wrongParameter, "Parameter only must be one of COMPLETED, FAILED, IN_DOUBT, NOT_EXECUTED.")
	}
	v.mediaType = statusType(c.r.Header)
	v.lines = v.mediaType == linesType
	v.responses = v.responses && c.r.Method != http.MethodHead
	v.indexed = v.lines || v.details || v.after >= 0 || v.limit > 0 || given
	return v, nil
}

// tag is the validator of a status in this view (RFC 9110, section 8.8.3). It is weak: the
// same status may come compressed or not.
func (v *view) tag(st *storage.Status, query string) string {
	const prime, basis = 1099511628211, 14695981039346656037 // FNV-1a
	hash := uint64(basis)
	for i := range len(query) {
		hash = (hash ^ uint64(query[i])) * prime
	}
	if v.lines {
		hash++
	}
	if v.responses {
		hash += 2
	}
	if !st.Quarantined.IsZero() {
		hash += 4
	}
	b := append(make([]byte, 0, 64), `W/"`...)
	b = append(strconv.AppendInt(b, int64(st.Status), 10), '-')
	b = append(strconv.AppendInt(b, int64(st.Completed), 10), '-')
	b = append(strconv.AppendInt(b, int64(st.Ended.Len()), 10), '-')
	return string(append(strconv.AppendUint(b, hash, 16), '"'))
}

// unchanged reports whether the client has the status already (RFC 9110, section 13.1.2).
func unchanged(h http.Header, tag string) bool {
	for _, field := range h.Values("If-None-Match") {
		for part := range strings.SplitSeq(field, ",") {
			if part = strings.TrimSpace(part); part == "*" || strings.TrimPrefix(part, "W/") == strings.TrimPrefix(tag, "W/") {
				return true
			}
		}
	}
	return false
}

// pauses are the values of Retry-After, by seconds.
var pauses = func() (out [11][]string) {
	for i := range out {
		out[i] = []string{strconv.Itoa(i)}
	}
	return out
}()

// pause is when it makes sense to ask for an unfinished batch again: in about a tenth of
// the time that the rest will take, from one second to ten.
func pause(st *storage.Status, now time.Time) []string {
	if st.Completed == 0 || st.StartedAt.IsZero() {
		return pauses[2]
	}
	each := now.Sub(st.StartedAt) / time.Duration(st.Completed)
	return pauses[min(max(each*time.Duration(st.Total-st.Completed)/10, time.Second), 10*time.Second)/time.Second]
}

// appendBatchDetails appends what details=true tells of the whole batch.
func appendBatchDetails(dst []byte, st *storage.Status, now time.Time) []byte {
	dst = appendFailures(dst, st.Failed, st.InDoubt)
	dst = appendMoments(dst, st.CreatedAt, st.StartedAt, st.EndedAt)
	if st.RetryOf != (batch.Ticket{}) {
		dst = append(append(append(dst, `,"retryOf":"`...), st.RetryOf.String()...), '"')
	}
	if st.Paused {
		dst = append(dst, `,"paused":true`...)
	}
	if !st.Quarantined.IsZero() {
		dst = append(dst, `,"quarantinedAt":"`...)
		dst = append(st.Quarantined.UTC().AppendFormat(dst, batch.Moment), '"')
		dst = batch.AppendString(append(dst, `,"quarantineReason":`...), st.Reason)
	}
	if !st.Paused && st.NotBefore.After(now) {
		dst = append(dst, `,"waitsUntil":"`...)
		dst = append(st.NotBefore.UTC().AppendFormat(dst, batch.Moment), '"')
	}
	if st.GroupID != "" {
		dst = batch.AppendString(append(dst, `,"groupId":`...), st.GroupID)
	}
	return dst
}

// appendFailures appends how many requests failed, and how many of these are in doubt.
func appendFailures(dst []byte, failed, inDoubt int) []byte {
	dst = strconv.AppendInt(append(dst, `,"failedRequests":`...), int64(failed), 10)
	return strconv.AppendInt(append(dst, `,"inDoubtRequests":`...), int64(inDoubt), 10)
}

// appendMoments appends those of a batch's life that have come.
func appendMoments(dst []byte, created, started, ended time.Time) []byte {
	for _, m := range []struct {
		name string
		at   time.Time
	}{{"createdAt", created}, {"startedAt", started}, {"finishedAt", ended}} {
		if !m.at.IsZero() {
			dst = append(append(append(dst, `,"`...), m.name...), `":"`...)
			dst = append(m.at.UTC().AppendFormat(dst, batch.Moment), '"')
		}
	}
	return dst
}

// append appends one response. flush may be called after each piece of it: see batch.Form.
func (v *view) append(dst []byte, id string, r *storage.IndexedResult, flush func([]byte) []byte) []byte {
	form, from := v.form, len(dst)
	form.Flush = func(dst []byte) []byte {
		if v.lines {
			oneLine(dst[from:])
		}
		dst = flush(dst)
		from = len(dst)
		return dst
	}
	if !v.indexed {
		return form.AppendResult(dst, id, &r.Result, r.InDoubt)
	}
	var d *batch.Details
	if v.requests != nil && r.Index < len(v.requests) {
		d = &batch.Details{Request: &v.requests[r.Index], Attempts: r.Attempts, StartedAt: r.StartedAt, EndedAt: r.EndedAt, Throttles: r.Throttles, ThrottledAt: r.ThrottledSince}
	}
	dst = form.AppendIndexed(dst, r.Index, id, &r.Result, r.InDoubt, d)
	if v.lines {
		oneLine(dst[from:])
	}
	return dst
}

// oneLine takes the line ends out of a JSON text: they stand between its tokens only.
func oneLine(text []byte) {
	for i, c := range text {
		if c == '\n' || c == '\r' {
			text[i] = ' '
		}
	}
}
