package governor

import (
	"fmt"
	"time"
)

// Kind is what an attempt says about the upstream.
type Kind uint8

// The kinds.
const (
	Silent    Kind = iota // nothing: it was not sent
	Fine                  // the upstream answered, whatever it was
	Throttled             // it answered 429
	Busy                  // it answered 503
	Lost                  // it did not answer in time, or broke off
)

// Answer is what came of one attempt.
type Answer struct {
	Kind         Kind
	Store        string    // whose request it was
	Asked        time.Time // when Try or Claim allowed it
	Began, Ended time.Time
	Pause        time.Duration // how long the upstream wants to be left alone; 0: it did not say
}

// judge takes an answer into account. It returns a moment that other nodes have to be told:
// nothing may be sent before; zero: there is none. mu is held.
func (c *Credential) judge(a Answer) (held time.Time) {
	c.inflight--
	switch a.Kind {
	case Silent:
		return time.Time{}
	case Fine:
		c.accept(a.Asked)
		c.hold.succeed(a.Store, a.Asked)
		c.grow(&a, c.governor.most)
		c.watch(&a)
		return time.Time{}
	case Throttled, Busy, Lost:
	}
	now := time.Now() // whatever was allowed until now was asked for before
	until := a.Ended.Add(a.Pause)
	wide := true
	if a.Pause > 0 {
		wide = c.hold.add(a.Store, until, now)
		held = until
	}
	switch {
	case a.Kind == Throttled && !wide:
		c.tell(&a, until)
	case a.Kind == Throttled:
		c.teach(&a, until, now)
	case a.Kind == Lost:
		c.cut(&a, leastLost, now)
	default:
		c.cut(&a, 1, now)
	}
	return held
}

// teach draws a lesson from an answer 429, unless it belongs to the same burst as
// the last one. Places are cut too where the pace is not what helps.
func (c *Credential) teach(a *Answer, until, now time.Time) {
	if !a.Asked.After(c.at) || a.Asked.Before(c.from) {
		return
	}
	if !c.learned(a.Ended) || a.Ended.Sub(c.from) <= soon {
		c.cut(a, 1, now)
	}
	c.learn(now, until, c.governor.rate.perSecond())
	c.tell(a, until)
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
