package integration

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sheafapi/sheaf/internal/pgtest"
)

const (
	// startElsewhere is how soon a batch that its node has no place for is to start on an
	// idle one, and what is allowed where tests share two CPUs with each other.
	startElsewhere   = 100 * time.Millisecond
	startElsewhereIn = time.Second
	// stopElsewhere is how soon a stop takes effect on another node.
	stopElsewhere = 2 * time.Second
)

// TestIdleNodeStarts: what one node has no place for starts on an idle one at once.
func TestIdleNodeStarts(t *testing.T) {
	ctx := t.Context()
	ledger := holding(t)
	f := newFleet(t, ledger, pgtest.NewDatabase(t), 2)
	full, idle := f.nodes[0], f.nodes[1]
	f.start(full, "--stores-at-once", "1", "--request-timeout", "10m")
	held := ledger.After(1)
	if _, err := caller(full.base).create(ctx, "busy", nil, []request{{Method: "POST", Path: "hold"}}); err != nil {
		t.Fatal(err)
	}
	arrived(ctx, t, held)
	f.start(idle)
	var took []time.Duration
	for i := range times(20) {
		began, first := time.Now(), ledger.After(1)
		if _, err := caller(full.base).create(ctx, storeName(i), nil, onePUT); err != nil {
			t.Fatal(err)
		}
		took = append(took, arrived(ctx, t, first).Sub(began))
	}
	for _, a := range ledger.Arrivals()[1:] {
		if a.Node != idle.name {
			t.Errorf("node %s ran %+v", a.Node, a)
		}
	}
	s := spread(took)
	t.Logf("from a create on a full node to its first request from an idle one: %v (median, most)", s)
	if s[0] > startElsewhere || s[1] > startElsewhereIn {
		t.Errorf("that took %v, %v is promised", s, startElsewhere)
	}
}

// TestStopThroughAnotherNode: who stops a batch need not know which node runs it.
func TestStopThroughAnotherNode(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	ledger := newLedger(t, func(a Arrival) Reply {
		if strings.Contains(a.Path, "throttled") {
			return Reply{Status: http.StatusTooManyRequests, RetryAfter: "60"}
		}
		return Reply{Delay: 20 * time.Millisecond}
	})
	f := startFleet(t, ledger, 2)
	owner, other := f.nodes[0], f.nodes[1]
	for name, requests := range map[string][]request{
		"under way":       posts(400),
		"waits for a 429": {{Method: "POST", Path: "throttled"}, {Method: "POST", Path: "later"}},
	} {
		var took []time.Duration
		for i := range times(3) {
			store := fmt.Sprintf("%s-%d", strings.ReplaceAll(name, " ", "-"), i)
			took = append(took, stopThrough(ctx, t, f, owner, other, store, requests))
		}
		t.Logf("from a stop through another node to the end of a batch that %s: %v (median, most)", name, spread(took))
	}
}

// posts returns a batch of n POSTs.
func posts(n int) (all []request) {
	for i := range n {
		all = append(all, request{Method: "POST", Path: fmt.Sprint("post/", i)})
	}
	return all
}

// stopThrough creates a batch on one node, stops it through another while it is under way,
// and returns how long it took to end.
func stopThrough(ctx context.Context, t *testing.T, f *fleet, owner, other *node, store string, requests []request) time.Duration {
	t.Helper()
	first := f.ledger.After(1)
	ticket, err := caller(owner.base).create(ctx, store, nil, requests)
	if err != nil {
		t.Fatal(err)
	}
	arrived(ctx, t, first)
	stopping := time.Now()
	if err := caller(other.base).stop(ctx, store, ticket); err != nil {
		t.Fatal(err)
	}
	got, err := caller(other.base).ended(ctx, store, ticket)
	took := time.Since(stopping)
	if err != nil || got.Responses[len(requests)-1].Status != "NOT_EXECUTED" {
		t.Errorf("the batch of %s ended as %+v, %v", store, got, err)
	}
	if took > stopElsewhere {
		t.Errorf("a stop of %s through another node took %v, the promise is %v", store, took, stopElsewhere)
	}
	for _, a := range f.ledger.Arrivals() {
		if storeOf(a) == store && a.At.Sub(stopping) > stopElsewhere {
			t.Errorf("%v after the stop came %+v", a.At.Sub(stopping), a)
		}
	}
	return took
}
