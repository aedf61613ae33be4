package integration

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// promises has the promised times with and without accelerators: until a batch starts on an idle
// node if its own node is full, and until a stop takes effect on another node. The median must
// keep the promise.
var promises = map[string]struct{ start, stop time.Duration }{
	"on":  {100 * time.Millisecond, time.Second},
	"off": {1500 * time.Millisecond, 2 * time.Second},
}

// TestIdleNodeStarts: a batch that finds its node full starts on an idle node.
func TestIdleNodeStarts(t *testing.T) {
	for accelerators, promise := range promises {
		t.Run(accelerators, func(t *testing.T) {
			ctx := t.Context()
			ledger := newHoldingLedger(t)
			f := newFleet(t, nil, ledger, newDatabase(t, accelerators), 2)
			full, idle := f.nodes[0], f.nodes[1]
			f.start(full, "--max-outbound", "1024,stores=1", "--request-timeout", "10m")
			held := ledger.After(1)
			if _, err := caller(full.base).create(ctx, "busy", nil, []request{{Method: "POST", Path: "hold"}}); err != nil {
				t.Fatal(err)
			}
			awaitArrivals(ctx, t, held)
			f.start(idle)
			var took []time.Duration
			for i := range 10 {
				began, first := time.Now(), ledger.After(1)
				if _, err := caller(full.base).create(ctx, storeName(i), nil, onePUT); err != nil {
					t.Fatal(err)
				}
				moment := awaitArrivals(ctx, t, first)
				if i > 0 { // in the first round, the full node may not know yet that the idle one exists
					took = append(took, moment.Sub(began))
				}
			}
			for _, a := range ledger.Arrivals()[1:] {
				if a.Node != idle.name {
					t.Errorf("node %s ran %+v", a.Node, a)
				}
			}
			s := spread(took)
			const what = "from a create on a full node to the batch's first request from an idle one"
			t.Logf("%s: %v (median, maximum)", what, s)
			checkPromise(t, what, s[0], promise.start)
		})
	}
}

// TestStopThroughAnotherNode: any node can stop a batch, whichever node runs it.
func TestStopThroughAnotherNode(t *testing.T) {
	t.Parallel()
	for accelerators, promise := range promises {
		t.Run(accelerators, func(t *testing.T) {
			ctx := t.Context()
			ledger := newLedger(t, func(a Arrival) Reply {
				if strings.Contains(a.Path, "throttled") {
					return Reply{Status: http.StatusTooManyRequests, RetryAfter: "60"}
				}
				return Reply{Delay: 20 * time.Millisecond}
			})
			f := newFleet(t, nil, ledger, newDatabase(t, accelerators), 2)
			f.up()
			for name, requests := range map[string][]request{
				"is running":      posts(400),
				"waits for a 429": {{Method: "POST", Path: "throttled"}, {Method: "POST", Path: "later"}},
			} {
				var took []time.Duration
				for i := range 3 {
					store := fmt.Sprintf("%s-%d", strings.ReplaceAll(name, " ", "-"), i)
					took = append(took, f.stopThrough(ctx, store, requests))
				}
				s := spread(took)
				what := "from a stop through another node to the end of a batch that " + name
				t.Logf("%s: %v (median, maximum)", what, s)
				checkPromise(t, what, s[0], promise.stop)
			}
		})
	}
}

// posts returns a batch of n POSTs.
func posts(n int) (all []request) {
	for i := range n {
		all = append(all, request{Method: "POST", Path: fmt.Sprint("post/", i)})
	}
	return all
}

// stopThrough creates a batch on one node, stops it through another while it runs, and
// returns how long it took to end.
func (f *fleet) stopThrough(ctx context.Context, store string, requests []request) time.Duration {
	f.t.Helper()
	owner, other := caller(f.nodes[0].base), caller(f.nodes[1].base)
	first := f.ledger.After(1)
	ticket, err := owner.create(ctx, store, nil, requests)
	if err != nil {
		f.t.Fatal(err)
	}
	awaitArrivals(ctx, f.t, first)
	stopping := time.Now()
	if err := other.stop(ctx, store, ticket); err != nil {
		f.t.Fatal(err)
	}
	got, err := other.awaitEnd(ctx, store, ticket)
	if err != nil || got.Responses[len(requests)-1].Status != "NOT_EXECUTED" {
		f.t.Errorf("the batch of %s ended as %+v, %v", store, got, err)
	}
	return time.Since(stopping)
}

// TestPauseThroughAnotherNode: any node can pause a batch, whichever node runs it.
func TestPauseThroughAnotherNode(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	ledger := newLedger(t, func(Arrival) Reply { return Reply{Delay: 20 * time.Millisecond} })
	f := startFleet(t, nil, ledger, 2)
	var took []time.Duration
	for i := range 4 {
		store := fmt.Sprint("paused-", i)
		first := ledger.After(1)
		ticket, err := caller(f.nodes[0].base).create(ctx, store, nil, posts(80))
		if err != nil {
			t.Fatal(err)
		}
		awaitArrivals(ctx, t, first)
		other := caller(f.nodes[i%2].base)
		steer := func(what string) {
			t.Helper()
			var answer struct{ UpdateCount int }
			if err := other.call(ctx, http.MethodPost, store+"/batch/"+what, url.Values{"ticket": {ticket}}, nil, &answer); err != nil || answer.UpdateCount != 1 {
				t.Fatalf("%s: %+v, %v", what, answer, err)
			}
		}
		began := time.Now()
		steer("pause")
		// The runner learns of the pause when it records a POST, which is before it sends the POST.
		var last time.Time
		for quiet := 0; quiet < 20 && pause(ctx); quiet++ {
			for _, a := range ledger.Arrivals() {
				if a.At.After(last) {
					last, quiet = a.At, 0
				}
			}
		}
		took = append(took, max(last.Sub(began), 0))
		steer("resume")
		if got, err := other.awaitEnd(ctx, store, ticket); err != nil || got.CompletedRequests != 80 {
			t.Errorf("the batch of %s ended as %+v, %v", store, got, err)
		}
	}
	late := spread(took)
	const what = "from a pause to the last request that left after it"
	t.Logf("%s: %v (median, maximum)", what, late)
	checkPromise(t, what, late[1], time.Second)
}
