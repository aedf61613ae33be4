package engine

import (
	"context"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/governor"
	"github.com/sheafapi/sheaf/internal/storage"
)

// routing applies the limits on parts of the API to the requests of a run. A request that must wait for
// its route doesn't hold up requests of other routes, unless the batch runs in order. All methods work on
// a nil routing, which has no limits.
type routing struct {
	all     []*governor.Route
	of      [][]int            // by request: the routes that limit it; nil: not looked up yet
	lines   []*governor.Waiter // by route: the run waits in line for a place; nil: it doesn't
	granted chan struct{}      // signals that a waiter has its place

	// Of the current pass of choose.
	blocked []bool    // by route: it has refused a request
	due     time.Time // when the first of these routes accepts one; zero: no time is known

	// skipped are the requests of a parallel batch that were considered and wait for their routes.
	skipped []int
}

func newRouting(all []*governor.Route, requests int) *routing {
	if len(all) == 0 {
		return nil
	}
	return &routing{
		all: all, of: make([][]int, requests), granted: make(chan struct{}, 1),
		lines: make([]*governor.Waiter, len(all)), blocked: make([]bool, len(all)),
	}
}

// begin begins a pass of choose.
func (r *routing) begin() {
	if r != nil {
		clear(r.blocked)
		r.due = time.Time{}
	}
}

// enter takes a place and a slot from each route of request i. It takes all of them or none.
func (r *routing) enter(ctx context.Context, i int, req *batch.Request, q storage.QueueID, now time.Time) bool {
	if r == nil {
		return true
	}
	if r.of[i] == nil {
		r.of[i] = []int{}
		for n, route := range r.all {
			if route.Matches(req.Method, req.Path) {
				r.of[i] = append(r.of[i], n)
			}
		}
	}
	for taken, n := range r.of[i] {
		if !r.enterRoute(ctx, n, q, now) {
			for _, n := range r.of[i][:taken] {
				r.all[n].Undo(q)
			}
			return false
		}
	}
	return true
}

// enterRoute takes a place and a slot from one route. If there is no place, the run joins the line for
// one. It is in the line once, whatever the number of its requests.
func (r *routing) enterRoute(ctx context.Context, n int, q storage.QueueID, now time.Time) (ok bool) {
	if r.blocked[n] {
		return false
	}
	route := r.all[n]
	var due time.Time
	if w := r.lines[n]; w == nil {
		if due, ok = route.Try(ctx, q, now); !ok && due.IsZero() {
			r.lines[n] = route.Line(r.granted)
		}
	} else {
		select {
		case <-w.Granted:
			r.lines[n] = nil
			due, ok = route.Claim(ctx, q)
		default:
		}
	}
	if r.blocked[n] = !ok; !due.IsZero() && (r.due.IsZero() || due.Before(r.due)) {
		r.due = due
	}
	return ok
}

// undo returns the places and slots of a request that was not sent.
func (r *routing) undo(i int, q storage.QueueID) {
	if r == nil {
		return
	}
	for _, n := range r.of[i] {
		r.all[n].Undo(q)
	}
}

// done returns the places of a request that was sent.
func (r *routing) done(i int) {
	if r == nil {
		return
	}
	for _, n := range r.of[i] {
		r.all[n].Done()
	}
}

// isInLine reports whether the run waits for a place.
func (r *routing) isInLine() bool {
	if r == nil {
		return false
	}
	for _, w := range r.lines {
		if w != nil {
			return true
		}
	}
	return false
}

// dueAt returns the time at which the first route that refused a request accepts one; zero: no time is
// known.
func (r *routing) dueAt() time.Time {
	if r == nil {
		return time.Time{}
	}
	return r.due
}

// signal returns the channel that signals that a waiter has its place.
func (r *routing) signal() <-chan struct{} {
	if r == nil {
		return nil
	}
	return r.granted
}

// close leaves all lines. It keeps the slots for which the queue waits, unless the batch is over.
func (r *routing) close(q storage.QueueID, over bool) {
	if r == nil {
		return
	}
	for n, route := range r.all {
		if w := r.lines[n]; w != nil {
			route.Leave(w)
		}
		if over || !r.blocked[n] {
			route.Forget(q)
		}
		route.Detach()
	}
}
