// Package outage chooses which failures of an outage to log: the first one, and then one a minute.
package outage

import (
	"sync"
	"time"
)

// interval is the time between two log lines about the same outage.
const interval = time.Minute

// Log counts the failures of one operation. The zero value is ready to use. Its methods are safe for
// concurrent use.
type Log struct {
	mu       sync.Mutex
	logged   time.Time // when a failure was last logged
	unlogged int       // failures since then
	total    int       // failures of this outage
}

// Failed counts a failure. due reports whether to log it. n is the number of failures since the last
// one that was logged, including this one.
func (l *Log) Failed(now time.Time) (n int, due bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total++
	l.unlogged++
	n = l.unlogged
	if due = now.Sub(l.logged) >= interval; due {
		l.logged, l.unlogged = now, 0
	}
	return n, due
}

// Recovered ends the outage and returns how many failures it had, or 0 if there was none. The next
// failure is logged at once.
func (l *Log) Recovered() (failures int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	failures = l.total
	l.logged, l.unlogged, l.total = time.Time{}, 0, 0
	return failures
}
