package integration

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sheafapi/sheaf/internal/pgtest"
)

var (
	faults = flag.Int("faults", 0, "how often each fault strikes a fleet (0: a few times); if set, a table of the results is printed")
	kills  = flag.Int("kills", 0, "how often TestKill9UnderLoad and TestTakeoverKilled kill the service (0: a few times)")
)

// The promised times until the stores of a node run on another node.
const (
	takeoverEnded  = time.Second // at once; a lost hint costs up to a second
	takeoverKilled = 3 * time.Second
	takeoverCut    = 15 * time.Second
)

// times returns how often a fault strikes.
func times(byDefault int) int {
	if *faults > 0 {
		return *faults
	}
	return byDefault
}

// timesKilled returns how often a service is killed.
func timesKilled(byDefault int) int {
	if *kills > 0 {
		return *kills
	}
	return byDefault
}

// TestTakeoverKilled kills nodes under load. Other nodes take over the stores of each, whether it
// returns at once or later.
func TestTakeoverKilled(t *testing.T) {
	r := newRow("`kill -9` of a node", takeoverKilled)
	r.repeat(t, timesKilled(4), func(t *testing.T, times int) { killNodes(t, r, times, "on") })
}

// TestTakeoverWithoutAccelerators: without advisory locks, the others notice a dead node later.
func TestTakeoverWithoutAccelerators(t *testing.T) {
	r := newRow("`kill -9` of a node, without advisory locks (`sheaf_accelerators=off`)", takeoverCut)
	t.Parallel()
	r.repeat(t, times(1), func(t *testing.T, times int) { killNodes(t, r, times, "off") })
}

func killNodes(t *testing.T, r *row, times int, accelerators string) {
	ctx := t.Context()
	f := newFleet(t, r, newLedger(t, moody), newDatabase(t, accelerators), 3)
	f.up()
	f.withLoad(ctx, 9, func(*load) {
		// A kill after few arrivals hits the takeover; a kill after many hits normal work.
		points := []int{250, 1, 100, 20, 180}
		for i := range times {
			victim := f.awaitBusy(ctx, points[i%len(points)])
			hit := f.kill9(victim)
			if i%2 == 0 {
				f.start(victim)
			}
			f.awaitTakeover(ctx, hit)
			if i%2 != 0 {
				f.start(victim)
			}
		}
	})
}

// TestTakeoverStopped stops a node with SIGSTOP until others run its stores, and continues it in
// the middle of their work. The node then sends nothing more for those stores.
func TestTakeoverStopped(t *testing.T) {
	r := newRow("SIGSTOP of a node until its stores run elsewhere, then SIGCONT", takeoverCut)
	t.Parallel()
	r.repeat(t, times(1), func(t *testing.T, times int) {
		ctx := t.Context()
		f := startFleet(t, r, newLedger(t, steady), 3)
		f.withLoad(ctx, 6, func(*load) {
			for range times {
				victim := f.awaitBusy(ctx, 200)
				hit := f.strike(victim.name, stopped)
				victim.signal(t, syscall.SIGSTOP)
				f.awaitTakeover(ctx, hit)
				awaitArrivals(ctx, t, f.ledger.After(50))
				hit.endAfter(0)
				victim.signal(t, syscall.SIGCONT)
				f.awaitWork(victim)
			}
		})
	})
}

// awaitWork waits until a node that was considered dead runs stores again.
func (f *fleet) awaitWork(n *node) {
	f.t.Helper()
	from, limit := time.Now(), time.After(patience)
	for seen := f.ledger.Count(); ; {
		fresh := f.ledger.Since(seen)
		seen += len(fresh)
		for _, a := range fresh {
			if a.Node == n.name {
				f.t.Logf("node %s works again %v after it could continue", n.name, a.At.Sub(from))
				return
			}
		}
		select {
		case <-limit:
			f.t.Fatalf("node %s never worked again:\n%s", n.name, tail(n.logText(), 3000))
		case <-f.ledger.After(1):
		}
	}
}

// TestTakeoverCutOff silently cuts the connection between a node and its database, and restores it
// when others run the node's stores.
func TestTakeoverCutOff(t *testing.T) {
	r := newRow("network between a node and PostgreSQL cut, no FIN", takeoverCut)
	t.Parallel()
	r.repeat(t, times(1), func(t *testing.T, times int) {
		ctx := t.Context()
		f := newFleet(t, r, newLedger(t, steady), pgtest.NewDatabase(t), 3)
		proxies := map[*node]*proxy{}
		for _, n := range f.nodes {
			proxies[n], n.database = newProxy(t, f.database)
		}
		f.up()
		var silent []time.Duration
		f.withLoad(ctx, 6, func(*load) {
			for range times {
				victim := f.awaitBusy(ctx, 200)
				hit := f.strike(victim.name, cut)
				proxies[victim].cut()
				f.awaitTakeover(ctx, hit)
				silent = append(silent, f.lastSendTime(victim).Sub(hit.at))
				proxies[victim].heal()
				hit.endAfter(0)
				f.awaitWork(victim)
			}
		})
		t.Logf("a node sent its last request %v after it was cut off (median, maximum)", spread(silent))
	})
}

// lastSendTime returns when the last request of a node arrived.
func (f *fleet) lastSendTime(n *node) (last time.Time) {
	for _, a := range f.ledger.Arrivals() {
		if a.Node == n.name {
			last = a.At
		}
	}
	return last
}

// TestTakeoverRollingRestart restarts all nodes one after the other, as an upgrade does. No
// call is answered with an error, and nothing is left in doubt or sent twice.
func TestTakeoverRollingRestart(t *testing.T) {
	r := newRow("SIGTERM of each node in turn (rolling restart)", takeoverEnded)
	r.repeat(t, times(3), func(t *testing.T, times int) {
		ctx := t.Context()
		f := startFleet(t, r, newLedger(t, steady), 3)
		var repeated atomic.Int32
		f.lost = func(err error) {
			// A stopped node accepts no connections, and those that the kernel had already accepted
			// for it end without a byte.
			if repeated.Add(1); !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, io.EOF) {
				t.Errorf("a call failed: %v", err)
			}
		}
		var exit []time.Duration
		a := f.withLoad(ctx, 6, func(*load) {
			for i := range times {
				n := f.awaitBusy(ctx, 100, f.nodes[i%len(f.nodes)])
				hit := f.strike(n.name, ended)
				n.term(t)
				exit = append(exit, time.Since(hit.at))
				f.awaitTakeover(ctx, hit)
				f.start(n)
			}
		})
		t.Logf("from SIGTERM to exit 0 (median, maximum): %v; calls that reached no node and were repeated: %d", spread(exit), repeated.Load())
		if a.inDoubt+a.interrupted+a.repeated+a.unreported > 0 {
			t.Errorf("a rolling restart left an outcome unknown or sent a request again: %+v", *a)
		}
	})
}

// TestManyNodesAtOnce starts ten nodes over an empty database. Each knows every ticket.
func TestManyNodesAtOnce(t *testing.T) {
	const nodes = 10
	r := newRow("ten nodes start at once on an empty database", 0)
	for range times(1) {
		r.runs++
		t.Run("ten", func(t *testing.T) {
			ctx := t.Context()
			ledger := newLedger(t, steady)
			f := startFleet(t, r, ledger, nodes)
			tickets := map[string]string{}
			for i, n := range f.nodes {
				ticket, err := caller(n.base).create(ctx, storeName(i), url.Values{}, []request{{Method: "POST", Path: fmt.Sprintf("items/0/%d", i)}})
				if err != nil {
					t.Fatal(err)
				}
				tickets[storeName(i)] = ticket
				r.tickets++
			}
			for _, n := range f.nodes {
				for store, ticket := range tickets {
					if _, err := caller(n.base).status(ctx, store, ticket); err != nil {
						t.Errorf("node %s does not know the ticket of %s: %v", n.name, store, err)
					}
				}
			}
			for store, ticket := range tickets {
				got, err := f.client().awaitEnd(ctx, store, ticket)
				if err != nil || got.Responses[0].Status != "COMPLETED" {
					r.lost++
					t.Errorf("the batch of %s ended as %+v, %v", store, got, err)
				}
			}
			if n := ledger.Count(); n != nodes {
				r.twice += max(0, n-nodes)
				t.Errorf("%d requests arrived, want %d", n, nodes)
			}
		})
	}
}

// TestLostStoresGetNothing stops a node, or cuts it off from the database, while each of its stores
// waits for an answer. Another node runs the stores before the answers arrive. After that, the
// first node sends nothing more for them, not even GETs, which it doesn't record before it sends
// them.
func TestLostStoresGetNothing(t *testing.T) {
	t.Parallel()
	for _, kind := range []faultKind{stopped, cut} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			loseStores(t, kind)
		})
	}
}

func loseStores(t *testing.T, kind faultKind) {
	const stores = 10
	ctx := t.Context()
	release := make(chan struct{})
	ledger := newLedger(t, func(a Arrival) (r Reply) {
		if strings.HasSuffix(a.Path, "/hold") && a.Nth == 1 {
			r.Until = release
		}
		return r
	})
	f := newFleet(t, nil, ledger, pgtest.NewDatabase(t), 2, "--request-timeout", "10m")
	first, second := f.nodes[0], f.nodes[1]
	network, through := newProxy(t, f.database)
	first.database = through
	f.start(first)
	held := ledger.After(stores)
	tickets := map[string]string{}
	for i := range stores {
		ticket, err := caller(first.base).create(ctx, storeName(i), nil, []request{
			{Method: "GET", Path: "hold"}, {Method: "GET", Path: "next"}, {Method: "POST", Path: "last"},
		})
		if err != nil {
			t.Fatal(err)
		}
		tickets[storeName(i)] = ticket
	}
	awaitArrivals(ctx, t, held)
	f.start(second)
	if kind == stopped {
		first.signal(t, syscall.SIGSTOP)
	} else {
		network.cut()
	}
	for store, ticket := range tickets {
		got, err := caller(second.base).awaitEnd(ctx, store, ticket)
		if err != nil || got.Responses[2].Status != "COMPLETED" {
			t.Errorf("the batch of %s ended as %+v, %v", store, got, err)
		}
	}
	close(release)
	for answered := 0; answered < stores && pause(ctx); {
		answered = 0
		for _, a := range ledger.Arrivals()[:stores] {
			if a.Answered {
				answered++
			}
		}
	}
	if kind == stopped {
		first.signal(t, syscall.SIGCONT)
	} else {
		network.heal()
	}
	first.await(t, "was considered dead and registers again")
	ticket, err := caller(first.base).create(ctx, "new", nil, onePUT)
	if err == nil {
		_, err = caller(first.base).awaitEnd(ctx, "new", ticket)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range ledger.Arrivals()[stores:] {
		if a.Node == first.name && a.Path != "/api/new/x" {
			t.Errorf("node %s sent for a store that it had lost: %+v", first.name, a)
		}
	}
}
