package governor

import (
	"context"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

const (
	// acceptedInterval is how often a node records in storage that a credential is accepted, so
	// that storage doesn't forget this.
	acceptedInterval = storage.CredentialMemory / 7
	// expiredOverlap is how far back a poll looks for expired credentials, because clocks differ.
	expiredOverlap = 10 * time.Second
	// expiredReread is how often a poll reads all expired credentials.
	expiredReread = time.Minute
)

// Credentials lets nodes share which credentials the upstream accepts. See storage.Credentials.
type Credentials interface {
	Accepted(ctx context.Context, credential batch.Owner) error
	WasAccepted(ctx context.Context, credential batch.Owner) (bool, error)
	Expire(ctx context.Context, credential batch.Owner) error
	Expired(ctx context.Context, since time.Time) (map[batch.Owner]time.Time, error)
}

// expiry records whether the upstream accepts a credential. After a success, a 401 answer means that
// the credential has expired. Without an earlier success, it says nothing, because the
// credential may never have been valid. Guarded by Credential.mu.
type expiry struct {
	acceptedAt time.Time // when storage last recorded that the credential was accepted
	accepted   bool      // it was accepted at some time
	asked      bool      // storage was asked whether it was
	expiredAt  time.Time // zero: it hasn't expired
}

// fact is what storage must learn about a credential.
type fact struct{ accepted bool } // otherwise it has expired

// Expired returns when the credential expired; zero: it hasn't.
func (c *Credential) Expired() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.expiredAt
}

// waitsUntil returns until when requests wait for a new credential. mu is held.
func (c *Credential) waitsUntil(now time.Time) time.Time {
	return later(c.expiredAt.Add(c.governor.credentialLimit), now)
}

// accepts records a success of a request that was allowed at the given time. mu is held.
func (c *Credential) accepts(allowed, now time.Time) {
	if c.governor.credentialLimit == 0 {
		return
	}
	if !c.expiredAt.IsZero() && !allowed.After(c.expiredAt) {
		return // the request left before the credential expired
	}
	c.accepted = true
	if c.expiredAt.IsZero() && now.Sub(c.acceptedAt) < acceptedInterval {
		return
	}
	c.acceptedAt, c.expiredAt = now, time.Time{}
	c.governor.queueFact(c.key, fact{accepted: true})
}

// refuses records a 401 answer, and reports whether it means that the credential has expired.
func (c *Credential) refuses(ctx context.Context, now time.Time) bool {
	if c.governor.credentialLimit == 0 {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.accepted && !c.asked && c.expiredAt.IsZero() {
		c.mu.Unlock()
		was, err := c.governor.shared.WasAccepted(ctx, c.key)
		c.mu.Lock()
		if err != nil {
			return true // nothing is known, so the request waits
		}
		c.asked, c.accepted = true, c.accepted || was
	}
	switch {
	case !c.expiredAt.IsZero():
		return true
	case !c.accepted:
		return false
	}
	c.expiredAt = now
	c.governor.log.Warn("the upstream no longer accepts a credential; its batches wait for a new one", "credential", c.key.Short())
	c.governor.queueFact(c.key, fact{})
	return true
}

// queueFact queues a fact; Run stores it.
func (g *Governor) queueFact(credential batch.Owner, f fact) {
	g.factsMu.Lock()
	defer g.factsMu.Unlock()
	g.facts[credential] = f
	select {
	case g.newFacts <- struct{}{}:
	default:
	}
}

// storeFacts stores what this node has learned about credentials.
func (g *Governor) storeFacts(ctx context.Context) error {
	for {
		credential, f, found := g.nextFact()
		if !found {
			return nil
		}
		store := g.shared.Expire
		if f.accepted {
			store = g.shared.Accepted
		}
		if err := store(ctx, credential); err != nil {
			return err
		}
		g.factsMu.Lock()
		if g.facts[credential] == f {
			delete(g.facts, credential)
		}
		g.factsMu.Unlock()
	}
}

func (g *Governor) nextFact() (credential batch.Owner, f fact, found bool) {
	g.factsMu.Lock()
	defer g.factsMu.Unlock()
	for credential, f = range g.facts {
		return credential, f, true
	}
	return credential, f, false
}

// pollExpired stores what this node has learned, and learns which credentials have expired on other
// nodes.
func (g *Governor) pollExpired(ctx context.Context) error {
	if g.credentialLimit == 0 {
		return nil
	}
	if err := g.storeFacts(ctx); err != nil {
		return err
	}
	now := time.Now()
	since, all := g.expiredRead.Add(-expiredOverlap), false
	if now.Sub(g.expiredReadAll) >= expiredReread {
		since, all = time.Time{}, true
	}
	expired, err := g.shared.Expired(ctx, since)
	if err != nil {
		return err
	}
	g.expiredRead = now
	g.mu.Lock()
	defer g.mu.Unlock()
	if all {
		g.expiredReadAll = now
		clear(g.expired)
	}
	for credential, at := range expired {
		g.expired[credential] = now.Add(min(at.Sub(now), 0))
	}
	for credential, c := range g.credentials {
		c.learnExpiry(g.expired[credential], all)
	}
	return nil
}

// learnExpiry applies what storage knows. at is zero if storage has no expiry. all means that storage
// returned every expired credential.
func (c *Credential) learnExpiry(at time.Time, all bool) {
	c.governor.factsMu.Lock()
	_, pending := c.governor.facts[c.key]
	c.governor.factsMu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !pending && (all || !at.IsZero()) && (at.IsZero() || c.expiredAt.IsZero()) {
		c.expiredAt = at
		c.accepted = c.accepted || !at.IsZero()
	}
}
