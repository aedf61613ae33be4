package engine

import (
	"context"
	"errors"
	"slices"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// graph holds what a run knows about requests that depend on each other. A nil graph has no
// dependencies.
type graph struct {
	values   *batch.Values
	children [][]int // by request: the requests that depend on it
	open     []int   // by request: how many of its dependencies haven't ended
	blocked  []int   // requests that wait for their dependencies, ascending
	skipped  int     // requests that were not executed because of how their dependencies ended
}

// newGraph returns the graph of a batch's requests, or nil if no request depends on another.
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

// isFree reports whether all dependencies of request i have ended.
func (g *graph) isFree(i int) bool { return g == nil || g.open[i] == 0 }

// end records the end of request i.
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

// takeRecorded takes the values that later requests need from answers that have just been recorded.
// It stops when the node shuts down, because the node then sends no later request.
func (r *run) takeRecorded(marks []storage.Mark) {
	if r.graph == nil {
		return
	}
	for i := range marks {
		if r.e.drain.Err() != nil {
			return
		}
		if m := &marks[i]; m.State == storage.Done {
			r.takeValues(m.Index, &m.Result)
		}
	}
}

// takeValues takes the values that later requests need from an answer. It first waits for the store's
// turn at the processors.
func (r *run) takeValues(i int, result *batch.Result) {
	if !r.graph.values.Lacks(i) {
		return
	}
	if leave, err := r.e.CPU.Enter(r.e.drain, int64(len(result.Body)), r.c.Store); err == nil {
		defer leave()
		r.graph.values.Take(i, result)
	}
}

// gather takes the values that request i still needs. It first records all answers, so that nothing
// is lost if the node dies or shuts down meanwhile. It returns storage.ErrNotFound if the creator has
// deleted the batch since it was claimed.
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
		if err := r.readAnswers(ref.From); err != nil {
			return err
		}
	}
	return nil
}

// answerPage is how many bytes of recorded answers are read at a time.
const answerPage = 1 << 20

// errNoMemory means that all memory is in use and the run must not wait for more.
var errNoMemory = errors.New("no memory is free")

// readAnswers takes values from a page of recorded answers, which begins with the answer to request i.
func (r *run) readAnswers(i int) error {
	memory := r.e.answers.Share(r.c.Store)
	defer memory.Release()
	most := r.e.answers.Most() // a page has at least one answer, of any size
	if !memory.TryGrow(most) {
		// Only this goroutine can release the memory of the batch's own answers. If it waited while
		// it holds any, it might wait for itself.
		if slices.ContainsFunc(r.requests, func(q request) bool { return q.memory != nil }) {
			return errNoMemory
		}
		if err := memory.Grow(r.e.drain, most); err != nil {
			return err
		}
	}
	var page []storage.IndexedResult
	err := r.e.persist(r.e.drain, "read answers", "ticket", r.c.Ticket, func(ctx context.Context) (err error) {
		page, err = r.e.Storage.Results(storage.ForService(ctx), r.c.ID, i, answerPage)
		return err
	})
	if err != nil {
		return err
	}
	for n := range page {
		if err := r.e.drain.Err(); err != nil {
			return err
		}
		r.takeValues(page[n].Index, &page[n].Result)
	}
	if err := r.e.drain.Err(); err != nil {
		return err
	}
	r.graph.values.Take(i, &batch.Result{Status: batch.NotExecuted}) // counts only if i has no recorded result
	return nil
}
