// Package gate shares a bounded amount of something (places, bytes) among callers.
//
// A caller has one or more names, such as its owner and its network. Each name may hold a fixed
// amount at most, and never more than remains free for everybody else. So one greedy name
// gets half of the total, n greedy names get 1/(n+1) each, and the next caller with another name
// finds as much again. Callers that have to wait are served in turns, one name after
// the other, so that many waiting calls of one name don't delay another name's first.
package gate

import (
	"context"
	"slices"
	"sync"
)

// Gate is bounded in total and shared fairly by name. It may be used by many goroutines.
type Gate[K comparable] struct {
	total int64
	each  int64

	mu    sync.Mutex
	taken int64
	held  map[K]int64 // by name; names that hold nothing are absent
	lines []*line[K]  // of the names that wait; the first one is next
}

// line holds the waiting callers of one name, in the order in which they came.
type line[K comparable] struct {
	name    K
	waiters []*waiter[K]
}

// waiter is a caller that waits.
type waiter[K comparable] struct {
	n       int64
	names   []K
	granted chan struct{} // closed, under Gate.mu, when the caller holds its n
}

// New returns a gate over total, of which one name may hold at most each.
func New[K comparable](total, each int64) *Gate[K] {
	return &Gate[K]{total: total, each: each, held: map[K]int64{}}
}

// Try takes n for a caller if it may have that now. It doesn't wait.
func (g *Gate[K]) Try(n int64, names ...K) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.fits(n, names) {
		return false
	}
	g.take(n, names)
	return true
}

// Enter takes n for a caller, and waits until it may have that. Callers with the same first
// name are served in order. The error is the context's; the caller holds nothing then.
func (g *Gate[K]) Enter(ctx context.Context, n int64, names ...K) error {
	g.mu.Lock()
	w := &waiter[K]{n: n, names: names}
	var first K // of callers without a name: all are one
	if len(names) > 0 {
		first = names[0]
	}
	at := slices.IndexFunc(g.lines, func(l *line[K]) bool { return l.name == first })
	if at < 0 && g.fits(n, names) {
		g.take(n, names)
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
	case <-w.granted: // at the same moment
		g.give(n, names)
	default:
		g.drop(w)
	}
	g.serve()
	return ctx.Err()
}

// Leave gives back n that Try or Enter has taken for a caller with these names. It may be called
// several times with parts of n.
func (g *Gate[K]) Leave(n int64, names ...K) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.give(n, names)
	g.serve()
}

// Taken returns how much is held.
func (g *Gate[K]) Taken() int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.taken
}

// fits reports whether a caller may take n. mu is held.
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

// take and give keep count. mu is held.
func (g *Gate[K]) take(n int64, names []K) {
	g.taken += n
	for _, name := range names {
		g.held[name] += n
	}
}

func (g *Gate[K]) give(n int64, names []K) {
	g.taken -= n
	for _, name := range names {
		if g.held[name] -= n; g.held[name] == 0 {
			delete(g.held, name)
		}
	}
}

// serve grants what is free to the first of each line in turn, until a round grants nothing. A
// line that was served goes to the end. mu is held.
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
			g.take(w.n, w.names)
			close(w.granted)
			granted = true
			if l.waiters = l.waiters[1:]; len(l.waiters) > 0 {
				served = append(served, l)
			}
		}
		g.lines = slices.Concat(passed, served)
	}
}

// drop removes a caller that waits no longer. mu is held.
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
