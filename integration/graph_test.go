package integration

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// chain is a batch in which each request needs the answer to the previous one.
const chain = `[
	{"id":"a","method":"POST","path":"a","headers":{"If-Match":"*"}},
	{"id":"b","method":"PUT","path":"b/{n}","body":{"of":null},"refs":{"path:n":"a#/arrival","body:/of":"a#/path"}},
	{"id":"c","method":"PUT","path":"c/{n}","refs":{"path:n":"b#/arrival"},"dependsOn":["a"]},
	{"id":"d","method":"DELETE","path":"d/{n}","refs":{"path:n":"c#/arrival"}},
	{"id":"e","method":"POST","path":"e","dependsOn":["d"],"runIf":"failure"}]`

// TestGraphSurvivesKill9: a request that needs the answer to an earlier one gets it, even if the
// process died in between.
func TestGraphSurvivesKill9(t *testing.T) {
	for _, at := range []string{"b", "c", "d"} {
		onEach(t, func(t *testing.T, database string) {
			parallel(t)
			ctx := t.Context()
			held := make(chan struct{})
			defer close(held)
			ledger := newLedger(t, func(a Arrival) (r Reply) {
				if strings.Contains(a.Path, "/"+at+"/") && a.Nth == 1 {
					r.Until = held
				}
				return r
			})
			s := start(t, ledger.URL, database)
			c := caller(s.base)
			point := ledger.After(int(at[0]-'a') + 1)
			var created struct{ Ticket string }
			query := url.Values{"allowParallelMode": {"true"}, "stopOnFirstFailure": {"false"}}
			if err := c.do(ctx, http.MethodPost, "1", query, []byte(chain), &created); err != nil {
				t.Fatal(err)
			}
			awaitArrivals(ctx, t, point)
			s.kill9(t)
			s.restart(t)
			got, err := c.awaitEnd(ctx, "1", created.Ticket)
			if err != nil || got.CompletedRequests != 4 || len(got.Responses) != 5 || got.Responses[4].Status != "NOT_EXECUTED" {
				t.Fatalf("the batch ended as %+v, %v", got, err)
			}
			// Each path contains the number of the arrival whose answer was recorded, which is the last
			// arrival of the request before.
			last := map[string]Arrival{}
			for _, a := range ledger.Arrivals() {
				name, n, _ := strings.Cut(strings.TrimPrefix(a.Path, "/"), "/")
				if before := string(rune(name[0] - 1)); name != "a" && n != fmt.Sprint(last[before].Seq) {
					t.Errorf("arrival %d: %s, but the previous answer was to arrival %d", a.Seq, a.Path, last[before].Seq)
				}
				if name == "b" && a.Body != fmt.Sprintf(`{"of":%q}`, last["a"].Path) {
					t.Errorf("arrival %d: body %s", a.Seq, a.Body)
				}
				last[name] = a
			}
			if n := len(ledger.Arrivals()); n != 5 {
				t.Errorf("%d arrivals, want 5: the request that was cut off arrives twice", n)
			}
		})
	}
}

// TestWatchThroughAnotherNode: a caller that waits at one node sees the progress on another node.
func TestWatchThroughAnotherNode(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	const requests = 8
	ledger := newLedger(t, func(Arrival) Reply { return Reply{Delay: 400 * time.Millisecond} })
	f := startFleet(t, nil, ledger, 2)
	first := ledger.After(1)
	ticket, err := caller(f.nodes[0].base).create(ctx, "watched", nil, posts(requests))
	if err != nil {
		t.Fatal(err)
	}
	awaitArrivals(ctx, t, first)
	other := f.nodes[0]
	if strings.HasPrefix(ledger.Arrivals()[0].Node, other.name) {
		other = f.nodes[1]
	}
	c := caller(other.base)
	var late []time.Duration
	for done := 0; done < requests; {
		var s status
		query := url.Values{"ticket": {ticket}, "wait": {"3"}, "responses": {"false"}}
		if err := c.do(ctx, http.MethodGet, "watched", query, nil, &s); err != nil {
			t.Fatal(err)
		}
		if s.CompletedRequests > done {
			done = s.CompletedRequests
			late = append(late, time.Since(ledger.Arrivals()[done-1].End))
		}
	}
	delays := spread(late)
	const what = "from an answer of the upstream to its report by another node"
	t.Logf("%s: %v (median, maximum)", what, delays)
	checkPromise(t, what, delays[0], time.Second)
}
