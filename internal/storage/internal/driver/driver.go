// Package driver holds what the databases have in common: their file of statements, and
// the end of what is open.
package driver

import (
	"errors"
	"strings"
	"sync"
)

// ParseQueries splits a file of statements, each with a line "-- name: NAME" before, and
// returns them by name, without a semicolon at their end.
func ParseQueries(file string) map[string]string {
	out := map[string]string{}
	for _, part := range strings.Split(file, "-- name: ")[1:] {
		name, text, _ := strings.Cut(part, "\n")
		out[name] = strings.TrimSuffix(strings.TrimSpace(text), ";")
	}
	return out
}

// ErrClosed is the error of a call that came after Close.
var ErrClosed = errors.New("the database is closed")

// Gate counts the calls under way, so that a database is closed after them. The zero
// value is open. It may be used by many goroutines.
type Gate struct {
	mu     sync.Mutex
	closed bool
	calls  sync.WaitGroup // Add only under mu and while not closed
}

// Enter counts a call as under way; Leave ends that. Errors: ErrClosed.
func (g *Gate) Enter() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return ErrClosed
	}
	g.calls.Add(1)
	return nil
}

// Leave ends what Enter began.
func (g *Gate) Leave() { g.calls.Done() }

// Close lets nothing in any more and waits for the calls under way. It reports false if
// the gate was closed before, and does not wait then.
func (g *Gate) Close() (first bool) {
	if first = g.Shut(); first {
		g.calls.Wait()
	}
	return first
}

// Shut lets nothing in any more. It reports false if nothing was let in before.
func (g *Gate) Shut() (first bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	first = !g.closed
	g.closed = true
	return first
}
