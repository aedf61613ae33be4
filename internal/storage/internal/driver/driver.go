// Package driver holds the parts that both databases share: parsing statements and schemas,
// scheduling calls, watching clocks, and closing.
package driver

import (
	"errors"
	"strings"
	"sync"
)

// ParseQueries splits a file of statements, each of which follows a line "-- name: NAME". It
// returns them by name, without the final semicolon.
func ParseQueries(file string) map[string]string {
	out := map[string]string{}
	for _, part := range strings.Split(file, "-- name: ")[1:] {
		name, text, _ := strings.Cut(part, "\n")
		out[name] = strings.TrimSuffix(strings.TrimSpace(text), ";")
	}
	return out
}

// ErrClosed is the error of a call after Close.
var ErrClosed = errors.New("the database is closed")

// Gate counts the running calls, so that a database is closed only after they end. The zero value
// is open. It is safe for concurrent use.
type Gate struct {
	mu     sync.Mutex
	closed bool
	calls  sync.WaitGroup // Add only under mu and while not closed
}

// Enter counts a running call until Leave. Errors: ErrClosed.
func (g *Gate) Enter() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return ErrClosed
	}
	g.calls.Add(1)
	return nil
}

// Leave ends a call that Enter has counted.
func (g *Gate) Leave() { g.calls.Done() }

// Close shuts the gate and waits for the running calls. If the gate was already shut, Close returns
// false without waiting.
func (g *Gate) Close() (first bool) {
	if first = g.Shut(); first {
		g.calls.Wait()
	}
	return first
}

// Shut makes Enter fail from now on. It returns false if the gate was already shut.
func (g *Gate) Shut() (first bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	first = !g.closed
	g.closed = true
	return first
}
