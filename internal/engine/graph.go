package engine

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// graph is what a run knows of requests that build on each other.
type graph struct {
	values   *batch.Values
	children [][]int // by request: those that depend on it
	open     []int   // by request: how many of those that it depends on have not ended
	blocked  []int   // requests that wait for those that they depend on, ascending
	skipped  int     // requests that were not executed because of others' ends
}

// recallPage is how many bytes of recorded answers are read at a time.
const recallPage = 1 << 20

// newGraph returns the graph of a batch's requests; nil if none builds on another.
func newGraph(requests []batch.Request) *graph {
	if !slices.ContainsFunc(requests, func(r batch.Request) bool { return r.Links != nil && len(r.Links.DependsOn) > 0 }) {
		return nil
	}
	g := &graph{values: batch.NewValues(requests), children: make([][]int, len(requests)), open: make([]int, len(requests))}
	for i := range requests {
		if l := requests[i].Links; l != nil {
			g.open[i] = len(l.DependsOn)
			for _, parent := range l.DependsOn {
				g.children[parent] = append(g.children[parent], i)
			}
		}
	}
	return g
}

// end takes the end of request i into account.
func (g *graph) end(i int, status batch.ResultStatus) {
	if g == nil {
		return
	}
	if status == batch.NotExecuted {
		g.skipped++
	}
	for _, child := range g.children[i] {
		g.open[child]--
	}
	g.values.Drop(i)
}

// take takes the values that later requests need from answers that have just been recorded. A
// node that shuts down needs none.
func (r *run) take(marks []storage.Mark) {
	if r.graph == nil {
		return
	}
	for i := range marks {
		if r.e.drain.Err() != nil {
			return
		}
		if m := &marks[i]; m.State == storage.Done {
			r.pluck(m.Index, &m.Result)
		}
	}
}

// pluck reads the values that later requests need from an answer, when it is the store's turn.
func (r *run) pluck(i int, result *batch.Result) {
	if !r.graph.values.Lacks(i) {
		return
	}
	if leave, err := r.e.CPU.Enter(r.e.drain, int64(len(result.Body)), r.c.Store); err == nil {
		defer leave()
		r.graph.values.Take(i, result)
	}
}

// gather takes the values that request i needs, as far as they were not taken before. No value
// is taken from an answer before that is recorded: a node that dies or shuts down over this
// work has lost nothing.
// Errors: storage.ErrNotFound when the creator has deleted the batch since it was claimed.
func (r *run) gather(i int) error {
	refs := r.c.Requests[i].Links.Refs
	lacks := func(ref batch.Ref) bool { return r.graph.values.Lacks(ref.From) }
	if !slices.ContainsFunc(refs, lacks) {
		return nil
	}
	if err := r.record(r.pending); err != nil {
		return err
	}
	for _, ref := range refs {
		if !lacks(ref) {
			continue
		}
		if err := r.recall(ref.From); err != nil {
			return err
		}
	}
	return nil
}

// recall takes values from answers that were recorded earlier: of request i, and of those that
// follow on the same page.
func (r *run) recall(i int) error {
	memory := r.e.answers.Share(r.c.Store)
	defer memory.Release()
	most := r.e.answers.Most() // a page has one answer at least
	if !memory.TryGrow(most) {
		// While answers under way hold memory that only this goroutine gives back, it may not
		// wait for more: see await.
		if r.lent > 0 {
			return errNoMemory
		}
		if err := memory.Grow(r.e.drain, most); err != nil {
			return err
		}
	}
	var page []storage.IndexedResult
	err := r.e.persist(r.e.drain, "read answers", "ticket", r.c.Ticket, func(ctx context.Context) (err error) {
		page, err = r.e.Storage.Results(storage.ForService(ctx), r.c.ID, i, recallPage)
		return err
	})
	if err != nil {
		return err
	}
	for n := range page {
		if err := r.e.drain.Err(); err != nil {
			return err
		}
		r.pluck(page[n].Index, &page[n].Result)
	}
	if err := r.e.drain.Err(); err != nil {
		return err
	}
	r.graph.values.Take(i, &batch.Result{Status: batch.NotExecuted}) // without a result
	return nil
}

// errNoMemory is returned where memory is used up and must not be waited for.
var errNoMemory = errors.New("no memory is free now")

// free reports whether all requests have ended that request i depends on.
func (r *run) free(i int) bool { return r.graph == nil || r.graph.open[i] == 0 }

// readiness is what prepare makes of a request.
type readiness int

const (
	sendable  readiness = iota
	concluded           // it has ended instead
	undecided           // storage has not said yet; nothing may start now
)

// prepare gets request i ready to be sent, once it is free. It ends the request if its
// condition does not hold, or a reference can't be filled.
func (r *run) prepare(i int) readiness {
	req := &r.c.Requests[i]
	if req.Links == nil || r.requests[i].outgoing != nil {
		return sendable
	}
	ends := make([]batch.ResultStatus, len(req.Links.DependsOn))
	for n, j := range req.Links.DependsOn {
		ends[n] = r.requests[j].end
	}
	if ok, why := req.Links.RunIf.Holds(ends); !ok {
		r.conclude(i, batch.Result{Status: batch.NotExecuted, Line: why})
		return concluded
	}
	if len(req.Links.Refs) == 0 {
		return sendable
	}
	if err := r.gather(i); err != nil {
		switch gone := errors.Is(err, storage.ErrNotFound); {
		case gone:
			r.halted = true
		case isGivenUp(err), isFinal(err):
			r.stuck = err
		}
		return undecided
	}
	leave, err := r.e.CPU.Enter(r.e.drain, int64(len(req.Body)), r.c.Store)
	if err != nil {
		return undecided
	}
	filled, err := req.Fill(r.graph.values.Of(i))
	leave()
	if err != nil {
		r.conclude(i, batch.Result{
			Status: batch.Failed, Code: http.StatusFailedDependency, Line: http.StatusText(http.StatusFailedDependency) + ": " + err.Error(),
		})
		return concluded
	}
	r.requests[i].outgoing = filled
	return sendable
}

// unblock starts what was blocked and is free now, where there is room for it.
func (r *run) unblock(begins []int, now time.Time) []int {
	full := false
	r.graph.blocked = slices.DeleteFunc(r.graph.blocked, func(i int) bool {
		switch {
		case r.requests[i].state != 0:
			return true
		case full || r.halted || !r.free(i):
			return false
		}
		switch r.prepare(i) {
		case concluded:
			return true
		case undecided:
			full = true
			return false
		case sendable:
		}
		if full = !r.room(i, len(begins), now); full {
			return false
		}
		begins = append(begins, i)
		return true
	})
	return begins
}

// conclude ends a request that is not sent. No value can be taken from such an end.
func (r *run) conclude(i int, result batch.Result) {
	m := storage.Mark{Index: i, State: storage.Done, Tries: r.requests[i].tries, Result: result}
	r.e.Observer.Ended(r.c.Store, result.Status, m.InDoubt())
	r.note(m, nil)
	r.apply(m)
	if r.graph != nil {
		r.graph.values.Take(i, &m.Result)
	}
}

// request returns request i as it is sent.
func (r *run) request(i int) *batch.Request {
	if out := r.requests[i].outgoing; out != nil {
		return out
	}
	return &r.c.Requests[i]
}
