package governor

import (
	"fmt"
	"time"
)

// Kind says what an attempt reveals about the upstream.
type Kind uint8

// The kinds.
const (
	Silent    Kind = iota // nothing: the request wasn't sent, or the connection broke
	Fine                  // the upstream sent any answer except those below
	Throttled             // the upstream refused the request because of a rate limit
	Busy                  // the upstream answered 503
	Late                  // the upstream didn't answer in time
)

// Answer is the result of one attempt.
type Answer struct {
	Kind         Kind
	Store        string    // the store of the request
	Asked        time.Time // when Try or Claim allowed the request
	Began, Ended time.Time
	Unreachable  bool // there was no connection
	Unavailable  bool // no connection, no answer, or one that says that the upstream is unavailable
	Accepted     bool // the answer is a success
	Unauthorized bool // the answer is 401
	Request      RequestID
	Pause        time.Duration // how long the upstream asked to wait, also after a success; 0: it named no time
}

// judge learns from an answer and returns its place. held is the time before which nothing may be
// sent, for announcement to other nodes; zero: there is none. mu is held.
func (c *Credential) judge(a Answer) (held time.Time) {
	defer c.exit()
	if a.Kind == Silent {
		return time.Time{}
	}
	now := time.Now() // not a.Ended, because all requests in flight must have been allowed before
	until := a.Ended.Add(a.Pause)
	wide := true
	switch {
	case a.Kind == Fine:
		c.accept(a.Asked)
		c.hold.succeed(a.Store, a.Asked)
		if a.Pause > 0 {
			if until.Sub(later(c.hold.stores[a.Store], now)) > pollInterval { // other nodes learn of it in time
				held = until
			}
			c.hold.add(a.Store, until, now)
		}
	case a.Pause > 0:
		wide = c.hold.add(a.Store, until, now)
		held = until
	}
	if wide {
		c.adapt(&a, c.governor.maxInFlight, now)
	}
	if a.Kind == Throttled && wide {
		c.teach(&a, until, now)
	}
	if a.Pause > 0 {
		c.logHold(&a, until)
	}
	return held
}

// busy reports whether the upstream, and not demand, limits the pace: many requests are in flight, or a
// request had to wait within the last few seconds.
func (c *Credential) busy(now time.Time) bool {
	return c.inflight >= minLimit || now.Sub(c.waitedUntil) <= soon
}

// teach adjusts the pace after an answer 429. A first one only holds requests back. A second one changes
// the pace if it belongs to the same burst of many requests or comes soon after the hold. teach ignores
// a pace that only demand limited, and further answers to a burst that has already changed the pace.
func (c *Credential) teach(a *Answer, until, now time.Time) {
	fresh := a.Asked.After(c.at) && !a.Asked.Before(c.from)
	many := c.inflight >= minLimit
	again := c.busy(now) && (c.learned(a.Ended) || a.Ended.Sub(c.from) <= soon)
	long := c.learned(a.Ended) || until.Sub(c.countedFrom) >= minMeasure
	switch {
	case fresh && again && long, !fresh && c.warned && many:
		c.warned = false
		c.learn(now, until, c.rate.perSecond())
	case fresh:
		c.warn(now, until, many || again)
	}
}

// logHold logs that the upstream has asked to wait, at most once a minute.
func (c *Credential) logHold(a *Answer, until time.Time) {
	if a.Ended.Sub(c.loggedAt) < time.Minute {
		return
	}
	c.loggedAt = a.Ended
	pace := "none"
	if c.base > 0 {
		pace = fmt.Sprintf("%.0f a minute", 60*c.base)
	}
	c.governor.log.Info("the upstream limits the rate: requests for this store with this credential wait", "store", a.Store, "credential", c.key.Short(), "until", until, "pace", pace)
}
