package postgres

import (
	"time"

	"golang.org/x/sys/unix"
)

// instant is a point in time on a clock that can't be set and that also runs while the machine
// sleeps.
type instant struct{ boot time.Duration }

func nowInstant() instant {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return instant{} // only on kernels older than Go supports; since then reports an age that is always too large
	}
	return instant{time.Duration(t.Nano())}
}

// since returns how long before i the earlier instant was. The zero instant counts as long ago.
func (i instant) since(earlier instant) time.Duration {
	if i.boot == 0 || earlier.boot == 0 {
		return longAgo
	}
	return i.boot - earlier.boot
}
