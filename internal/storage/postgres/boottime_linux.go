package postgres

import (
	"time"

	"golang.org/x/sys/unix"
)

// instant is a moment on a clock that nobody sets and that also runs while the machine
// sleeps.
type instant struct{ boot time.Duration }

func nowInstant() instant {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return instant{} // a kernel older than Go supports: no age is small enough then
	}
	return instant{time.Duration(t.Nano())}
}

// since returns how long before i an earlier instant was. The zero instant is long ago.
func (i instant) since(earlier instant) time.Duration {
	if i.boot == 0 || earlier.boot == 0 {
		return longAgo
	}
	return i.boot - earlier.boot
}
