package governor

import "time"

const (
	// minMeasure is the shortest time over which a pace is measured, because an upstream's limit
	// applies to a second or longer.
	minMeasure = time.Second
	// minAccepted is how many requests must be accepted before a pace is measured. Until then, only
	// holds slow requests down.
	minAccepted = 5
	// soon is how long after a lesson another answer 429 means that the pace is still too fast.
	soon = 5 * time.Second
	// plateau is how long the pace takes to reach the peak. The curve is CUBIC's (RFC 9438).
	plateau = 10 * time.Second
	// probing is how long the pace then takes to grow by probeGain beyond the peak.
	probing = 30 * time.Second
	// firstProbing is how long the pace takes to grow by probeGain while no peak is known.
	firstProbing = 15 * time.Second
	// probeGain is how much the pace grows during probing, as a fraction of the pace.
	probeGain = 0.25
)

// These factors turn the pace that was too fast into the base, from which the pace grows again, and
// the peak, which it approaches. TestGovernorPace in the engine checks their combined effect against
// several kinds of limits.
const (
	// fewBase is the base after too few accepted requests to measure: the pace is halved.
	fewBase = 0.5

	// soonBase and soonPeak apply when the pace failed soon after a lesson, or too soon to measure.
	// Nothing shows how far the limit is, so the pace backs off by 10% and stays 5% below.
	soonBase, soonPeak = 0.9, 0.95
	// soonFloor is the lowest base that a measurement may suggest then. A measurement includes the
	// pause, so over a short time it can be far too low.
	soonFloor = 0.75

	// rateUsed is the part of the configured rate that must have been accepted for the limit to
	// count as just below that rate.
	rateUsed = 0.9
	// rateBase and ratePeak apply then: the pace stays just below the configured rate.
	rateBase, ratePeak = 0.95, 0.98

	// latePeak is the highest peak after a pace that worked for longer than soon. The limit must be
	// slightly below that pace.
	latePeak = 0.98
	// lateMargin is how much the peak may exceed the rate of accepted requests, because that
	// measurement can be slightly too low.
	lateMargin = 1.03
	// lateBase is the lowest base then, as a fraction of the peak: the pace hardly drops, because it
	// worked for a while.
	lateBase = 0.97
)

// learnedPace is what answers 429 have taught about the upstream's limit. Guarded by Credential.mu.
type learnedPace struct {
	countedFrom time.Time // when the current count of accepted requests began
	accepted    int       // requests that the upstream accepted since then
	lastSent    time.Time
	waitedUntil time.Time // the latest time that a request had to wait for
	warned      bool      // the last answer 429 hasn't changed the pace yet

	streak
	credit float64   // how much each late answer to the burst before the lesson raises the base
	at     time.Time // the last lesson or warning; zero: none
	from   time.Time // when the pace began to grow
	base   float64   // requests a second at that time; 0: no pace is learned
	peak   float64   // the pace to approach; 0: unknown
}

// A streak is a series of lessons without a much longer period of success between them. If the pace
// falls below collapse during a streak, the answers 429 don't depend on the pace. Then no pace is used
// for a while, and only holds slow requests down.
type streak struct {
	lessons  int
	first    float64   // the pace after the first lesson
	longest  int       // the most requests accepted between two lessons
	offUntil time.Time // no pace is used before
}

const (
	// minStreak is how many lessons a streak must have before it counts.
	minStreak = 6
	// muchLonger ends a streak: between two lessons, so many times more requests were accepted than
	// ever before in the streak.
	muchLonger = 4
	// collapse is the fraction of the streak's first pace below which the pace is given up.
	collapse = 0.5
)

// follow adds a lesson to the streak.
func (s *streak) follow(l *learnedPace, now time.Time) {
	if s.lessons == 0 || l.accepted >= muchLonger*max(s.longest, minAccepted) || now.Sub(l.at) > time.Minute {
		*s = streak{first: l.base, offUntil: s.offUntil}
	}
	s.lessons++
	s.longest = max(s.longest, l.accepted)
	if s.lessons >= minStreak && l.base < collapse*s.first {
		*s = streak{offUntil: now.Add(memoryOf)}
	}
	if now.Before(s.offUntil) {
		l.base, l.credit = 0, 0
	}
}

// learned reports whether a learned pace is in use.
func (l *learnedPace) learned(now time.Time) bool { return l.base > 0 && now.Sub(l.from) < memoryOf }

// speed returns the learned pace in requests a second.
func (l *learnedPace) speed(now time.Time) float64 {
	t := max(now.Sub(l.from), 0)
	cube := func(t, unit time.Duration) float64 {
		x := float64(t) / float64(unit)
		return x * x * x
	}
	switch {
	case l.peak == 0:
		return l.base * (1 + probeGain*cube(t, firstProbing))
	case t < plateau:
		return l.peak - (l.peak-l.base)*cube(plateau-t, plateau)
	default:
		return l.peak * (1 + probeGain*cube(t-plateau, probing))
	}
}

// interval returns the time from one slot to the next; 0: no learned pace is in use.
func (l *learnedPace) interval(now time.Time) time.Duration {
	if !l.learned(now) {
		return 0
	}
	return time.Duration(float64(time.Second) / l.speed(now))
}

// sent records that a request was sent. The count starts over as long as only demand limits the pace,
// and after a period without demand.
func (l *learnedPace) sent(now time.Time, busy, idle bool) {
	if !busy || idle && now.Sub(l.lastSent) > minMeasure || l.countedFrom.IsZero() {
		l.countedFrom, l.accepted = now, 0
	}
	l.lastSent = now
}

// warn records an answer 429 that doesn't change the pace yet. Nothing is sent before until. If a lesson
// follows, counts says whether it counts requests that were accepted before this answer.
func (l *learnedPace) warn(now, until time.Time, counts bool) {
	l.warned, l.at, l.credit = true, now, 0
	if !l.learned(now) {
		l.from = until
	}
	if !counts {
		l.countedFrom, l.accepted = until, 0
	}
}

// accept records that the upstream accepted a request that was allowed at the given time.
func (l *learnedPace) accept(allowed time.Time) {
	if l.accepted++; !allowed.After(l.at) {
		l.base += l.credit
	}
}

// learn changes the pace after an answer 429. Nothing is sent before until. configured is the rate
// in requests a second; 0: none.
func (l *learnedPace) learn(now, until time.Time, configured float64) {
	span := until.Sub(l.countedFrom)
	l.credit = 0
	estimate := float64(l.accepted) / max(span, minMeasure).Seconds()
	fast := configured // the pace that was too fast
	if l.learned(now) && (fast == 0 || l.speed(now) < fast) {
		fast = l.speed(now)
	}
	switch {
	case l.learned(now) && span < minMeasure:
		l.base, l.peak = soonBase*fast, soonPeak*fast
	case l.accepted < minAccepted && l.learned(now):
		l.base, l.peak = fewBase*fast, 0
	case l.accepted < minAccepted:
		l.base, l.credit = 0, 0
	case !l.learned(now) && fast > 0 && float64(l.accepted) > rateUsed*fast*max(minMeasure, now.Sub(l.countedFrom)).Seconds():
		l.base, l.peak = rateBase*fast, ratePeak*fast
	case !l.learned(now):
		l.base, l.peak, l.credit = estimate, 0, 1/max(span, minMeasure).Seconds()
	case now.Sub(l.from) > soon:
		l.peak = min(latePeak*fast, lateMargin*float64(l.accepted)/now.Sub(l.countedFrom).Seconds())
		l.base = min(l.peak, max(estimate, lateBase*l.peak))
	default:
		l.base, l.peak = min(soonBase*fast, max(estimate, soonFloor*fast)), soonPeak*fast
	}
	l.follow(l, now)
	l.at, l.from = now, until
	if span >= minMeasure {
		l.countedFrom, l.accepted = until, 0
	}
}
