package governor

import "time"

const (
	// A round's least latency of more than slower times the least of the last minute, and
	// grace, is taken as a sign that the upstream has a queue.
	slower = 3
	grace  = 50 * time.Millisecond
	// leastRound is the least number of answers that a round has.
	leastRound = 10
	// leastTrial is what latency alone never cuts below.
	leastTrial = 4
	// leastLost is what missing answers don't cut below: an upstream that answers nobody is
	// not helped by being asked one by one.
	leastLost = 10
	// epochOfBase: the least latency is that of this long to twice as long.
	epochOfBase = 30 * time.Second
)

// limit bounds how many requests are under way. Guarded by Credential.mu.
type limit struct {
	inflight int
	most     float64   // 0: no limit
	cutAt    time.Time // answers to what was asked for before tell nothing new
	latency
}

// latency compares the upstream's speed with what it was.
type latency struct {
	floor   [2]time.Duration // the least one, of this epoch and of the one before; 0: none
	turned  time.Time        // when this epoch began
	round   time.Duration    // the least one of this round
	sum     time.Duration    // of all of this round
	answers int              // in this round
	slow    bool             // the last round was: the next one is compared with
	trial   time.Duration    // the mean before a cut on trial; 0: none
	before  float64          // the limit before that cut
}

// full reports whether no place is free.
func (l *limit) full() bool { return l.most > 0 && l.inflight >= int(l.most) }

// cut halves the limit, but not below least, once for all that was under way when the
// upstream was overloaded. The answer's own place is given back already.
func (l *limit) cut(a *Answer, least float64, now time.Time) {
	if !a.Asked.After(l.cutAt) {
		return
	}
	l.most, l.cutAt, l.trial = max(least, l.under()/2), now, 0
}

// under is how many were under way with the one whose answer is looked at, as far as the limit
// allows them.
func (l *limit) under() float64 {
	n := float64(l.inflight + 1)
	if l.most > 0 {
		n = min(n, l.most)
	}
	return n
}

// grow takes a success into account: the limit grows by one in the time in which as
// many requests as it allows come back, as long as it is what they wait for.
func (l *limit) grow(a *Answer, most int) {
	if l.most == 0 {
		return
	}
	if l.inflight+1 >= int(l.most) {
		l.most += 1 / l.most
	}
	if l.most >= float64(most) || a.Ended.Sub(l.cutAt) > memoryOf {
		l.most = 0
	}
}

// watch takes a latency into account. A cut for latency alone is on trial: if the upstream
// is not faster with fewer requests, it is slow for a reason of its own.
func (l *limit) watch(a *Answer) {
	if !a.Asked.After(l.cutAt) {
		return
	}
	d := a.Ended.Sub(a.Began)
	if l.answers++; l.answers == 1 || d < l.round {
		l.round = d
	}
	l.sum += d
	if l.answers < max(leastRound, l.inflight) {
		return
	}
	d, mean := l.round, l.sum/time.Duration(l.answers)
	l.answers, l.sum = 0, 0
	switch least := l.leastOf(d, a.Ended); {
	case l.trial > 0 && mean > l.trial*9/10:
		l.most, l.floor = l.before, [2]time.Duration{d, d}
		l.trial = 0
	case l.trial > 0:
		l.trial = 0
	case d <= slower*least+grace || l.inflight < leastTrial:
		l.slow = false
	case !l.slow:
		l.slow = true
	default:
		l.trial, l.before, l.slow = mean, l.most, false
		l.most, l.cutAt = max(leastTrial, 0.7*l.under()), time.Now()
	}
}

// leastOf returns the least latency of the last epochs, of which d is one.
func (l *latency) leastOf(d time.Duration, now time.Time) time.Duration {
	if now.Sub(l.turned) > epochOfBase {
		l.floor, l.turned = [2]time.Duration{d, l.floor[0]}, now
	}
	l.floor[0] = min(l.floor[0], d)
	if l.floor[1] > 0 {
		return min(l.floor[0], l.floor[1])
	}
	return l.floor[0]
}
