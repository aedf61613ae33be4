package governor

import "time"

const (
	// minLimit is the lowest limit. With fewer requests in flight, a failure says nothing about
	// their number.
	minLimit = 8
	// cutTo is the part of the limit that remains after a cut, as in CUBIC (RFC 9438).
	cutTo = 0.7
	// memoryOfCut is how long a cut lasts. After a cut that didn't help, it is also how long the limit
	// isn't cut again.
	memoryOfCut = time.Minute
	// tooMany is the share of failures above which a cut is never undone.
	tooMany = 1.0 / 3
	// helpful is the fraction of the former share of failures below which the share must fall after a
	// cut. Otherwise the failures don't depend on the number of requests in flight.
	helpful = 0.5
	// tallyWindows is how many times the limit a tally counts before old answers lose weight.
	tallyWindows = 2
)

// limit is how many requests may be in flight at once. There is none until the upstream answers 429
// or 503, or times out. Guarded by Credential.mu.
//
// A cut is on trial until as many answers have come as the limit allows requests. If the share of
// failures hasn't halved by then, the failures don't depend on the number of requests. Then the old
// limit is restored and isn't cut for a minute.
type limit struct {
	inflight int
	fixed    int       // a configured limit, for a Route; 0: none
	peakLoad int       // the most requests in flight since the last time that there were none
	allowed  float64   // the limit; 0: none
	failedAt float64   // the limit that failed last; the limit doubles until just below it
	cutAt    time.Time // the time of the last cut; answers to earlier requests say nothing about the current limit
	fullAt   time.Time // when a request last found no free place

	before, since tally     // answers to requests sent before and after the last cut
	restore       float64   // the limit before the cut that is on trial; 0: none is
	noCutBefore   time.Time // set when a cut didn't help
}

// tally counts recent answers.
type tally struct{ answers, failures float64 }

// add counts an answer. The counts are halved when they exceed tallyWindows times window, so that
// old answers lose weight.
func (t *tally) add(failed bool, window float64) {
	if t.answers >= tallyWindows*window {
		t.answers, t.failures = t.answers/2, t.failures/2
	}
	t.answers++
	if failed {
		t.failures++
	}
}

// rate returns the share of failures.
func (t *tally) rate() float64 { return t.failures / max(1, t.answers) }

// full reports whether no place is free.
func (l *limit) full() bool {
	return l.allowed > 0 && l.inflight >= int(l.allowed) || l.fixed > 0 && l.inflight >= l.fixed
}

// enter takes a place.
func (l *limit) enter() {
	l.inflight++
	l.peakLoad = max(l.peakLoad, l.inflight)
}

// exit returns a place.
func (l *limit) exit() {
	if l.inflight--; l.inflight == 0 {
		l.peakLoad = 0
	}
}

// expire drops a limit that was last cut over a minute ago.
func (l *limit) expire(now time.Time) {
	if l.allowed > 0 && now.Sub(l.cutAt) >= memoryOfCut {
		l.allowed, l.failedAt, l.restore = 0, 0, 0
	}
}

// adapt adjusts the limit to an answer, whose request still holds its place. A limit of ceiling or
// more is dropped.
func (l *limit) adapt(a *Answer, ceiling int, now time.Time) {
	l.expire(now)
	failed := a.Kind != Fine
	if !a.Asked.After(l.cutAt) {
		l.before.add(failed, float64(l.peakLoad))
		return
	}
	l.since.add(failed, max(minLimit, l.inForce()))
	switch {
	case l.restore > 0 && l.before.rate() <= tooMany && l.since.answers < l.allowed:
	case l.restore > 0 && !l.helped():
		l.allowed, l.failedAt, l.restore = l.restore, float64(ceiling), 0
		l.noCutBefore, l.since = now.Add(memoryOfCut), tally{}
	case failed:
		l.restore = 0
		l.cut(now)
	default:
		l.restore = 0
		l.grow(a, ceiling)
	}
}

// inForce returns the limit. Without one, it returns the most requests that were in flight.
func (l *limit) inForce() float64 {
	if l.allowed > 0 {
		return l.allowed
	}
	return float64(l.peakLoad)
}

// helped reports whether a much smaller share of the requests has failed since the cut. It also returns
// true if so many failed before the cut that it stays anyway.
func (l *limit) helped() bool {
	return l.before.rate() > tooMany || l.since.failures == 0 || l.since.rate() < helpful*l.before.rate()
}

// cut lowers the limit. Only answers to requests that are sent afterwards can cut it again.
func (l *limit) cut(now time.Time) {
	if now.Before(l.noCutBefore) && (l.since.answers < l.inForce() || l.since.rate() <= tooMany) {
		return
	}
	to := max(minLimit, cutTo*l.inForce())
	if l.inflight < minLimit || to >= l.inForce() {
		return
	}
	l.failedAt = l.inForce()
	l.allowed, l.restore, l.cutAt = to, l.failedAt, now
	l.before, l.since, l.noCutBefore = l.since, tally{}, time.Time{}
}

// grow raises the limit after a success, if requests have waited for a place since it was sent. The
// limit doubles in each round trip until just below the limit that failed, then grows by one.
func (l *limit) grow(a *Answer, ceiling int) {
	if l.allowed == 0 || l.fullAt.Before(a.Asked) {
		return
	}
	if below := l.failedAt - 1; l.allowed < below {
		l.allowed = min(l.allowed+1, below)
	} else {
		l.allowed += 1 / l.allowed
	}
	if l.allowed >= float64(ceiling) {
		l.allowed, l.failedAt = 0, 0
	}
}
