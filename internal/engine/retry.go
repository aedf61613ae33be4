package engine

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/sheafapi/sheaf/batch"
	"github.com/sheafapi/sheaf/internal/governor"
	"github.com/sheafapi/sheaf/internal/outbound"
	"github.com/sheafapi/sheaf/storage"
)

// Bounds of the pause after an answer 429 (wire contract, "How batches run").
// The least one keeps a Retry-After of 0 from becoming a busy loop.
const (
	leastThrottle = 100 * time.Millisecond
	firstThrottle = time.Second
	mostThrottle  = storage.HoldLimit
)

// Policy decides what follows an attempt. It is a pure function of the request,
// what was tried so far, the answer and the clock.
type Policy struct {
	RetryLimit    int           // retries of one request after failures
	RetryInterval time.Duration // pause before a retry
	ThrottleLimit time.Duration // how long 429 is no failure, from a request's first one
	Success       func(code int) bool
	RetryInDoubt  bool // send a POST or PATCH again whose outcome is unknown
}

// judge returns the mark that an attempt leaves: Done, or Waiting for the next
// attempt. t counts the attempt already.
func (p *Policy) judge(r *batch.Request, o batch.Options, t storage.Tries, a *outbound.Answer, now time.Time) storage.Mark {
	t.EndedAt = now
	m := storage.Mark{State: storage.Done, Tries: t, Result: batch.Result{
		Status: batch.Failed, Code: a.Code, Line: a.Line, Body: a.Body, Kind: batch.KindOf(a.Body), Headers: a.Kept(),
	}}
	switch {
	case a.Outcome == outbound.Answered && a.Code == http.StatusTooManyRequests:
		p.throttle(&m, a, now)
	case a.Outcome == outbound.Answered && (p.Success(a.Code) || gone(r, t, a.Code)):
		m.Result.Status = batch.Succeeded
	default:
		p.fail(&m, r, o, a, now)
	}
	return m
}

// gone reports whether the answer says that a DELETE, which may have taken
// effect before, has: it found nothing.
func gone(r *batch.Request, t storage.Tries, code int) bool {
	return r.Method == http.MethodDelete && t.MaybeDone && (code == http.StatusNotFound || code == http.StatusGone)
}

// throttle handles an answer 429: no failure until the limit has passed.
func (p *Policy) throttle(m *storage.Mark, a *outbound.Answer, now time.Time) {
	t := &m.Tries
	if t.Throttles++; t.ThrottledSince.IsZero() {
		t.ThrottledSince = now
	}
	if now.Sub(t.ThrottledSince) >= p.ThrottleLimit {
		return
	}
	m.State = storage.Waiting
	m.NotBefore = batch.CeilMillis(now.Add(throttlePause(a.Header.Get("Retry-After"), t.Throttles, now)))
}

// fail handles a failure: with stopOnFirstFailure it is the end, else some are
// tried again.
func (p *Policy) fail(m *storage.Mark, r *batch.Request, o batch.Options, a *outbound.Answer, now time.Time) {
	if o.StopOnFailure {
		return
	}
	var again bool
	switch a.Outcome {
	case outbound.Answered:
		again = a.Code >= 500
		m.Tries.MaybeDone = m.Tries.MaybeDone || again
	case outbound.NotSent:
		again = true
	case outbound.Doubt:
		again = r.Repeatable() || p.RetryInDoubt
		m.Tries.MaybeDone = true
	case outbound.TooLarge: // the next answer would be as large
	case outbound.Withheld: // nothing has failed; not judged here
	}
	if again && m.Tries.Retries < p.RetryLimit {
		m.Tries.Retries++
		m.State = storage.Waiting
		m.NotBefore = batch.CeilMillis(now.Add(p.RetryInterval))
	}
}

// longest is the longest pause before any attempt. What is stored and lies further
// ahead was written while the clock was wrong.
func (p *Policy) longest() time.Duration { return max(mostThrottle, p.RetryInterval) }

// throttlePause reads a Retry-After (RFC 9110, section 10.2.3: seconds or a
// date). Without a usable one the pause doubles with every 429, n of them so far.
func throttlePause(header string, n int, now time.Time) time.Duration {
	pause, ok := retryAfter(header, now)
	if ok {
		return pause
	}
	if shift := n - 1; shift < 16 {
		return min(firstThrottle<<shift, mostThrottle)
	}
	return mostThrottle
}

// retryAfter reads a Retry-After, and reports whether it is a usable one.
func retryAfter(header string, now time.Time) (pause time.Duration, ok bool) {
	header = strings.TrimSpace(header)
	if seconds, err := strconv.ParseUint(header, 10, 32); err == nil || errors.Is(err, strconv.ErrRange) {
		pause = time.Duration(seconds) * time.Second
	} else if date, err := http.ParseTime(header); err == nil {
		pause = date.Sub(now)
	} else {
		return 0, false
	}
	return min(max(pause, leastThrottle), mostThrottle), true
}

// lesson is what the governor learns from an attempt that was made.
func lesson(a *outbound.Answer, asked, began, ended time.Time) governor.Answer {
	out := governor.Answer{Kind: governor.Fine, Asked: asked, Began: began, Ended: ended}
	switch {
	case a.Outcome == outbound.Answered && a.Code == http.StatusTooManyRequests:
		out.Kind, out.Pause = governor.Throttled, throttlePause(a.Header.Get("Retry-After"), 1, ended)
	case a.Outcome == outbound.Answered && a.Code == http.StatusServiceUnavailable:
		out.Kind = governor.Busy
		out.Pause, _ = retryAfter(a.Header.Get("Retry-After"), ended)
	case a.Outcome == outbound.Doubt:
		out.Kind = governor.Lost
	case a.Outcome == outbound.NotSent:
		out.Kind = governor.Silent
	}
	return out
}

// unknown is the result of a request that was in flight when its node died and
// that must not be sent again.
var unknown = batch.Result{
	Status: batch.Failed,
	Code:   http.StatusBadGateway,
	Line:   "Bad Gateway: the service was interrupted while this request was under way; it is not known whether the upstream carried it out, and it was not sent again",
}

// Unknown returns the result of a request whose outcome a crash has made unknown.
func Unknown() batch.Result { return unknown }

// recovered returns what becomes of a request that may have been in flight when
// the batch's last runner lost it. halted says that the batch starts nothing more.
func (p *Policy) recovered(r *batch.Request, m storage.Mark, halted bool, now time.Time) storage.Mark {
	if !halted && (r.Repeatable() || p.RetryInDoubt) {
		m.State, m.NotBefore = storage.Waiting, now
		m.Tries.MaybeDone = true
		m.Result = unknown
		return m
	}
	m.State, m.Result = storage.Done, unknown
	m.Tries.EndedAt = now
	return m
}
