// Package gate shares a limited amount of a resource, such as bytes or concurrent requests, fairly
// among callers.
//
// A caller has one or more names, such as its owner and its network. A name may hold at most a fixed
// amount, and never more than remains free for others. So one greedy name gets half of the total, n
// greedy names get 1/(n+1) each, and the same amount remains free for the next name. Waiting callers are
// served round-robin by name, so many waiting calls of one name don't delay the first call of another.
package gate

import (
	"context"
	"slices"
	"sync"
)

// Gate is a semaphore with limits in total and for each name. It is safe for concurrent use.
type Gate[K comparable] struct {
	total int64
	each  int64

	mu    sync.Mutex
	taken int64
	held  map[K]int64 // the amount that each name holds; names that hold nothing are absent
	lines []*line[K]  // one for each waiting name; the first is served next
}

// line holds the waiting callers of one name in order of arrival.
type line[K comparable] struct {
	name    K
	waiters []*waiter[K]
}

// waiter is a waiting caller.
type waiter[K comparable] struct {
	n       int64
	names   []K
	granted chan struct{} // closed, under Gate.mu, when the caller holds its n
}

// New returns a gate with a total amount. One name may hold at most each.
func New[K comparable](total, each int64) *Gate[K] {
	return &Gate[K]{total: total, each: each, held: map[K]int64{}}
}

// Try acquires n for a caller if that is possible without waiting. It reports whether it did.
func (g *Gate[K]) Try(n int64, names ...K) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.fits(n, names) {
		return false
	}
	g.acquire(n, names)
	return true
}

// Enter acquires n for a caller, and waits until that is possible. Callers with the same first name are
// served in order. If ctx is done first, Enter returns its error and the caller holds nothing.
func (g *Gate[K]) Enter(ctx context.Context, n int64, names ...K) error {
	g.mu.Lock()
	w := &waiter[K]{n: n, names: names}
	var first K // callers without a name share the zero value
	if len(names) > 0 {
		first = names[0]
	}
	at := slices.IndexFunc(g.lines, func(l *line[K]) bool { return l.name == first })
	if at < 0 && g.fits(n, names) {
		g.acquire(n, names)
		g.mu.Unlock()
		return nil
	}
	w.granted = make(chan struct{})
	if at < 0 {
		g.lines = append(g.lines, &line[K]{first, []*waiter[K]{w}})
	} else {
		g.lines[at].waiters = append(g.lines[at].waiters, w)
	}
	g.mu.Unlock()
	select {
	case <-w.granted:
		return nil
	case <-ctx.Done():
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-w.granted: // granted at the same moment
		g.release(n, names)
	default:
		g.drop(w)
	}
	g.serve()
	return ctx.Err()
}

// Leave releases n, which Try or Enter acquired for the same names. The amount may also be released in
// parts, by several calls.
func (g *Gate[K]) Leave(n int64, names ...K) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.release(n, names)
	g.serve()
}

// Taken returns how much is held in total.
func (g *Gate[K]) Taken() int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.taken
}

// fits reports whether a caller may acquire n now. mu is held.
func (g *Gate[K]) fits(n int64, names []K) bool {
	free := g.total - g.taken
	if n > free {
		return false
	}
	for _, name := range names {
		if held := g.held[name] + n; held > g.each || held > free {
			return false
		}
	}
	return true
}

// acquire and release update the counts. mu is held.
func (g *Gate[K]) acquire(n int64, names []K) {
	g.taken += n
	for _, name := range names {
		g.held[name] += n
	}
}

func (g *Gate[K]) release(n int64, names []K) {
	g.taken -= n
	for _, name := range names {
		if g.held[name] -= n; g.held[name] == 0 {
			delete(g.held, name)
		}
	}
}

// serve grants what is free to the first waiter of each line in turn, until a round grants nothing. A
// line that was served moves to the end. mu is held.
func (g *Gate[K]) serve() {
	for granted := true; granted && len(g.lines) > 0 && g.taken < g.total; {
		granted = false
		var served []*line[K]
		passed := make([]*line[K], 0, len(g.lines))
		for _, l := range g.lines {
			w := l.waiters[0]
			if !g.fits(w.n, w.names) {
				passed = append(passed, l)
				continue
			}
			g.acquire(w.n, w.names)
			close(w.granted)
			granted = true
			if l.waiters = l.waiters[1:]; len(l.waiters) > 0 {
				served = append(served, l)
			}
		}
		g.lines = slices.Concat(passed, served)
	}
}

// drop removes a waiter whose context is done. mu is held.
func (g *Gate[K]) drop(w *waiter[K]) {
	for i, l := range g.lines {
		if at := slices.Index(l.waiters, w); at >= 0 {
			if l.waiters = slices.Delete(l.waiters, at, at+1); len(l.waiters) == 0 {
				g.lines = slices.Delete(g.lines, i, i+1)
			}
			return
		}
	}
}
