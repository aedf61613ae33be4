package engine

import (
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/sheafapi/sheaf/batch"
	"github.com/sheafapi/sheaf/storage"
)

// graph is what a run knows of requests that build on each other.
type graph struct {
	values  *batch.Values
	blocked []int // requests that wait for those that they depend on, ascending
	skipped int   // requests that were not executed because of others' ends
}

// recallPage is how many bytes of recorded answers are read at a time.
const recallPage = 1 << 20

// newGraph returns the graph of a batch's requests; nil if none builds on another.
func newGraph(requests []batch.Request) *graph {
	if !slices.ContainsFunc(requests, func(r batch.Request) bool { return r.Links != nil && len(r.Links.DependsOn) > 0 }) {
		return nil
	}
	return &graph{values: batch.NewValues(requests)}
}

// take keeps what later requests need of the end of request i.
func (g *graph) take(i int, result *batch.Result) {
	if g == nil {
		return
	}
	if result.Status == batch.NotExecuted {
		g.skipped++
	}
	g.values.Take(i, result)
}

// recall reads the recorded answers that requests need which have not ended. A batch that
// starts nothing more needs none. Errors: storage.ErrNotFound when the creator has deleted
// the batch since it was claimed.
func (r *run) recall() error {
	if r.graph == nil || r.halted {
		return nil
	}
	first, last := len(r.requests), -1
	open := func(i int) bool { return r.requests[i].state != storage.Done }
	for from := range r.requests {
		if !open(from) && r.graph.values.Needs(from, open) {
			first, last = min(first, from), from
		}
	}
	for first <= last {
		var page []storage.Indexed
		err := r.e.persist(r.e.drain, "read answers", "ticket", r.c.Ticket, func(ctx context.Context) (err error) {
			page, err = r.e.Storage.Results(ctx, r.c.ID, first, recallPage)
			return err
		})
		switch {
		case err != nil:
			return err
		case len(page) == 0:
			return nil
		}
		for i := range page {
			r.graph.values.Take(page[i].Index, &page[i].Result)
		}
		first = page[len(page)-1].Index + 1
	}
	return nil
}

// free reports whether all requests have ended that request i depends on.
func (r *run) free(i int) bool {
	l := r.c.Requests[i].Links
	return l == nil || !slices.ContainsFunc(l.DependsOn, func(j int) bool { return r.requests[j].state != storage.Done })
}

// prepare gets request i ready to be sent, once it is free. It reports false where the
// request has ended instead: its condition does not hold, or a reference can't be filled.
func (r *run) prepare(i int) bool {
	req := &r.c.Requests[i]
	if req.Links == nil || r.requests[i].outgoing != nil {
		return true
	}
	ends := make([]batch.ResultStatus, len(req.Links.DependsOn))
	for n, j := range req.Links.DependsOn {
		ends[n] = r.requests[j].end
	}
	if ok, why := req.Links.RunIf.Holds(ends); !ok {
		r.conclude(i, batch.Result{Status: batch.NotExecuted, Line: why})
		return false
	}
	if len(req.Links.Refs) == 0 {
		return true
	}
	filled, err := req.Fill(r.graph.values.Of(i))
	if err != nil {
		r.conclude(i, batch.Result{
			Status: batch.Failed, Code: http.StatusFailedDependency, Line: http.StatusText(http.StatusFailedDependency) + ": " + err.Error(),
		})
		return false
	}
	r.requests[i].outgoing = filled
	return true
}

// unblock starts what was blocked and is free now, where there is room for it.
func (r *run) unblock(begins []int, now time.Time) []int {
	r.graph.blocked = slices.DeleteFunc(r.graph.blocked, func(i int) bool {
		switch {
		case r.requests[i].state != 0:
			return true
		case r.halted || !r.free(i):
			return false
		case !r.prepare(i):
			return true
		case !r.room(i, len(begins), now):
			return false
		}
		begins = append(begins, i)
		return true
	})
	return begins
}

// conclude ends a request that is not sent.
func (r *run) conclude(i int, result batch.Result) {
	m := storage.Mark{Index: i, State: storage.Done, Tries: r.requests[i].tries, Result: result}
	r.pending = append(r.pending, m)
	r.apply(m)
}

// request returns request i as it is sent.
func (r *run) request(i int) *batch.Request {
	if out := r.requests[i].outgoing; out != nil {
		return out
	}
	return &r.c.Requests[i]
}
