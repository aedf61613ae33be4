package integration

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sheafapi/sheaf/internal/pgtest"
)

var faults = flag.Int("faults", 0, "how often each fault of a fleet's tests strikes; 0: a few times each")

// What the service promises after a fault of a node.
const (
	takeoverKilled = 3 * time.Second
	takeoverCut    = 15 * time.Second
)

// times returns how often a fault is to strike.
func times(byDefault int) int {
	if *faults > 0 {
		return *faults
	}
	return byDefault
}

// withLoad runs a test while a load is on the fleet, and audits all of it.
func (f *fleet) withLoad(ctx context.Context, stores int, test func(*load)) *audit {
	f.t.Helper()
	l := startLoad(ctx, f.client(), stores)
	test(l)
	l.finish(ctx, f.t)
	return auditLoad(ctx, f.t, l, f.ledger, f.auditOwnership(l)...)
}

// TestNodeKilled kills nodes under load. The others take their stores over, whether the
// node comes back at once or later.
func TestNodeKilled(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	f := startFleet(t, newLedger(t, moody), 3)
	var took takeovers
	rounds := 4
	if given("kills") {
		rounds = *kills
	}
	f.withLoad(ctx, 9, func(*load) {
		points := []int{250, 1, 100, 20, 180}
		for i := range rounds {
			victim := f.busy(ctx, points[i%len(points)])
			hit := f.kill9(victim)
			if i%2 == 0 {
				f.start(victim)
			}
			took = append(took, f.takenOver(ctx, hit))
			if i%2 != 0 {
				f.start(victim)
			}
		}
	})
	t.Logf("kill -9: %v", took)
	took.within(t, takeoverKilled)
}

// TestNodeStopped stops a node with SIGSTOP until others run its stores, and lets it go
// on in the middle of their work: it sends nothing for those stores any more.
func TestNodeStopped(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	f := startFleet(t, newLedger(t, steady), 3)
	var took takeovers
	f.withLoad(ctx, 6, func(*load) {
		for range times(1) {
			victim := f.busy(ctx, 200)
			hit := f.strike(victim.name, stopped)
			victim.signal(t, syscall.SIGSTOP)
			took = append(took, f.takenOver(ctx, hit))
			arrived(ctx, t, f.ledger.After(100))
			hit.over(0)
			victim.signal(t, syscall.SIGCONT)
			f.worksAgain(ctx, victim)
		}
	})
	t.Logf("SIGSTOP: %v", took)
}

// worksAgain waits until a node that was taken for dead runs stores again.
func (f *fleet) worksAgain(ctx context.Context, n *node) {
	f.t.Helper()
	from, limit := time.Now(), time.After(patience)
	for seen := f.ledger.Count(); ; {
		fresh := f.ledger.Since(seen)
		seen += len(fresh)
		for _, a := range fresh {
			if a.Node == n.name {
				f.t.Logf("node %s works again %v after it was let go on", n.name, a.At.Sub(from))
				return
			}
		}
		select {
		case <-limit:
			f.t.Fatalf("node %s never works again:\n%s", n.name, tail(n.logged(), 3000))
		default:
			pause(ctx)
		}
	}
}

// TestNodeCutOff cuts a node off its database, without a word to either side, and heals
// it when others run its stores.
func TestNodeCutOff(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	f := newFleet(t, newLedger(t, steady), pgtest.NewDatabase(t), 3)
	proxies := map[*node]*proxy{}
	for _, n := range f.nodes {
		proxies[n], n.database = newProxy(t, f.database)
	}
	f.up()
	var took takeovers
	var silent []time.Duration
	f.withLoad(ctx, 6, func(*load) {
		for range times(1) {
			victim := f.busy(ctx, 200)
			hit := f.strike(victim.name, cut)
			proxies[victim].cut()
			took = append(took, f.takenOver(ctx, hit))
			silent = append(silent, f.lastSent(victim).Sub(hit.at))
			proxies[victim].heal()
			hit.over(0)
			f.worksAgain(ctx, victim)
		}
	})
	t.Logf("network cut: %v; the node sent its last request after %v", took, spread(silent))
	took.within(t, takeoverCut)
}

// lastSent returns when the last request of a node arrived.
func (f *fleet) lastSent(n *node) (last time.Time) {
	for _, a := range f.ledger.Arrivals() {
		if a.Node == n.name {
			last = a.At
		}
	}
	return last
}

// TestRollingRestart restarts all nodes one after the other, as an upgrade does. No
// create fails, and nothing is left in doubt or sent twice.
func TestRollingRestart(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	f := startFleet(t, newLedger(t, steady), 3)
	c := f.client()
	var mu sync.Mutex
	refused := 0
	c.lost = func(err error) {
		mu.Lock()
		defer mu.Unlock()
		if refused++; !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("a call failed: %v", err)
		}
	}
	var took takeovers
	var exit []time.Duration
	l := startLoad(ctx, c, 6)
	for range times(1) {
		for _, n := range f.nodes {
			arrived(ctx, t, f.ledger.After(100))
			hit := f.strike(n.name, ended)
			n.term(t)
			exit = append(exit, time.Since(hit.at))
			took = append(took, f.takenOver(ctx, hit))
			f.start(n)
		}
	}
	l.finish(ctx, t)
	a := auditLoad(ctx, t, l, f.ledger, f.auditOwnership(l)...)
	t.Logf("SIGTERM: %v; until exit 0: %v; calls that were refused a connection and made again: %d", took, spread(exit), refused)
	if a.inDoubt+a.interrupted+a.repeated+a.unreported > 0 {
		t.Errorf("a rolling restart left something unknown, or sent again: %+v", *a)
	}
}

// TestManyNodesAtOnce starts ten nodes over an empty database.
func TestManyNodesAtOnce(t *testing.T) {
	ctx := t.Context()
	const nodes = 10
	for range times(1) {
		ledger := newLedger(t, steady)
		f := startFleet(t, ledger, nodes)
		tickets := map[string]string{}
		for i, n := range f.nodes {
			store := storeName(i)
			ticket, err := caller(n.base).create(ctx, store, nil, []request{{Method: "POST", Path: fmt.Sprintf("items/0/%d", i)}})
			if err != nil {
				t.Fatal(err)
			}
			tickets[store] = ticket
		}
		for _, n := range f.nodes {
			for store, ticket := range tickets {
				got, err := caller(n.base).ended(ctx, store, ticket)
				if err != nil || got.Responses[0].Status != "COMPLETED" {
					t.Errorf("node %s says of %s: %+v, %v", n.name, store, got, err)
				}
			}
		}
		if n := ledger.Count(); n != nodes {
			t.Errorf("%d requests arrived, want %d", n, nodes)
		}
		for _, n := range f.nodes {
			n.term(t)
		}
	}
}
