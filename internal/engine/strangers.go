package engine

import (
	"net/http"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/outbound"
	"github.com/sheafapi/sheaf/internal/storage"
)

// If only the upstream checks tokens, anybody can make up tokens, and each token has its own queue.
// An owner is a stranger until the upstream has accepted its token. The queues of strangers wait in
// a separate line, in which stores take turns. While other queues wait, strangers get at most every
// second place, and they hold at most mostStrangers places.

// refusedToken is the reason for not executing the rest of a stranger's batch.
const refusedToken = "the API refused the token with 401 and has never accepted it here"

// strangers knows which owners are strangers. Guarded by Engine.mu.
type strangers struct {
	met     *simplelru.LRU[storage.QueueID, acquaintance]
	known   *simplelru.LRU[batch.Owner, struct{}] // owners whose token the upstream has accepted
	line    storeLine                             // strangers' queues that wait for a place
	running int                                   // strangers' queues that hold a place
	behind  bool                                  // the last place went to a queue that isn't a stranger's
}

// acquaintance is the owner of a queue.
type acquaintance struct {
	store string
	owner batch.Owner
}

func newStrangers() strangers {
	met, err := simplelru.NewLRU[storage.QueueID, acquaintance](maxKnown, nil)
	if err != nil {
		panic(err) //nolint:forbidigo // only for a size of 0
	}
	known, err := simplelru.NewLRU[batch.Owner, struct{}](maxKnown, nil)
	if err != nil {
		panic(err) //nolint:forbidigo // likewise
	}
	return strangers{met: met, known: known}
}

// Introduce records the owner of a queue. Call it before Wake.
func (e *Engine) Introduce(id storage.QueueID, store string, owner batch.Owner) {
	if !e.Strangers {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.strangers.met.Add(id, acquaintance{store, owner})
}

// Accepted reports whether the upstream is known to have accepted the owner's token.
func (e *Engine) Accepted(owner batch.Owner) bool {
	if !e.Strangers {
		return true
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.strangers.known.Contains(owner)
}

// stranger reports whether a queue is known to belong to a stranger, and returns its store. mu is
// held.
func (e *Engine) stranger(id storage.QueueID) (store string, is bool) {
	a, met := e.strangers.met.Get(id)
	return a.store, met && !e.strangers.known.Contains(a.owner)
}

// mostStrangers returns how many places strangers may hold. e.mu is held.
func (e *Engine) mostStrangers() int { return max(e.QueuesAtOnce/4, min(e.QueuesAtOnce, 256)) }

// strangerWaits reports whether a stranger's queue waits and may have a place. e.mu is held.
func (e *Engine) strangerWaits() bool {
	return e.strangers.line.n > 0 && e.strangers.running < e.mostStrangers()
}

// learn records whether an answer shows that the upstream accepts the owner's token. It halts the
// batch of a stranger whose token is refused.
func (r *run) learn(a *outbound.Answer) {
	if !r.e.Strangers || a.Outcome != outbound.Answered {
		return
	}
	switch code := a.Code; {
	case code == http.StatusUnauthorized:
		if r.phase < halted && !r.e.Accepted(r.c.Owner) {
			r.enter(halted)
			r.reason = refusedToken
		}
	case code < http.StatusInternalServerError && code != http.StatusForbidden &&
		code != http.StatusProxyAuthRequired && code != http.StatusTooManyRequests:
		r.e.accept(r.c.Queue, r.c.Owner)
	}
}

// accept records that the owner is no longer a stranger. Its running queue stops counting toward the
// strangers' limit.
func (e *Engine) accept(id storage.QueueID, owner batch.Owner) {
	e.mu.Lock()
	defer e.unlock()
	e.strangers.known.Add(owner, struct{}{})
	if q := e.queues[id]; q != nil && q.stranger {
		q.stranger = false
		e.strangers.running--
		e.fill()
	}
}

// storeLine is a line in which stores take turns. The queues of a store are served in order.
type storeLine struct {
	stores []string // in the order of their turns
	queues map[string][]storage.QueueID
	n      int
}

func (l *storeLine) push(store string, id storage.QueueID) {
	if l.queues == nil {
		l.queues = map[string][]storage.QueueID{}
	}
	if len(l.queues[store]) == 0 {
		l.stores = append(l.stores, store)
	}
	l.queues[store] = append(l.queues[store], id)
	l.n++
}

// pop removes and returns the first queue of the store whose turn it is. The line must not be empty.
func (l *storeLine) pop() storage.QueueID {
	store := l.stores[0]
	l.stores = l.stores[1:]
	ids := l.queues[store]
	if l.n--; len(ids) > 1 {
		l.queues[store] = ids[1:]
		l.stores = append(l.stores, store)
	} else {
		delete(l.queues, store)
	}
	return ids[0]
}
