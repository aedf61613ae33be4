package governor

import (
	"time"

	"github.com/sheafapi/sheaf/internal/storage"
)

const (
	// widenAfter is how many stores must be refused, without a success in between, before the whole
	// credential is held.
	widenAfter = 2
	// probePause is the time between probes while the credential is held. A probe is a request of a
	// store that isn't held itself. If it succeeds, the credential's hold ends.
	probePause = 5 * time.Second
	// firstHold is how long the first refused store also holds the others. The limit often applies to
	// the whole credential, and a second refused store soon shows that.
	firstHold = time.Second
	// ownStrikes is how often a store must be refused while others succeed before its refusals count
	// for that store only.
	ownStrikes = 2
	// maxStores is the number of holds above which the expired ones are removed.
	maxStores = 1000
)

// hold is how long the upstream has asked to wait, by a refusal or by a success after which no requests
// remain. It applies to the store of that answer, because one store's limit must not stop all stores
// that share the credential. When several stores get such answers, it applies to the whole credential.
// Guarded by Credential.mu.
type hold struct {
	stores       map[string]time.Time       // when each store's hold ends
	allUntil     time.Time                  // when the hold of all stores ends
	probeAt      time.Time                  // when a store that isn't held itself may send a probe
	refused      map[string]bool            // stores that were refused since the last success
	refusedSince time.Time                  // when the first of these was refused
	allSince     time.Time                  // when the hold of all stores last began
	sole         string                     // the store whose refusal alone last held all stores
	soleAt       time.Time                  // when it did
	queues       map[storage.QueueID]string // the stores of the queues in use
	strikes      map[string]int             // how often a store was refused while others succeeded, since its own last success
}

// add records that a store was refused. It reports whether the refusal counts for the whole credential.
func (h *hold) add(store string, until, now time.Time) (wide bool) {
	if len(h.stores) > maxStores {
		for name, t := range h.stores {
			if !now.Before(t) {
				delete(h.stores, name)
			}
		}
	}
	if h.stores == nil {
		h.stores = map[string]time.Time{}
	}
	if until.After(h.stores[store]) {
		h.stores[store] = until
	}
	if h.refused == nil || now.Sub(h.refusedSince) > soon {
		h.refused, h.refusedSince = map[string]bool{}, now
	}
	h.refused[store] = true
	if len(h.refused) < widenAfter && h.alone(store) {
		return true
	}
	if h.strikes[store] >= ownStrikes || len(h.refused) < widenAfter && store == h.sole && now.Sub(h.soleAt) < soon {
		return false
	}
	if len(h.refused) < widenAfter { // the limit may apply to this store only, so let the others try soon
		h.sole, h.soleAt = store, now
		until = earlier(until, now.Add(firstHold))
	}
	if until.After(h.allUntil) {
		if !now.Before(h.allUntil) {
			h.probeAt, h.allSince = now.Add(probePause), now
		}
		h.allUntil = until
	}
	return true
}

func earlier(t, u time.Time) time.Time {
	if u.Before(t) {
		return u
	}
	return t
}

// alone reports whether no other store uses the credential.
func (h *hold) alone(store string) bool {
	for _, other := range h.queues {
		if other != store {
			return false
		}
	}
	return true
}

// succeed records that the upstream accepted a store's request that was allowed at the given time. If
// another store is refused repeatedly while this one succeeds, that store has its own limit.
func (h *hold) succeed(store string, allowed time.Time) {
	if allowed.After(h.refusedSince) {
		for other := range h.refused {
			if other != store {
				if h.strikes == nil || len(h.strikes) > maxStores {
					h.strikes = map[string]int{}
				}
				h.strikes[other]++
			}
		}
		h.refused = nil
	}
	delete(h.strikes, store)
	if allowed.After(h.allSince) {
		h.allUntil = time.Time{}
	}
}

// until returns the time before which nothing of the queue may be sent.
func (h *hold) until(q storage.QueueID) time.Time {
	return later(earlier(h.allUntil, h.probeAt), h.own(q))
}

// own returns the end of the hold of the queue's store.
func (h *hold) own(q storage.QueueID) time.Time {
	return later(h.stores[h.queues[q]], h.stores[""]) // "" stands for all stores
}

// sent records that a request was sent.
func (h *hold) sent(now time.Time) {
	if now.Before(h.allUntil) {
		h.probeAt = now.Add(probePause)
	}
}

// last returns the latest time at which a hold ends.
func (h *hold) last() time.Time {
	t := h.allUntil
	for _, own := range h.stores {
		if own.After(t) {
			t = own
		}
	}
	return t
}

// Use records which store a queue belongs to. Call it before Try.
func (c *Credential) Use(q storage.QueueID, store string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.hold.queues == nil {
		c.hold.queues = map[storage.QueueID]string{}
	}
	c.hold.queues[q] = store
}

// HeldUntil returns the end of the hold of the queue's store; zero: there is none. It ignores the holds
// that come from refusals of other stores, because a success can end them early.
func (c *Credential) HeldUntil(q storage.QueueID) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hold.own(q)
}
