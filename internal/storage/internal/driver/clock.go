package driver

import (
	"sync"
	"sync/atomic"
	"time"
)

// Clock is this machine's wall clock. The zero value is ready. It may be used by many
// goroutines.
type Clock struct {
	ahead atomic.Int64 // nanoseconds by which a test has set it
}

// Set sets the clock ahead of the machine's, as tests do.
func (c *Clock) Set(ahead time.Duration) { c.ahead.Store(int64(ahead)) }

// Now returns the time without a monotonic reading, because it is compared with moments that
// other processes have stored.
func (c *Clock) Now() time.Time {
	return time.Now().Round(0).Add(time.Duration(c.ahead.Load()))
}

// started is a moment from which both the wall clock and the monotonic clock are counted.
var started = time.Now()

// Skew returns how far the clock was set since the process started. The monotonic clock,
// which nobody sets, is the measure.
func (c *Clock) Skew() time.Duration {
	return c.Now().Sub(started.Round(0)) - time.Since(started)
}

// leastStep is the smallest change of a clock that counts as a step. Smaller ones are how
// time servers correct a clock that runs too fast or too slow.
const leastStep = time.Second

// Steps remembers when a clock was set forward. The zero value is ready. It may be used by
// many goroutines.
type Steps struct {
	mu    sync.Mutex
	known bool
	skew  time.Duration
	steps []step
}

type step struct {
	at time.Time // by the monotonic clock
	by time.Duration
}

// Note compares the clock's skew with the last one that was noted.
func (s *Steps) Note(skew time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	by := skew - s.skew
	switch {
	case !s.known:
	case by.Abs() < leastStep:
		return
	case by > 0:
		s.steps = append(s.steps, step{time.Now(), by})
	}
	s.known, s.skew = true, skew
}

// Forward returns how far the clock was set forward within the last span of time.
func (s *Steps) Forward(span time.Duration) (by time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	kept := s.steps[:0]
	for _, st := range s.steps {
		if time.Since(st.at) < span {
			kept = append(kept, st)
			by += st.by
		}
	}
	s.steps = kept
	return by
}
