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
	faults = flag.Int("faults", 0, "how often each fault strikes a fleet, after which a table is printed; 0: a few times each")
	kills  = flag.Int("kills", 0, "how often TestKill9UnderLoad and TestTakeoverKilled kill the service; 0: some times each")
)

// The promised times until the stores of a node run elsewhere.
const (
	takeoverEnded  = time.Second // at once; a lost hint costs up to a second
	takeoverKilled = 3 * time.Second
	takeoverCut    = 15 * time.Second
)

// times returns the number of times that a fault strikes.
func times(byDefault int) int {
	if *faults > 0 {
		return *faults
	}
	return byDefault
}

// timesKilled returns the number of times that a service is killed.
func timesKilled(byDefault int) int {
	if *kills > 0 {
		return *kills
	}
	return byDefault
}

// TestTakeoverKilled kills nodes under load. The others take over their stores, whether the node
// returns at once or later.
func TestTakeoverKilled(t *testing.T) {
	r := newRow("`kill -9` of a node", takeoverKilled)
	r.repeat(t, timesKilled(4), func(t *testing.T, times int) { killNodes(t, r, times, "on") })
}

// TestTakeoverWithoutAccelerators: without advisory locks the others notice a dead node later.
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
		// After few arrivals the kill hits the takeover, after many the middle of the work.
		points := []int{250, 1, 100, 20, 180}
		for i := range times {
			victim := f.busy(ctx, points[i%len(points)])
			hit := f.kill9(victim)
			if i%2 == 0 {
				f.start(victim)
			}
			f.takenOver(ctx, hit)
			if i%2 != 0 {
				f.start(victim)
			}
		}
	})
}

// TestTakeoverStopped stops a node with SIGSTOP until others run its stores, and continues it in
// the middle of their work. It sends nothing more for those stores.
func TestTakeoverStopped(t *testing.T) {
	r := newRow("SIGSTOP of a node until its stores run elsewhere, then SIGCONT", takeoverCut)
	t.Parallel()
	r.repeat(t, times(1), func(t *testing.T, times int) {
		ctx := t.Context()
		f := startFleet(t, r, newLedger(t, steady), 3)
		f.withLoad(ctx, 6, func(*load) {
			for range times {
				victim := f.busy(ctx, 200)
				hit := f.strike(victim.name, stopped)
				victim.signal(t, syscall.SIGSTOP)
				f.takenOver(ctx, hit)
				arrived(ctx, t, f.ledger.After(50))
				hit.over(0)
				victim.signal(t, syscall.SIGCONT)
				f.worksAgain(victim)
			}
		})
	})
}

// worksAgain waits until a node that was considered dead runs stores again.
func (f *fleet) worksAgain(n *node) {
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
				victim := f.busy(ctx, 200)
				hit := f.strike(victim.name, cut)
				proxies[victim].cut()
				f.takenOver(ctx, hit)
				silent = append(silent, f.lastSent(victim).Sub(hit.at))
				proxies[victim].heal()
				hit.over(0)
				f.worksAgain(victim)
			}
		})
		t.Logf("cut off, a node sent its last request after %v (median, most)", spread(silent))
	})
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

// TestTakeoverRollingRestart restarts all nodes one after the other, as an upgrade does. No
// call is answered with an error, and nothing is left in doubt or sent twice.
func TestTakeoverRollingRestart(t *testing.T) {
	r := newRow("SIGTERM of each node in turn (rolling restart)", takeoverEnded)
	r.repeat(t, times(3), func(t *testing.T, times int) {
		ctx := t.Context()
		f := startFleet(t, r, newLedger(t, steady), 3)
		var unheard atomic.Int32
		f.lost = func(err error) {
			// A node that has stopped accepts nothing, and connections that the kernel accepted for
			// it end without a byte.
			if unheard.Add(1); !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, io.EOF) {
				t.Errorf("a call failed: %v", err)
			}
		}
		var exit []time.Duration
		a := f.withLoad(ctx, 6, func(*load) {
			for i := range times {
				n := f.busy(ctx, 100, f.nodes[i%len(f.nodes)])
				hit := f.strike(n.name, ended)
				n.term(t)
				exit = append(exit, time.Since(hit.at))
				f.takenOver(ctx, hit)
				f.start(n)
			}
		})
		t.Logf("until exit 0: %v; calls that found no node and were made again: %d", spread(exit), unheard.Load())
		if a.inDoubt+a.interrupted+a.repeated+a.unreported > 0 {
			t.Errorf("a rolling restart left something unknown, or sent again: %+v", *a)
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
				got, err := f.client().ended(ctx, store, ticket)
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

// TestLostStoresGetNothing stops a node, and cuts one off, while each of its stores waits for
// an answer. When the answers arrive, another node has run the stores, and the first one sends
// nothing more for them, although GETs come next, which need no record before they leave.
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
	arrived(ctx, t, held)
	f.start(second)
	if kind == stopped {
		first.signal(t, syscall.SIGSTOP)
	} else {
		network.cut()
	}
	for store, ticket := range tickets {
		got, err := caller(second.base).ended(ctx, store, ticket)
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
		_, err = caller(first.base).ended(ctx, "new", ticket)
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
