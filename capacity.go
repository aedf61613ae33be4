package sheaf

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
)

const (
	// measureEvery is how often the database is measured while batches are created.
	measureEvery   = time.Second
	measureTimeout = 5 * time.Second
	// A tenth of the database is kept for the results of batches that were stored. Callers
	// whose token the upstream has not accepted yet leave a quarter to the others.
	forResults = 10
	forKnown   = 4
)

// capacity says whether the database has room for more batches. Results are recorded in any
// case. Between two measurements it counts what was let in.
type capacity struct {
	limit   int64 // bytes; 0: none
	storage interface {
		Size(ctx context.Context) (int64, error) // see storage.Operations
	}
	log   *slog.Logger
	known func(owner batch.Owner) bool // whether the upstream has accepted the caller's token

	mu        sync.Mutex
	measured  time.Time // zero: never
	measuring bool
	size      int64 // as measured
	since     int64 // bytes that were let in after that
	full      bool  // and logged
}

// hasRoom reports whether a batch of about so many bytes may be stored, and counts it then.
func (c *capacity) hasRoom(owner batch.Owner, bytes int64) bool {
	if c.limit == 0 {
		return true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.measured.IsZero():
		c.measure() // once, while everybody waits
	case !c.measuring && time.Since(c.measured) > measureEvery:
		c.measuring = true
		go func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.measure()
			c.measuring = false
		}()
	}
	most := c.limit - c.limit/forResults
	if c.known != nil && !c.known(owner) {
		most = c.limit - c.limit/forKnown
	}
	room := c.size+c.since+bytes <= most
	if room {
		c.since += bytes
	} else if !c.full {
		c.full = true
		c.log.Error("the database is full; creates are refused until batches are deleted or expire, or --max-database is raised", "bytes", c.size, "limit", c.limit)
	}
	return room
}

// measure asks for the database's size. If that fails, the last one counts. mu is held, and
// released meanwhile unless nothing was measured before.
func (c *capacity) measure() {
	first := c.measured.IsZero()
	if !first {
		c.mu.Unlock()
	}
	ctx, cancel := context.WithTimeout(context.Background(), measureTimeout)
	size, err := c.storage.Size(ctx)
	cancel()
	if !first {
		c.mu.Lock()
	}
	c.measured = time.Now()
	if err != nil {
		return // creates fail too, and say so
	}
	c.size, c.since = size, 0
	if c.full && size <= c.limit-c.limit/forKnown {
		c.full = false
		c.log.Info("the database has room again", "bytes", size, "limit", c.limit)
	}
}

// usage returns what counts towards the limit, and the limit; zeros where there is none.
func (c *capacity) usage() (used, limit int64) {
	if c.limit == 0 {
		return 0, 0
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.measured.IsZero() {
		c.measure()
	}
	return c.size + c.since, c.limit
}
