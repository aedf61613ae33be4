//go:build !linux

package postgres

import "time"

// instant is a point in time on two clocks: the monotonic one, which may stand still while the
// machine sleeps, and the wall clock, which may be set.
type instant struct{ t time.Time }

func nowInstant() instant { return instant{time.Now()} }

// since returns how long before i the earlier instant was. It uses the clock that has advanced
// further, so that it never returns too little. The zero instant counts as long ago.
func (i instant) since(earlier instant) time.Duration {
	if i.t.IsZero() || earlier.t.IsZero() {
		return longAgo
	}
	return max(i.t.Sub(earlier.t), i.t.Round(0).Sub(earlier.t.Round(0)))
}
