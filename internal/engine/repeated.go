package engine

import (
	"sync"
	"time"
)

// repeatedInterval is how often a failure that goes on is told.
const repeatedInterval = time.Minute

// repeated tells the first of failures that repeat, and then how many there were, once a
// minute. The zero value has told none.
type repeated struct {
	mu    sync.Mutex
	told  time.Time
	since int
}

// count counts a failure, and reports whether it is to be told, with how many there were since
// one was told last.
func (r *repeated) count(now time.Time) (since int, tell bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.since++
	since = r.since
	if tell = now.Sub(r.told) >= repeatedInterval; tell {
		r.told, r.since = now, 0
	}
	return since, tell
}
