package governor

import "time"

const (
	// fewest is the least limit. If fewer requests are in flight, a failure says nothing about their
	// number.
	fewest = 8
	// remaining is the part of the limit that a cut leaves, as in CUBIC (RFC 9438).
	remaining = 0.7
	// memoryOfCut is how long a cut lasts, and how long a cut that didn't help isn't repeated.
	memoryOfCut = time.Minute
	// tooMany is the share of failures above which a cut is never undone.
	tooMany = 1.0 / 3
)

// limit is how many requests may be in flight at once. There is none until the upstream
// answers 429 or 503, or doesn't answer in time. Guarded by Credential.mu.
//
// A cut is on trial for as many answers as the limit allows requests. If the share of failures
// hasn't fallen by half by then, the failures don't depend on the number of requests: the old limit
// is restored and isn't cut for a minute.
type limit struct {
	inflight int
	peak     int       // the most in flight since the last time that none was
	most     float64   // 0: no limit
	failed   float64   // the limit that failed last: until there the limit doubles
	cutAt    time.Time // answers to requests that were sent earlier say nothing about the current limit
	short    time.Time // when a request last found no free place

	before, since tally     // answers to requests sent before and after the last cut
	trial         float64   // the limit before a cut that is on trial; 0: none is
	spared        time.Time // until when nothing is cut, because the last cut didn't help
}

// tally counts recent answers.
type tally struct{ answers, failures float64 }

// add counts an answer. Counts are halved when they exceed two windows, so that old answers
// lose their weight.
func (t *tally) add(failed bool, window float64) {
	if t.answers >= 2*window {
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
func (l *limit) full() bool { return l.most > 0 && l.inflight >= int(l.most) }

// enter takes a place.
func (l *limit) enter() {
	l.inflight++
	l.peak = max(l.peak, l.inflight)
}

// exit gives a place back.
func (l *limit) exit() {
	if l.inflight--; l.inflight == 0 {
		l.peak = 0
	}
}

// forget drops a limit that was last cut over a minute ago.
func (l *limit) forget(now time.Time) {
	if l.most > 0 && now.Sub(l.cutAt) >= memoryOfCut {
		l.most, l.failed, l.trial = 0, 0, 0
	}
}

// adapt takes an answer into account whose request still holds its place. A limit of ceiling is as
// good as none.
func (l *limit) adapt(a *Answer, ceiling int, now time.Time) {
	l.forget(now)
	failed := a.Kind != Fine
	if !a.Asked.After(l.cutAt) {
		l.before.add(failed, float64(l.peak))
		return
	}
	l.since.add(failed, max(fewest, l.inForce()))
	switch {
	case l.trial > 0 && l.before.rate() <= tooMany && l.since.answers < l.most:
	case l.trial > 0 && !l.helped():
		l.most, l.failed, l.trial = l.trial, float64(ceiling), 0
		l.spared, l.since = now.Add(memoryOfCut), tally{}
	case failed:
		l.trial = 0
		l.cut(now)
	default:
		l.trial = 0
		l.grow(a, ceiling)
	}
}

// inForce returns the current limit. Without one, it is the most requests that were in flight.
func (l *limit) inForce() float64 {
	if l.most > 0 {
		return l.most
	}
	return float64(l.peak)
}

// helped reports whether a smaller share of the requests fails since the cut.
func (l *limit) helped() bool {
	return l.before.rate() > tooMany || l.since.failures == 0 || l.since.rate() < l.before.rate()/2
}

// cut lowers the limit. Only answers to requests that are sent afterwards can cut it again.
func (l *limit) cut(now time.Time) {
	if now.Before(l.spared) && (l.since.answers < l.inForce() || l.since.rate() <= tooMany) {
		return
	}
	to := max(fewest, remaining*l.inForce())
	if l.inflight < fewest || to >= l.inForce() {
		return
	}
	l.failed = l.inForce()
	l.most, l.trial, l.cutAt = to, l.failed, now
	l.before, l.since, l.spared = l.since, tally{}, time.Time{}
}

// grow takes a success into account, if requests have waited for a place since it was sent. The
// limit doubles in each round trip until just below the limit that failed, then grows by one.
func (l *limit) grow(a *Answer, ceiling int) {
	if l.most == 0 || l.short.Before(a.Asked) {
		return
	}
	if below := l.failed - 1; l.most < below {
		l.most = min(l.most+1, below)
	} else {
		l.most += 1 / l.most
	}
	if l.most >= float64(ceiling) {
		l.most, l.failed = 0, 0
	}
}
