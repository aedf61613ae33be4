package governor

import "time"

const (
	// leastEpoch is the shortest time over which a pace is measured: an upstream's limit
	// is one for a second or longer.
	leastEpoch = time.Second
	// leastAccepted is how many requests a pace can be measured by. Where fewer were let
	// through, what the upstream says is left to regulate it alone.
	leastAccepted = 5
	// soon after a lesson another one says that the first was not hard enough.
	soon = 5 * time.Second
	// plateau is how long the pace approaches the one that was too fast.
	plateau = 10 * time.Second
	// Beyond, or where no such pace is known, it grows by a quarter in probing, and
	// faster from then on. The shape is CUBIC's (RFC 9438).
	probing      = 30 * time.Second
	firstProbing = 15 * time.Second
)

// lesson is what answers 429 have taught about the upstream's limit. Guarded by
// Credential.mu.
type lesson struct {
	epoch    time.Time // since when what the upstream accepted is counted
	accepted int
	last     time.Time // when something was last sent
	waited   time.Time // until when a request last had to wait
	warned   bool      // the last answer 429 has not changed the pace yet

	chain
	credit float64   // by how much each answer raises the base that belongs to the burst before the lesson
	at     time.Time // of the last lesson or warning; zero: none
	from   time.Time // when the pace began to grow again
	base   float64   // requests a second at that time
	peak   float64   // the pace to approach; 0: none is known
}

// A chain is a run of lessons of which none was followed by a much longer time of success.
// One in which the pace has fallen to less than half says that answers 429 do not depend on
// the pace: then nobody is paced for a while, and what the upstream says regulates alone.
type chain struct {
	lessons int
	first   float64   // the pace after the first one
	most    int       // requests that were accepted between two
	off     time.Time // until when nobody is paced
}

const (
	// longChain is how many lessons a chain has at least before it says anything.
	longChain = 6
	// muchLonger ends a chain: so many times as many accepted requests as ever before in it.
	muchLonger = 4
)

// follow adds a lesson to the chain, after so many accepted requests.
func (c *chain) follow(l *lesson, now time.Time) {
	if c.lessons == 0 || l.accepted >= muchLonger*max(c.most, leastAccepted) || now.Sub(l.at) > time.Minute {
		*c = chain{first: l.base, off: c.off}
	}
	c.lessons++
	c.most = max(c.most, l.accepted)
	if c.lessons >= longChain && l.base < c.first/2 {
		*c = chain{off: now.Add(memoryOf)}
	}
	if now.Before(c.off) {
		l.base, l.credit = 0, 0
	}
}

// learned reports whether a lesson counts.
func (l *lesson) learned(now time.Time) bool { return l.base > 0 && now.Sub(l.from) < memoryOf }

// speed is the pace in requests a second.
func (l *lesson) speed(now time.Time) float64 {
	t := max(now.Sub(l.from), 0)
	cube := func(t, unit time.Duration) float64 {
		x := float64(t) / float64(unit)
		return x * x * x
	}
	switch {
	case l.peak == 0:
		return l.base * (1 + cube(t, firstProbing)/4)
	case t < plateau:
		return l.peak - (l.peak-l.base)*cube(plateau-t, plateau)
	default:
		return l.peak * (1 + cube(t-plateau, probing)/4)
	}
}

// interval is the time from one slot to the next; 0: no lesson counts.
func (l *lesson) interval(now time.Time) time.Duration {
	if !l.learned(now) {
		return 0
	}
	return time.Duration(float64(time.Second) / l.speed(now))
}

// begin records that a request is sent. Requests that were sent while demand alone limited the
// pace, or before a time without demand, aren't counted.
func (l *lesson) begin(now time.Time, busy, idle bool) {
	if !busy || idle && now.Sub(l.last) > leastEpoch || l.epoch.IsZero() {
		l.epoch, l.accepted = now, 0
	}
	l.last = now
}

// warn records an answer 429 that doesn't change the pace yet: nothing is sent before until. counts
// says whether requests that the upstream accepted earlier count if a lesson follows.
func (l *lesson) warn(now, until time.Time, counts bool) {
	l.warned, l.at, l.credit = true, now, 0
	if !l.learned(now) {
		l.from = until
	}
	if !counts {
		l.epoch, l.accepted = until, 0
	}
}

// accept takes a request into account that the upstream let through.
func (l *lesson) accept(asked time.Time) {
	if l.accepted++; !asked.After(l.at) {
		l.base += l.credit
	}
}

// learn draws the lesson from an answer 429, after which nothing is sent before until.
// configured is the rate in requests a second; 0: none.
func (l *lesson) learn(now, until time.Time, configured float64) {
	span := until.Sub(l.epoch)
	l.credit = 0
	estimate := float64(l.accepted) / max(span, leastEpoch).Seconds()
	fast := configured // the pace that was too fast
	if l.learned(now) && (fast == 0 || l.speed(now) < fast) {
		fast = l.speed(now)
	}
	switch {
	case l.learned(now) && span < leastEpoch: // too short to measure by how much it was too fast
		l.base, l.peak = 0.9*fast, 0.95*fast
	case l.accepted < leastAccepted && l.learned(now):
		l.base, l.peak = fast/2, 0
	case l.accepted < leastAccepted:
		l.base, l.credit = 0, 0
	case !l.learned(now) && fast > 0 && float64(l.accepted) > 0.9*fast*max(leastEpoch, now.Sub(l.epoch)).Seconds():
		// What is configured is just above the limit.
		l.base, l.peak = 0.95*fast, 0.98*fast
	case !l.learned(now):
		l.base, l.peak, l.credit = estimate, 0, 1/max(span, leastEpoch).Seconds()
	case now.Sub(l.from) > soon:
		// It went well for a while: the limit is a little below, and near what went through.
		l.peak = min(0.98*fast, 1.03*float64(l.accepted)/now.Sub(l.epoch).Seconds())
		l.base = min(l.peak, max(estimate, 0.97*l.peak))
	default:
		l.base, l.peak = min(0.9*fast, max(estimate, 0.75*fast)), 0.95*fast
	}
	l.follow(l, now)
	l.at, l.from = now, until
	if span >= leastEpoch {
		l.epoch, l.accepted = until, 0
	}
}
