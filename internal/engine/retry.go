package engine

import (
	"bytes"
	"net/http"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/governor"
	"github.com/sheafapi/sheaf/internal/outbound"
	"github.com/sheafapi/sheaf/internal/ratelimit"
	"github.com/sheafapi/sheaf/internal/storage"
)

// Limits of the pause after an answer that refuses a request because of a rate limit
// (docs/contract.md#rate-limits).
const (
	leastThrottle = 100 * time.Millisecond // prevents a busy loop if Retry-After is 0
	firstThrottle = time.Second
	mostThrottle  = 5 * time.Minute // if the answer names no time
)

// Policy decides what happens after an attempt. Its decision depends only on the request, the attempts
// so far, the answer and the time.
type Policy struct {
	RetryLimit      int           // retries of one request after failures
	RetryInterval   time.Duration // pause before a retry
	OutageLimit     time.Duration // how long an outage of the upstream may last before attempts count and requests fail; 0: attempts always count
	CredentialLimit time.Duration // how long requests wait for a new credential after the upstream has stopped accepting theirs; 0: they don't wait
	ThrottleLimit   time.Duration // how long, from a request's first refusal because of a rate limit, refusals don't count as failures
	Success         batch.Success
	RetryInDoubt    bool // send a POST or PATCH again if its outcome is unknown

	backoff batch.Backoff // the pauses before retries; zero: always RetryInterval
}

// of returns the policy for a batch with these options.
func (p Policy) of(o *batch.Options) Policy {
	switch {
	case o.Retries != nil:
		p.RetryLimit = *o.Retries
	case o.StopOnFailure:
		p.RetryLimit = 0
	}
	p.Success, p.backoff = o.Success.Or(p.Success), o.Backoff
	return p
}

// pause returns the pause before the nth retry, counted from 1.
func (p *Policy) pause(n int) time.Duration {
	if p.backoff == (batch.Backoff{}) {
		return p.RetryInterval
	}
	return p.backoff.Pause(n)
}

// judge returns the mark that records an attempt, either Done or Waiting. t already counts the
// attempt. v says whether a failure counts.
func (p *Policy) judge(r *batch.Request, t storage.Tries, a *outbound.Answer, v governor.Verdict, now time.Time) storage.Mark {
	t.EndedAt = now
	body := withoutMark(a.Body)
	m := storage.Mark{State: storage.Done, Tries: t, Result: batch.Result{
		Status: batch.Failed, Code: a.Code, Line: a.Line, Body: body, Kind: batch.KindOf(body), Headers: a.Kept(),
	}}
	excused := v == governor.Unavailable && now.Sub(t.StartedAt) < p.OutageLimit
	refusal, refused := p.refused(a, now)
	complete := a.Outcome == outbound.Answered && !(a.Incomplete && r.Repeatable())
	switch {
	case refused && !excused: // during an outage, a 503 that names a wait is like one that doesn't
		p.throttle(&m, refusal, now)
	case v == governor.Expired && isUnauthorized(a):
		m.State, m.NotBefore = storage.Waiting, storage.CeilMillis(now.Add(p.RetryInterval))
	case complete && p.Success.Codes.Has(a.Code):
		p.accept(&m, a)
	case complete && gone(r, t, a.Code):
		m.Result.Status, m.Tries.InDoubt = batch.Succeeded, false
	default:
		p.fail(&m, r, a, excused, now)
	}
	return m
}

// accept handles an answer whose status code counts as success. If FailWhen finds a value in its body,
// the request has failed. The API has processed it, so it isn't retried and isn't in doubt.
func (p *Policy) accept(m *storage.Mark, a *outbound.Answer) {
	m.Result.Status, m.Tries.InDoubt = batch.Succeeded, false
	isJSON := m.Result.Kind == batch.JSONBody
	if len(p.Success.FailWhen) == 0 || !isJSON && !a.Incomplete {
		return
	}
	if pointer, found := p.Success.Match(m.Result.Body); found {
		m.Result.Status = batch.Failed
		m.Result.Line += "; the answer has a value at " + pointer + " (failWhen)"
	} else if !isJSON { // the value may be in the part that is missing
		m.Result.Status, m.Tries.InDoubt, m.Tries.MaybeDone = batch.Failed, true, true
		m.Result.Line += outcomeUnknown
	}
}

// withoutMark removes the byte order mark that some servers put before JSON, although RFC 8259,
// section 8.1, forbids it. It returns other bodies unchanged.
func withoutMark(body []byte) []byte {
	if text, found := bytes.CutPrefix(body, []byte("\ufeff")); found && batch.KindOf(text) == batch.JSONBody {
		return text
	}
	return body
}

// Texts that follow the reason phrase if the answer doesn't say whether the request was carried out.
const (
	outcomeUnknown  = "; it is not known whether the upstream carried the request out"
	earlierMayCount = "; an earlier attempt may have succeeded"
)

// unknownOutcome reports whether an answer leaves open if a POST or PATCH was carried out, because a
// gateway answered instead of the API behind it (RFC 9110, sections 15.6.3 and 15.6.5).
func unknownOutcome(r *batch.Request, a *outbound.Answer) bool {
	return a.Outcome == outbound.Answered && !r.Repeatable() && (a.Code == http.StatusBadGateway || a.Code == http.StatusGatewayTimeout)
}

// contradicts reports whether an answer suggests that an earlier attempt was carried out: the effect
// of that attempt may have made a precondition fail or caused a conflict.
func contradicts(r *batch.Request, t storage.Tries, a *outbound.Answer) bool {
	return a.Outcome == outbound.Answered && t.MaybeDone && !r.Safe() && (a.Code == http.StatusPreconditionFailed || a.Code == http.StatusConflict)
}

// gone reports whether a DELETE found nothing after an earlier attempt that may have taken effect.
func gone(r *batch.Request, t storage.Tries, code int) bool {
	return r.Method == http.MethodDelete && t.MaybeDone && (code == http.StatusNotFound || code == http.StatusGone)
}

// inDoubt reports whether a failed request is in doubt: it is unknown whether the upstream carried
// it out in this attempt or an earlier one. A lost answer puts only a POST or PATCH in doubt,
// because repeating a PUT or DELETE does no harm.
func inDoubt(r *batch.Request, t storage.Tries, a *outbound.Answer) bool {
	switch {
	case r.Safe():
		return false
	case contradicts(r, t, a):
		return true
	case a.Outcome == outbound.Doubt, a.Outcome == outbound.TooLarge, unknownOutcome(r, a):
		return !r.Repeatable()
	case a.Outcome == outbound.Answered && a.Code < 500:
		return false // the API has processed and rejected the request
	}
	return t.InDoubt // this attempt doesn't change what is known
}

// refused reports whether an answer refuses a request because of a rate limit. A 503 with a time beyond
// ThrottleLimit doesn't if requests wait for the end of outages: it is probably one.
func (p *Policy) refused(a *outbound.Answer, now time.Time) (refusal ratelimit.Refusal, ok bool) {
	if a.Outcome != outbound.Answered || a.Code != http.StatusTooManyRequests && p.Success.Codes.Has(a.Code) {
		return ratelimit.Refusal{}, false
	}
	refusal, ok = ratelimit.Refused(a.Code, a.Header, now)
	if a.Code == http.StatusServiceUnavailable && p.OutageLimit > 0 && refusal.Wait > p.ThrottleLimit {
		return ratelimit.Refusal{}, false
	}
	return refusal, ok
}

// throttle handles a refusal because of a rate limit. It doesn't count as a failure until ThrottleLimit
// has passed, unless the upstream names a later time.
func (p *Policy) throttle(m *storage.Mark, refusal ratelimit.Refusal, now time.Time) {
	t := &m.Tries
	if t.Throttles++; t.ThrottledSince.IsZero() {
		t.ThrottledSince = now
	}
	t.MaybeDone = t.MaybeDone || m.Result.Code >= 500
	if now.Sub(t.ThrottledSince) >= p.ThrottleLimit {
		return
	}
	if until := now.Add(refusal.Wait); p.isTooLate(until, t, now) {
		m.Result.Line += "; " + acceptsNothing(until)
		return
	}
	m.State = storage.Waiting
	m.NotBefore = storage.CeilMillis(now.Add(throttlePause(refusal, t.Throttles)))
}

// isTooLate reports whether a request that may not be sent before the given time would wait beyond
// ThrottleLimit.
func (p *Policy) isTooLate(until time.Time, t *storage.Tries, now time.Time) bool {
	since := now
	if !t.ThrottledSince.IsZero() {
		since = t.ThrottledSince
	}
	return until.Sub(since) > p.ThrottleLimit
}

// acceptsNothing is the reason for not sending a request again.
func acceptsNothing(until time.Time) string {
	return "the API accepts no requests before " + until.UTC().Format(time.RFC3339) + ", which is later than --throttle-limit allows"
}

// isUnavailable reports whether an attempt says that the upstream is unavailable: there was no
// connection, or it closed before an answer, or a gateway or the API itself said so.
func isUnavailable(a *outbound.Answer) bool {
	switch a.Outcome {
	case outbound.Answered:
		return a.Code == http.StatusBadGateway || a.Code == http.StatusServiceUnavailable || a.Code == http.StatusGatewayTimeout
	case outbound.NotSent:
		return true
	case outbound.Doubt:
		return a.Code != http.StatusGatewayTimeout // the connection didn't close, but the attempt timed out
	case outbound.TooLarge, outbound.Withheld, outbound.Refused:
	}
	return false
}

// isUnauthorized reports whether the upstream did not accept the credential.
func isUnauthorized(a *outbound.Answer) bool {
	return a.Outcome == outbound.Answered && a.Code == http.StatusUnauthorized
}

// fail handles a failure. It decides whether the request is sent again. An excused attempt doesn't
// count as a retry.
func (p *Policy) fail(m *storage.Mark, r *batch.Request, a *outbound.Answer, excused bool, now time.Time) {
	unknown := unknownOutcome(r, a)
	switch {
	case unknown:
		m.Result.Line += outcomeUnknown
	case contradicts(r, m.Tries, a):
		m.Result.Line += earlierMayCount
	}
	m.Tries.InDoubt = inDoubt(r, m.Tries, a)
	var again bool
	switch a.Outcome {
	case outbound.Answered:
		lost := a.Incomplete && r.Repeatable() && p.Success.Codes.Has(a.Code) // the request was carried out, but another attempt may get the whole answer
		again = a.Code >= 500 && (!unknown || p.RetryInDoubt) || lost
		m.Tries.MaybeDone = m.Tries.MaybeDone || a.Code >= 500 || lost
	case outbound.NotSent:
		again = true
	case outbound.Doubt:
		again = r.Repeatable() || p.RetryInDoubt
		m.Tries.MaybeDone = true
	case outbound.Refused: // the next attempt would be refused too
	case outbound.TooLarge: // the next answer would be as large
	case outbound.Withheld: // can't happen: settle doesn't judge an attempt that was withheld
	}
	if again && (excused || m.Tries.Retries < p.RetryLimit) {
		if !excused {
			m.Tries.Retries++
		}
		m.State = storage.Waiting
		m.NotBefore = storage.CeilMillis(now.Add(p.pause(m.Tries.Retries)))
	}
}

// longest returns the longest possible pause before an attempt. If a stored time is further ahead, it
// was written while the clock was wrong.
func (p *Policy) longest() time.Duration {
	return max(mostThrottle, p.ThrottleLimit, p.RetryInterval, batch.MaxPause)
}

// throttlePause returns how long a request waits after its n-th refusal. It follows the time that the
// upstream names. If the upstream keeps naming no wait at all, the pause grows to one second. Without a
// named time, the pause starts at one second and doubles.
func throttlePause(refusal ratelimit.Refusal, n int) time.Duration {
	first, most := firstThrottle, mostThrottle
	if refusal.Named {
		first, most = leastThrottle, firstThrottle
	}
	doubled := most
	if shift := n - 1; shift < 16 {
		doubled = min(first<<shift, most)
	}
	return max(refusal.Wait, doubled)
}

// lesson returns what the governor learns from an attempt.
func (p *Policy) lesson(a *outbound.Answer, asked, began, ended time.Time) governor.Answer {
	out := governor.Answer{Kind: governor.Fine, Asked: asked, Began: began, Ended: ended}
	refusal, refused := p.refused(a, ended)
	switch {
	case refused:
		out.Kind, out.Pause = governor.Throttled, throttlePause(refusal, 1)
		if a.Code == http.StatusServiceUnavailable {
			out.Kind = governor.Busy
		}
	case a.Outcome == outbound.Answered && a.Code == http.StatusServiceUnavailable:
		out.Kind = governor.Busy
	case a.Outcome == outbound.Answered && a.Incomplete:
		out.Kind = governor.Silent
	case a.Outcome == outbound.Doubt && a.Code == http.StatusGatewayTimeout:
		out.Kind = governor.Late
	case a.Outcome == outbound.Doubt, a.Outcome == outbound.NotSent, a.Outcome == outbound.Refused:
		out.Kind = governor.Silent
	case a.Outcome == outbound.Answered:
		// Beyond ThrottleLimit, the next request finds out whether the upstream really refuses it.
		if wait := ratelimit.Exhausted(a.Header, ended); wait <= p.ThrottleLimit {
			out.Pause = wait
		}
	}
	return out
}

// recovered returns the new mark of a request that may have been in flight when the last run of its
// batch ended. halted means that the batch starts nothing more.
func (p *Policy) recovered(r *batch.Request, m storage.Mark, halted bool, now time.Time) storage.Mark {
	m.Tries.MaybeDone, m.Tries.InDoubt = true, true
	if !halted && (r.Repeatable() || p.RetryInDoubt) {
		m.State, m.NotBefore = storage.Waiting, now
		m.Result = batch.OutcomeUnknown
		return m
	}
	m.State, m.Result = storage.Done, batch.OutcomeUnknown
	m.Tries.EndedAt = now
	return m
}
