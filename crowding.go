package sheaf

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/sheafapi/sheaf/internal/batch"
)

const (
	// countEvery is how often the unfinished batches of a store are counted while callers whose
	// token the upstream has not accepted yet create batches in it.
	countEvery   = time.Second
	countTimeout = 5 * time.Second
	// maxCounted bounds the stores that are counted at the same time.
	maxCounted = 10_000
)

// crowding limits the unfinished batches of one store if anybody can make up tokens, each of
// which would have a quota of its own. This limit doesn't apply to callers whose token the
// upstream has accepted: only their own quota does, and others can't use it up.
type crowding struct {
	limit   int
	storage counter
	known   func(owner batch.Owner) bool

	mu     sync.Mutex
	stores *simplelru.LRU[string, *storeCount]
}

// counter counts the unfinished batches of the queues with a prefix, see storage.Operations.
type counter interface {
	Unfinished(ctx context.Context, prefix string) (int, error)
}

// storeCount is how many unfinished batches a store has.
type storeCount struct {
	mu      sync.Mutex
	n       int // the number at the last count, plus those admitted since
	counted time.Time
}

func newCrowding(limit int, s counter, known func(batch.Owner) bool) *crowding {
	stores, err := simplelru.NewLRU[string, *storeCount](maxCounted, nil)
	if err != nil {
		panic(err) //nolint:forbidigo // only for a size of 0
	}
	return &crowding{limit: limit, storage: s, known: known, stores: stores}
}

// crowded reports whether a caller's batch would exceed its store's limit. If not, it counts the
// batch.
func (c *crowding) crowded(store string, owner batch.Owner) bool {
	if c.known(owner) {
		return false
	}
	s := c.of(store)
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.counted) > countEvery {
		ctx, cancel := context.WithTimeout(context.Background(), countTimeout)
		n, err := c.storage.Unfinished(ctx, store+"/") // see api.queue
		cancel()
		if err == nil { // otherwise the create itself fails and reports the error
			s.n, s.counted = n, time.Now()
		}
	}
	if s.n >= c.limit {
		return true
	}
	s.n++
	return false
}

// of returns the count of a store.
func (c *crowding) of(store string) *storeCount {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, ok := c.stores.Get(store)
	if !ok {
		s = &storeCount{}
		c.stores.Add(store, s)
	}
	return s
}
