package governor

import (
	"time"

	"github.com/sheafapi/sheaf/internal/storage"
)

const (
	// widenAfter is how many stores have to be held back, without a success between, until the
	// credential is.
	widenAfter = 2
	// probePause lies between requests of stores that were not held back themselves, while the
	// credential is: one that succeeds ends that.
	probePause = 5 * time.Second
	// firstHold is how long one store's answer holds the others back: the limit is often the
	// credential's, and then two of them tell that.
	firstHold = time.Second
	// ownStrikes is how often a store is refused while others succeed, until its answers speak
	// for itself alone.
	ownStrikes = 2
	// maxStores is how many stores' holds are looked through for those that are over.
	maxStores = 1000
)

// hold is what the upstream wants to be left alone for. It belongs to the store that was
// answered: one store's limit, or one tenant's upstream, must not stop all that share the
// credential. When several stores are answered so, it is the credential's. Guarded by
// Credential.mu.
type hold struct {
	stores  map[string]time.Time // nothing of the store before
	all     time.Time            // nothing of any store before; one after probe
	probe   time.Time            // when a store that is not held back itself may try
	refused map[string]bool      // stores that were held back since the last success
	first   time.Time            // when the first of these was
	widened time.Time            // when all were last held back
	by      string               // the store that alone held all back last, at byAt
	byAt    time.Time
	queues  map[storage.QueueID]string // the stores of the queues in use
	strikes map[string]int             // how often a store was refused while others succeeded, since its last success
}

// add notes the answer to a request of a store, and reports whether it says something about
// the whole credential.
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
	if h.refused == nil || now.Sub(h.first) > soon {
		h.refused, h.first = map[string]bool{}, now
	}
	h.refused[store] = true
	if len(h.refused) < widenAfter && h.alone(store) {
		return true
	}
	if h.strikes[store] >= ownStrikes || len(h.refused) < widenAfter && store == h.by && now.Sub(h.byAt) < soon {
		return false
	}
	if len(h.refused) < widenAfter { // it may be the store's alone: the others try soon
		h.by, h.byAt = store, now
		until = earlier(until, now.Add(firstHold))
	}
	if until.After(h.all) {
		if !now.Before(h.all) {
			h.probe, h.widened = now.Add(probePause), now
		}
		h.all = until
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

// succeed notes that the upstream let a request of a store through that was allowed at a
// moment. A store that is refused again and again while others succeed has a limit of its own.
func (h *hold) succeed(store string, asked time.Time) {
	if asked.After(h.first) {
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
	if asked.After(h.widened) {
		h.all = time.Time{}
	}
}

// until returns the moment before which nothing of the queue may be sent.
func (h *hold) until(q storage.QueueID) time.Time {
	t := h.all
	if h.probe.Before(t) {
		t = h.probe
	}
	for _, store := range []string{h.queues[q], ""} { // an empty one stands for all
		if own := h.stores[store]; own.After(t) {
			t = own
		}
	}
	return t
}

// spend notes that a request is sent.
func (h *hold) spend(now time.Time) {
	if now.Before(h.all) {
		h.probe = now.Add(probePause)
	}
}

// last returns the latest moment for which anything is held back.
func (h *hold) last() time.Time {
	t := h.all
	for _, own := range h.stores {
		if own.After(t) {
			t = own
		}
	}
	return t
}

// Use says which store a queue belongs to.
func (c *Credential) Use(q storage.QueueID, store string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.hold.queues == nil {
		c.hold.queues = map[storage.QueueID]string{}
	}
	c.hold.queues[q] = store
}
