package governor

import (
	"fmt"
	"time"
)

// Kind is what an attempt says about the upstream.
type Kind uint8

// The kinds.
const (
	Silent    Kind = iota // nothing: the request wasn't sent, or the connection broke
	Fine                  // the upstream answered, whatever the answer was
	Throttled             // it answered 429
	Busy                  // it answered 503
	Late                  // it didn't answer in time
)

// Answer is what came of one attempt.
type Answer struct {
	Kind         Kind
	Store        string    // whose request it was
	Asked        time.Time // when Try or Claim allowed it
	Began, Ended time.Time
	Pause        time.Duration // how long the upstream wants to be left alone; 0: it did not say
}

// judge takes an answer into account and releases its place. It returns the time before which
// nothing may be sent, which other nodes must also learn; zero: there is none. mu is held.
func (c *Credential) judge(a Answer) (held time.Time) {
	defer c.exit()
	if a.Kind == Silent {
		return time.Time{}
	}
	now := time.Now() // whatever was allowed until now was asked for before
	until := a.Ended.Add(a.Pause)
	wide := true
	switch {
	case a.Kind == Fine:
		c.accept(a.Asked)
		c.hold.succeed(a.Store, a.Asked)
	case a.Pause > 0:
		wide = c.hold.add(a.Store, until, now)
		held = until
	}
	if wide {
		c.adapt(&a, c.governor.most, now)
	}
	if a.Kind == Throttled {
		if wide {
			c.teach(&a, until, now)
		}
		c.tell(&a, until)
	}
	return held
}

// busy reports whether the upstream, not the demand, limits the pace: many requests are in
// flight, or one has waited within the last seconds.
func (c *Credential) busy(now time.Time) bool {
	return c.inflight >= fewest || now.Sub(c.waited) <= soon
}

// teach adjusts the pace after an answer 429. A single one only holds requests back. A second one
// changes the pace: in the same burst of many requests, or soon after the hold. A pace that demand
// limited is ignored, and so are further answers of a burst that has already changed the pace.
func (c *Credential) teach(a *Answer, until, now time.Time) {
	fresh := a.Asked.After(c.at) && !a.Asked.Before(c.from)
	many := c.inflight >= fewest
	again := c.busy(now) && (c.learned(a.Ended) || a.Ended.Sub(c.from) <= soon)
	long := c.learned(a.Ended) || until.Sub(c.epoch) >= leastEpoch
	switch {
	case fresh && again && long, !fresh && c.warned && many:
		c.warned = false
		c.learn(now, until, c.governor.rate.perSecond())
	case fresh:
		c.warn(now, until, many || again)
	}
}

// tell logs an answer 429, once a minute.
func (c *Credential) tell(a *Answer, until time.Time) {
	if a.Ended.Sub(c.spoke) < time.Minute {
		return
	}
	c.spoke = a.Ended
	pace := "none"
	if c.base > 0 {
		pace = fmt.Sprintf("%.0f a minute", 60*c.base)
	}
	c.governor.log.Info("the upstream answered 429: what is sent for this store with this credential waits", "store", a.Store, "credential", c.key.Short(), "until", until, "pace", pace)
}
