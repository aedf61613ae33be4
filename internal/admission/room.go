// Package admission decides whether a batch may be created. It limits the size of the database, and
// how many unfinished batches callers with unverified tokens may have in one store.
package admission

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
)

const (
	// measureInterval is how often the database's size is measured while batches are created.
	measureInterval = time.Second
	measureTimeout  = 5 * time.Second
	// A tenth of the limit is reserved for the results of stored batches. Callers whose token the
	// upstream has not accepted yet can fill only three quarters of it, so that 15% stays free for
	// the batches of other callers.
	resultsShare  = 10
	acceptedShare = 4
)

// Sizer returns the size of a database; see storage.Operations.
type Sizer interface {
	Size(ctx context.Context) (int64, error)
}

// Room limits the size of the database. Results are recorded even if there is no room. It is safe
// for concurrent use.
type Room struct {
	limit    int64 // bytes; 0: no limit
	database Sizer
	accepted func(batch.Owner) bool // whether the upstream has accepted the caller's token
	log      *slog.Logger

	mu        sync.Mutex
	measured  time.Time // zero: never
	measuring bool
	size      int64 // as measured
	admitted  int64 // bytes admitted since the size was measured
	full      bool  // the log says that the database is almost full
}

// NewRoom returns a Room that limits a database to limit bytes; 0 means no limit.
func NewRoom(limit int64, database Sizer, accepted func(batch.Owner) bool, log *slog.Logger) *Room {
	return &Room{limit: limit, database: database, accepted: accepted, log: log}
}

// Admit reports whether the owner may store a batch of about this many bytes. If so, it counts
// them.
func (r *Room) Admit(owner batch.Owner, bytes int64) bool {
	if r.limit == 0 {
		return true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.measured.IsZero():
		r.measure() // the first time, every caller waits
	case !r.measuring && time.Since(r.measured) > measureInterval:
		r.measuring = true
		go func() {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.measure()
			r.measuring = false
		}()
	}
	allowed := r.limit - r.limit/resultsShare
	if !r.accepted(owner) {
		allowed = r.limit - r.limit/acceptedShare
	}
	hasRoom := r.size+r.admitted+bytes <= allowed
	if hasRoom {
		r.admitted += bytes
	} else if !r.full {
		r.full = true
		r.log.Error("the database is almost full; creates are refused from 90% of --max-database, and from 75% if the API has not accepted the caller's token yet; delete batches, wait until some expire, or raise the limit", "bytes", r.size, "limit", r.limit)
	}
	return hasRoom
}

// measure reads the database's size. If that fails, the last size stays in effect, which is 0 before
// the first success. The caller holds mu. The first measure keeps mu while it reads, so that every
// caller waits for it. Later ones release mu while they read.
func (r *Room) measure() {
	first := r.measured.IsZero()
	if !first {
		r.mu.Unlock()
	}
	ctx, cancel := context.WithTimeout(context.Background(), measureTimeout)
	size, err := r.database.Size(ctx)
	cancel()
	if !first {
		r.mu.Lock()
	}
	r.measured = time.Now()
	if err != nil {
		return // creates fail too, and report it
	}
	r.size, r.admitted = size, 0
	if r.full && size <= r.limit-r.limit/acceptedShare {
		r.full = false
		r.log.Info("the database has room again", "bytes", size, "limit", r.limit)
	}
}

// Usage returns the bytes that count toward the limit, and the limit. Both are 0 if there is no
// limit.
func (r *Room) Usage() (used, limit int64) {
	if r.limit == 0 {
		return 0, 0
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.measured.IsZero() {
		r.measure()
	}
	return r.size + r.admitted, r.limit
}
