package governor

import "time"

const (
	// fewest is what the limit never falls below, and how many requests have to be in flight
	// for a failure to say anything about their number.
	fewest = 8
	// remaining is the part of the limit in force that a cut leaves. It is CUBIC's (RFC 9438).
	remaining = 0.7
	// memoryOfCut is how long a cut counts, and for how long one that didn't help isn't repeated.
	memoryOfCut = time.Minute
	// tooMany is the part of failures from which a cut is never taken back.
	tooMany = 1.0 / 3
)

// limit is how many requests may be in flight at once. There is none until the upstream
// answers 429 or 503, or doesn't answer in time. Guarded by Credential.mu.
//
// A cut is on trial for as many answers as the limit allows requests. If the part of failures
// hasn't fallen to half by then, the failures don't depend on the number of requests: the limit
// is what it was, and isn't cut for a minute.
type limit struct {
	inflight int
	peak     int       // the most in flight since the last time that none was
	most     float64   // 0: no limit
	failed   float64   // the limit that failed last: until there the limit doubles
	cutAt    time.Time // answers to what was sent earlier say nothing about the limit in force
	short    time.Time // when a request last found no free place

	before, since tally     // answers to what was sent before and after the last cut
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

// rate is the part of failures.
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

// adapt takes an answer into account, whose request still has its place. ceiling is the limit
// that is as good as none.
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

// inForce is the limit in force. Without one it is what the upstream has borne.
func (l *limit) inForce() float64 {
	if l.most > 0 {
		return l.most
	}
	return float64(l.peak)
}

// helped reports whether fewer of the requests fail since the cut.
func (l *limit) helped() bool {
	return l.before.rate() > tooMany || l.since.failures == 0 || l.since.rate() < l.before.rate()/2
}

// cut lowers the limit. Only requests that were sent after it can do so again.
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
// limit doubles in each round trip until just below the one that failed, and grows by one
// from there.
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
