package integration

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sheafapi/sheaf/internal/pgtest"
)

// fleet is a group of nodes that share one PostgreSQL database.
type fleet struct {
	t        *testing.T
	row      *row
	ledger   *Ledger
	database string
	lost     func(error) // see client
	front    string      // the address of a gateway in front of the ledger; empty: there is none
	args     []string    // additional arguments of every node
	nodes    []*node
	faults   []*fault
}

// node is a member of a fleet, and its current process. Each process has its own name in the ledger.
type node struct {
	*service
	name     string
	starts   int
	address  string
	database string
	binary   string
	environ  []string
}

// fault is a fault of one process, or of the shared database.
type fault struct {
	node   string // empty: all nodes
	kind   faultKind
	at     time.Time
	healed time.Time // zero: not yet, or never
}

// endAfter records that the fault ends after a time; 0 means now.
func (hit *fault) endAfter(after time.Duration) { hit.healed = time.Now().Add(after) }

type faultKind string

const (
	killed         faultKind = "kill -9"
	stopped        faultKind = "SIGSTOP"
	cut            faultKind = "network cut"
	ended          faultKind = "SIGTERM"
	databaseKilled faultKind = "kill -9 of the database"
	databaseDown   faultKind = "database down"
	databaseFull   faultKind = "database full"
)

// newFleet returns a fleet of n nodes that aren't started yet.
func newFleet(t *testing.T, r *row, ledger *Ledger, database string, n int, args ...string) *fleet {
	t.Helper()
	f := &fleet{t: t, row: r, ledger: ledger, database: database, args: append(args, "--secret-key-file", newKeyFile(t))}
	for range n {
		f.nodes = append(f.nodes, &node{address: freeAddress(t), database: database, binary: binary})
	}
	return f
}

// newDatabase returns the URL of a new database of the shared server. accelerators is "on" or
// "off": whether Sheaf uses LISTEN and advisory locks there.
func newDatabase(t *testing.T, accelerators string) string {
	t.Helper()
	database, err := url.Parse(pgtest.NewDatabase(t))
	if err != nil {
		t.Fatal(err)
	}
	query := database.Query()
	query.Set("sheaf_accelerators", accelerators)
	database.RawQuery = query.Encode()
	return database.String()
}

// startFleet starts n nodes over a new database of the shared server.
func startFleet(t *testing.T, r *row, ledger *Ledger, n int) *fleet {
	t.Helper()
	f := newFleet(t, r, ledger, pgtest.NewDatabase(t), n)
	f.up()
	return f
}

// up starts all nodes at once and waits until they are ready.
func (f *fleet) up() {
	f.t.Helper()
	for _, n := range f.nodes {
		f.launch(n)
	}
	for _, n := range f.nodes {
		n.waitReady(f.t)
	}
}

// start starts a node and waits until it is ready.
func (f *fleet) start(n *node, more ...string) {
	f.t.Helper()
	f.launch(n, more...)
	n.waitReady(f.t)
}

// launch starts a process for the node.
func (f *fleet) launch(n *node, more ...string) {
	f.t.Helper()
	n.starts++
	for i := range f.nodes {
		if f.nodes[i] == n {
			n.name = fmt.Sprintf("%d.%d", i+1, n.starts)
		}
	}
	args := serveArgs(n.address, cmp.Or(f.front, f.ledger.URL)+nodePrefix+n.name+"/api/{storeId}", n.database)
	n.service = launchBinary(f.t, n.binary, n.environ, append(append(args, f.args...), more...)...)
	n.base = "http://" + n.address
}

// client returns a client that spreads its calls over the nodes.
func (f *fleet) client() client {
	var bases []string
	for _, n := range f.nodes {
		bases = append(bases, "http://"+n.address)
	}
	c := caller(bases...)
	c.lost = f.lost
	return c
}

// withLoad runs a test while the fleet is under load, and audits everything that happened.
func (f *fleet) withLoad(ctx context.Context, stores int, test func(*load)) *audit {
	f.t.Helper()
	l := startLoad(ctx, f.client(), stores)
	l.gated = f.front != ""
	test(l)
	f.row.stuck += l.finish(ctx, f.t)
	a := auditLoad(ctx, f.t, l, f.ledger, f.auditOwnership(l)...)
	f.row.add(f, a)
	return a
}

// strike records that a fault begins now.
func (f *fleet) strike(node string, kind faultKind) *fault {
	hit := &fault{node: node, kind: kind, at: time.Now()}
	f.faults = append(f.faults, hit)
	return hit
}

// kill9 kills a node as a crash would.
func (f *fleet) kill9(n *node) *fault {
	f.t.Helper()
	hit := f.strike(n.name, killed)
	n.kill9(f.t)
	return hit
}

// storeOf returns the store of an arrival, or the empty string if it isn't part of a load.
func storeOf(a Arrival) string {
	rest, _ := strings.CutPrefix(a.Path, "/api/")
	store, _, _ := strings.Cut(rest, "/")
	return store
}

// owners returns the node that runs each store at a given time. That is the node that sent the
// store's last request, if the store is in the middle of a batch.
func (f *fleet) owners(at time.Time) map[string]string {
	owners := map[string]string{}
	for _, a := range f.ledger.Since(f.ledger.Before(at.Add(-5 * time.Second))) {
		if a.At.After(at) {
			break
		}
		store := storeOf(a)
		delete(owners, store)
		inFlight := a.End.IsZero() || a.End.After(at)
		if inFlight || !isLastOfBatch(a) && a.Status == 200 && at.Sub(a.End) < 50*time.Millisecond {
			owners[store] = a.Node
		}
	}
	return owners
}

// isLastOfBatch reports whether an arrival of a load is the last request of its batch.
func isLastOfBatch(a Arrival) bool {
	var batch, index, of int
	_, err := fmt.Sscanf(a.Path, "/api/"+storeOf(a)+"/items/%d/%d-of-%d", &batch, &index, &of)
	return err != nil || index == of-1
}

// awaitBusy waits until a number of requests have arrived, and then until one of the given nodes
// (by default, any node) runs stores. It returns the node that runs the most.
func (f *fleet) awaitBusy(ctx context.Context, arrivals int, among ...*node) *node {
	f.t.Helper()
	awaitArrivals(ctx, f.t, f.ledger.After(arrivals))
	if len(among) == 0 {
		among = f.nodes
	}
	for limit := time.After(patience); ; awaitArrivals(ctx, f.t, f.ledger.After(1)) {
		stores := map[string]int{}
		for _, name := range f.owners(time.Now()) {
			stores[name]++
		}
		most := slices.MaxFunc(among, func(a, b *node) int { return cmp.Compare(stores[a.name], stores[b.name]) })
		if stores[most.name] > 0 {
			return most
		}
		select {
		case <-limit:
			f.t.Fatalf("node %s runs no store", most.name)
		default:
		}
	}
}

// takeover is a number of stores, and how long the last of them waited until it ran again.
type takeover struct {
	stores int
	last   time.Duration
}

// awaitTakeover waits until other nodes run all stores of the faulty node.
func (f *fleet) awaitTakeover(ctx context.Context, hit *fault) {
	f.t.Helper()
	orphans := map[string]bool{}
	for store, owner := range f.owners(hit.at) {
		if owner == hit.node {
			orphans[store] = true
		}
	}
	f.awaitStores(ctx, hit, hit.at, orphans, func(a Arrival) bool { return a.Node != hit.node })
}

// awaitStores waits until each store has an arrival after the given moment that wanted accepts.
func (f *fleet) awaitStores(ctx context.Context, hit *fault, moment time.Time, stores map[string]bool, wanted func(Arrival) bool) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	took := takeover{stores: len(stores)}
	for seen := f.ledger.Before(moment); len(stores) > 0; {
		fresh := f.ledger.Since(seen)
		seen += len(fresh)
		for _, a := range fresh {
			if store := storeOf(a); stores[store] && a.At.After(moment) && wanted(a) {
				delete(stores, store)
				took.last = a.At.Sub(moment)
			}
		}
		if len(stores) > 0 && !pause(ctx) {
			f.row.stuck += len(stores)
			f.t.Fatalf("%v after %s %s, no node runs the stores %v", time.Since(moment), hit.kind, hit.node, stores)
		}
	}
	f.row.addTakeover(f.t, took)
}
