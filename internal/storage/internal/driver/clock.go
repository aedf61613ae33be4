package driver

import (
	"sync"
	"sync/atomic"
	"time"
)

// Clock is this machine's wall clock. The zero value is ready to use. It is safe for concurrent
// use.
type Clock struct {
	ahead atomic.Int64 // nanoseconds by which a test has set it
}

// Set makes the clock run ahead of the machine's, for tests.
func (c *Clock) Set(ahead time.Duration) { c.ahead.Store(int64(ahead)) }

// Now returns the time without a monotonic reading, because it is compared with times that other
// processes have stored.
func (c *Clock) Now() time.Time {
	return time.Now().Round(0).Add(time.Duration(c.ahead.Load()))
}

// started is the time from which both the wall clock and the monotonic clock are counted.
var started = time.Now()

// Skew returns how far the wall clock has been set since the process started. It compares it with the
// monotonic clock, which can't be set.
func (c *Clock) Skew() time.Duration {
	return c.Now().Sub(started.Round(0)) - time.Since(started)
}

// leastStep is the smallest change of a clock that counts as a step. Time servers make smaller
// changes to correct a clock that runs too fast or too slow.
const leastStep = time.Second

// Steps remembers when a clock was set forward. The zero value is ready to use. It is safe for
// concurrent use.
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

// Note compares the clock's skew with the skew of the last call.
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

// Forward returns how far the clock was set forward within the last span.
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
