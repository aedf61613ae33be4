package admission

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/sheafapi/sheaf/internal/batch"
)

const (
	// countInterval is how often the unfinished batches of a store are counted while callers whose
	// token the upstream has not accepted yet create batches in it.
	countInterval = time.Second
	countTimeout  = 5 * time.Second
	// maxStores is the maximum number of stores whose counts are in memory.
	maxStores = 10_000
)

// Counter counts unfinished batches; see storage.Operations.
type Counter interface {
	Unfinished(ctx context.Context, prefix string) (int, error)
}

// Crowd limits the unfinished batches of each store. Quotas alone don't, because callers can make
// up tokens, and each token has its own quota. The limit doesn't apply to callers whose token the
// upstream has accepted: they have their own quota, which others can't use up. A Crowd is safe for
// concurrent use.
type Crowd struct {
	limit    int // 0: no limit
	database Counter
	accepted func(batch.Owner) bool

	mu     sync.Mutex
	stores *simplelru.LRU[string, *storeCount]
}

// storeCount counts the unfinished batches of a store.
type storeCount struct {
	mu      sync.Mutex
	n       int // the number at the last count, plus those admitted since
	counted time.Time
}

// NewCrowd returns a Crowd that admits at most limit unfinished batches in each store; 0 means no
// limit.
func NewCrowd(limit int, database Counter, accepted func(batch.Owner) bool) *Crowd {
	stores, err := simplelru.NewLRU[string, *storeCount](maxStores, nil)
	if err != nil {
		panic(err) //nolint:forbidigo // only for a size of 0
	}
	return &Crowd{limit: limit, database: database, accepted: accepted, stores: stores}
}

// IsFull reports whether a caller's batch would exceed its store's limit. If not, it counts the
// batch.
func (c *Crowd) IsFull(store string, owner batch.Owner) bool {
	if c.limit == 0 || c.accepted(owner) {
		return false
	}
	s := c.of(store)
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.counted) > countInterval {
		ctx, cancel := context.WithTimeout(context.Background(), countTimeout)
		n, err := c.database.Unfinished(ctx, store+"/") // the queues of tokens; see api.call.queue
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
func (c *Crowd) of(store string) *storeCount {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, ok := c.stores.Get(store)
	if !ok {
		s = &storeCount{}
		c.stores.Add(store, s)
	}
	return s
}
