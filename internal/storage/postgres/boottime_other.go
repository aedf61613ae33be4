//go:build !linux

package postgres

import "time"

// instant is a moment on two clocks: the monotonic one, which may stand still while the
// machine sleeps, and the wall clock, which may be set.
type instant struct{ t time.Time }

func nowInstant() instant { return instant{time.Now()} }

// since returns how long before i an earlier instant was, by the clock that has gone
// further since, so that it is never taken for less. The zero instant is long ago.
func (i instant) since(earlier instant) time.Duration {
	if i.t.IsZero() || earlier.t.IsZero() {
		return longAgo
	}
	return max(i.t.Sub(earlier.t), i.t.Round(0).Sub(earlier.t.Round(0)))
}
