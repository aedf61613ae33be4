package engine

import (
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/sheafapi/sheaf/batch"
	"github.com/sheafapi/sheaf/storage"
)

// graph is what a run knows of requests that build on each other. Of an answer only the
// values that later requests need are kept in memory.
type graph struct {
	blocked []int           // requests that wait for those that they depend on, ascending
	values  [][]batch.Value // by request and reference; nil: the request has none
	needed  [][]need        // by request: who needs its answer
	bytes   int             // of values
	skipped int             // requests that were not executed because of others' ends
}

// need is a reference of a later request.
type need struct{ index, ref int }

// maxValues bounds the values that a batch's references keep in memory, in bytes.
const maxValues = 8 << 20

// recallPage is how many bytes of recorded answers are read at a time.
const recallPage = 1 << 20

// newGraph returns the graph of a batch's requests; nil if none builds on another.
func newGraph(requests []batch.Request) *graph {
	if !slices.ContainsFunc(requests, func(r batch.Request) bool { return r.Links != nil && len(r.Links.DependsOn) > 0 }) {
		return nil
	}
	g := &graph{values: make([][]batch.Value, len(requests)), needed: make([][]need, len(requests))}
	for i := range requests {
		l := requests[i].Links
		if l == nil || len(l.Refs) == 0 {
			continue
		}
		g.values[i] = make([]batch.Value, len(l.Refs))
		for j := range l.Refs {
			from := l.Refs[j].From
			g.needed[from] = append(g.needed[from], need{i, j})
		}
	}
	return g
}

// take keeps what later requests need of the answer to request i.
func (g *graph) take(requests []batch.Request, i int, result *batch.Result) {
	if g == nil {
		return
	}
	if result.Status == batch.NotExecuted {
		g.skipped++
	}
	g.collect(requests, i, result)
}

// collect is take for what was taken into account before, without its body.
func (g *graph) collect(requests []batch.Request, i int, result *batch.Result) {
	for _, n := range g.needed[i] {
		v := &g.values[n.index][n.ref]
		g.bytes -= len(v.JSON)
		*v = requests[n.index].Links.Refs[n.ref].Extract(result)
		if g.bytes += len(v.JSON); g.bytes > maxValues {
			g.bytes -= len(v.JSON)
			*v = batch.Value{Why: "finds a value with which the values of the batch's references are longer than 8 MiB"}
		}
	}
}

// recall reads what was recorded of answers that requests need which have not ended. That
// the batch is gone meanwhile is its creator's wish to end it.
func (r *run) recall() error {
	if r.graph == nil {
		return nil
	}
	first, last := len(r.requests), -1
	for from, needs := range r.graph.needed {
		if r.requests[from].state != storage.Done {
			continue
		}
		if slices.ContainsFunc(needs, func(n need) bool { return r.requests[n.index].state != storage.Done }) {
			first, last = min(first, from), from
		}
	}
	for first <= last {
		var page []storage.Indexed
		err := r.e.persist(r.e.work, "read answers", "ticket", r.c.Ticket, func(ctx context.Context) (err error) {
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
			r.graph.collect(r.c.Requests, page[i].Index, &page[i].Result)
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
	filled, err := req.Fill(r.graph.values[i])
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
