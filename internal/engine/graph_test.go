package engine

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/outbound"
	"github.com/sheafapi/sheaf/internal/storage"
	"pgregory.net/rapid"
)

// linkedUpstream is an upstream that answers each request after a second and records it.
type linkedUpstream struct {
	reachable
	codes  []int
	bodies int // approximate bytes of each answer's body

	mu    sync.Mutex
	calls []linkedCall
}

type linkedCall struct {
	index    int
	body     string
	headers  []batch.Header
	from, to time.Time // to is zero if the call was cut off
}

func (u *linkedUpstream) Do(ctx context.Context, c *outbound.Call) outbound.Answer {
	var i int
	if _, err := fmt.Sscanf(c.Path, "r/%d", &i); err != nil {
		panic(err)
	}
	u.mu.Lock()
	n := len(u.calls)
	u.calls = append(u.calls, linkedCall{index: i, body: string(c.Body), headers: c.Headers, from: time.Now()})
	code := u.codes[i]
	u.mu.Unlock()
	select {
	case <-time.After(time.Second):
	case <-ctx.Done():
		return outbound.Answer{Outcome: outbound.Doubt, Code: 502, Line: "interrupted"}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.calls[n].to = time.Now()
	a := answered(code, "Etag", fmt.Sprintf(`"%d"`, i))
	a.Body = fmt.Appendf(nil, `{"padding":"%s","id":%d}`, strings.Repeat("x", u.bodies), i)
	return a
}

// made returns the calls that the upstream has received.
func (u *linkedUpstream) made() []linkedCall {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.calls)
}

// node is one request of a random graph.
type node struct {
	parents []int
	refs    []int // parents whose id goes into the body; the first one's ETag goes into a header
	bad     bool  // its first reference points to a value that doesn't exist
	runIf   batch.RunIf
	code    int
}

// requests returns the graph's requests.
func requests(graph []node) []batch.Request {
	out := make([]batch.Request, len(graph))
	for i, n := range graph {
		r := batch.Request{Method: "PUT", Path: fmt.Sprint("r/", i), Body: []byte(`{"ids":[` + strings.TrimSuffix(strings.Repeat("0,", len(n.refs)), ",") + `]}`)}
		if len(n.parents) > 0 {
			r.Links = &batch.Links{DependsOn: n.parents, RunIf: n.runIf}
			for j, from := range n.refs {
				path := "/id"
				if n.bad && j == 0 {
					path = "/none"
				}
				r.Links.Refs = append(r.Links.Refs, batch.Ref{Where: batch.InBody, Name: fmt.Sprint("/ids/", j), From: from, Path: path})
			}
			if len(n.refs) > 0 {
				r.Links.Refs = append(r.Links.Refs, batch.Ref{Where: batch.InHeader, Name: "If-Match", From: n.refs[0], Field: "ETag"})
			}
		}
		out[i] = r
	}
	return out
}

// expected is the model. It returns how each request ends, and after how many seconds if every request
// starts as early as possible. A request that isn't executed ends with the last of its parents.
func expected(graph []node, stops bool) (ends []batch.ResultStatus, codes, at []int) {
	for _, n := range graph {
		if stops && slices.Contains(ends, batch.Failed) {
			ends, codes, at = append(ends, batch.NotExecuted), append(codes, 0), append(at, 0)
			continue
		}
		var parents []batch.ResultStatus
		ready := 0
		missing := n.bad && len(n.refs) > 0
		for _, p := range n.parents {
			parents = append(parents, ends[p])
			ready = max(ready, at[p])
		}
		for _, p := range n.refs {
			missing = missing || ends[p] == batch.NotExecuted || codes[p] == 424
		}
		runs := map[batch.RunIf]bool{
			batch.IfSuccess: !slices.ContainsFunc(parents, func(s batch.ResultStatus) bool { return s != batch.Succeeded }),
			batch.IfFailure: slices.ContainsFunc(parents, func(s batch.ResultStatus) bool { return s != batch.Succeeded }),
			batch.Always:    true,
		}[n.runIf]
		switch {
		case len(n.parents) > 0 && !runs:
			ends, codes, at = append(ends, batch.NotExecuted), append(codes, 0), append(at, ready)
		case missing:
			ends, codes, at = append(ends, batch.Failed), append(codes, 424), append(at, ready)
		case n.code == 200:
			ends, codes, at = append(ends, batch.Succeeded), append(codes, 200), append(at, ready+1)
		default:
			ends, codes, at = append(ends, batch.Failed), append(codes, n.code), append(at, ready+1)
		}
	}
	return ends, codes, at
}

func drawGraph(t *rapid.T) []node {
	graph := make([]node, rapid.IntRange(1, 30).Draw(t, "requests"))
	for i := range graph {
		n := node{code: rapid.SampledFrom([]int{200, 200, 200, 404}).Draw(t, "code")}
		if i > 0 {
			n.parents = rapid.SliceOfNDistinct(rapid.IntRange(0, i-1), 0, min(i, 4), rapid.ID[int]).Draw(t, "parents")
			slices.Sort(n.parents)
		}
		if len(n.parents) > 0 {
			n.runIf = rapid.SampledFrom([]batch.RunIf{batch.IfSuccess, batch.IfSuccess, batch.IfFailure, batch.Always}).Draw(t, "runIf")
			n.refs = n.parents[:rapid.IntRange(0, len(n.parents)).Draw(t, "refs")]
			n.bad = rapid.IntRange(0, 9).Draw(t, "bad") == 0
		}
		graph[i] = n
	}
	return graph
}

// TestGraph checks that every request ends as the model says, begins only after its dependencies have
// ended, and gets the right values. In parallel mode, the batch takes as long as its longest path. The
// node may crash at any moment.
func TestGraph(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		graph := drawGraph(rt)
		isParallel := rapid.Bool().Draw(rt, "parallel")
		stops := !isParallel && rapid.Bool().Draw(rt, "stops") // in parallel, the model can't say which request ends first
		if stops {
			for i := range graph {
				graph[i].runIf = batch.IfSuccess
			}
		}
		crash := time.Duration(rapid.IntRange(0, 12000).Draw(rt, "crash")) * time.Millisecond
		crashes := rapid.Bool().Draw(rt, "crashes")
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			up := &linkedUpstream{}
			for _, n := range graph {
				up.codes = append(up.codes, n.code)
			}
			w.options.Upstream = up
			w.start()
			began := time.Now()
			b := w.createLinked("s", batch.Options{Parallel: isParallel, StopOnFailure: stops}, requests(graph))
			if crashes {
				w.pass(crash)
				w.crash()
				w.start()
			}
			w.await(t, b)
			w.shutdown()
			problems := checkGraph(graph, up.calls, w.status(b), began, isParallel, stops, crashes)
			if len(problems) > 0 {
				rt.Fatalf("%s\n%+v", strings.Join(problems, "\n"), graph)
			}
		})
	})
}

func checkGraph(graph []node, calls []linkedCall, st *storage.Status, began time.Time, isParallel, stops, crashed bool) (problems []string) {
	say := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	ends, codes, at := expected(graph, stops)
	got := make([]batch.Result, len(graph))
	for i := range got {
		got[i].Status = batch.NotExecuted // the default, because such a request has no result
	}
	for _, r := range st.Results {
		got[r.Index] = r.Result
	}
	executed := 0
	for i := range graph {
		if got[i].Status != ends[i] || got[i].Code != codes[i] {
			say("request %d: %s %d %q, want %s %d", i, got[i].Status, got[i].Code, got[i].Line, ends[i], codes[i])
		}
		if got[i].Status == batch.NotExecuted && got[i].Line == "" && !stops {
			say("request %d was not executed, and nothing says why", i)
		}
		if ends[i] != batch.NotExecuted {
			executed++
		}
	}
	if st.Completed != executed {
		say("%d requests are completed, want %d", st.Completed, executed)
	}
	ended := make([]time.Time, len(graph))
	var last time.Time
	for _, c := range calls {
		ended[c.index] = c.to
		last = c.from.Add(time.Second)
		for _, p := range graph[c.index].parents {
			if ends[p] != batch.NotExecuted && codes[p] != 424 && (ended[p].IsZero() || ended[p].After(c.from)) {
				say("request %d began before request %d had ended", c.index, p)
			}
		}
		n := graph[c.index]
		ids := make([]string, len(n.refs))
		for j, from := range n.refs {
			ids[j] = fmt.Sprint(from)
		}
		if want := `{"ids":[` + strings.Join(ids, ",") + `]}`; c.body != want {
			say("request %d got %s, want %s", c.index, c.body, want)
		}
		if len(n.refs) > 0 && (len(c.headers) != 1 || c.headers[0].Value != fmt.Sprintf(`"%d"`, n.refs[0])) {
			say("request %d got the headers %v", c.index, c.headers)
		}
	}
	if isParallel && !crashed && len(calls) > 0 {
		if took, want := last.Sub(began), time.Duration(slices.Max(at))*time.Second; took != want {
			say("the batch took %v, its longest way takes %v", took, want)
		}
	}
	return problems
}

// createLinked stores a batch with these requests.
func (w *world) createLinked(store string, o batch.Options, reqs []batch.Request) *testBatch {
	m := &testBatch{options: o, at: time.Now(), reqs: reqs, key: storage.Key{Store: store, Ticket: uuid.New(), Owner: batch.OwnerOf(store)}}
	c := insist(w, func() (storage.CreateResult, error) {
		return w.node.Create(context.Background(), &storage.NewBatch{
			Ticket: m.key.Ticket, Store: store, Owner: m.key.Owner, Queue: store, Options: o, Requests: reqs, Credential: []byte("token of " + store),
		})
	})
	m.queue = c.Queue
	w.batches = append(w.batches, m)
	w.engine.Wake(c.Queue)
	return m
}

// TestGraphStops checks that a reference that can't be filled is a failure: it stops a batch with
// stopOnFirstFailure.
func TestGraphStops(t *testing.T) {
	scenario(t, "", func(t *testing.T, w *world) {
		w.shutdown()
		up := &linkedUpstream{codes: []int{200, 200, 200}}
		w.options.Upstream = up
		w.start()
		graph := []node{{code: 200}, {parents: []int{0}, refs: []int{0}, bad: true}, {}}
		b := w.createLinked("s", stop, requests(graph))
		w.await(t, b)
		expect(t, "outcome", w.outcome(b), "200 424! -")
		if line := w.status(b).Results[1].Line; !strings.Contains(line, "body:/ids/0 from $[0]#/none") {
			t.Errorf("the line is %q", line)
		}
	})
}
