package integration

import (
	"context"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sheafapi/sheaf/internal/pgtest"
	"github.com/sheafapi/sheaf/internal/strictupstream"
)

// outageKind is how an upstream is unavailable.
type outageKind string

const (
	noOutage   outageKind = ""
	portClosed outageKind = "port closed"
	cutOff     outageKind = "connections cut"
	plain503   outageKind = "503"
	retryAfter outageKind = "503 with Retry-After"
	blackholed outageKind = "packets dropped"
	halfOf502  outageKind = "502 for half of the calls"
)

// outageStores is the number of stores under load.
const outageStores = 20

var outageKinds = []outageKind{portClosed, cutOff, plain503, retryAfter, blackholed, halfOf502}

// restartPromise is how long after the upstream's first answer all stores run again.
const restartPromise = 3 * time.Second

// gateway is a reverse proxy in front of the ledger, which can be unavailable in several ways. What it
// refuses doesn't reach the ledger.
type gateway struct {
	t       *testing.T
	address string
	proxy   *httputil.ReverseProxy
	kind    atomic.Value // outageKind

	mu     sync.Mutex
	server *http.Server // nil: nobody listens
	conns  map[net.Conn]bool
	hole   int        // a socket that accepts nothing; 0: there is none
	stuck  []net.Conn // connections that fill its queue
}

func newGateway(t *testing.T, to string) *gateway {
	t.Helper()
	target, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	g := &gateway{t: t, address: freeAddress(t), conns: map[net.Conn]bool{}, proxy: &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target) },
		ErrorLog:  log.New(io.Discard, "", 0), // callers that left
		Transport: &http.Transport{MaxIdleConnsPerHost: 100, DisableCompression: true},
	}}
	g.kind.Store(noOutage)
	g.listen()
	t.Cleanup(func() {
		g.end()
		g.close()
	})
	return g
}

func (g *gateway) listen() {
	g.t.Helper()
	l, err := net.Listen("tcp", g.address)
	if err != nil {
		g.t.Fatal(err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.server = &http.Server{Handler: g, ReadHeaderTimeout: time.Minute, ConnState: g.track}
	watched := strictupstream.Watch(g.t, l).AllowPartial()
	go func(s *http.Server) { _ = s.Serve(watched) }(g.server)
}

// track knows the open connections. During an outage that cuts connections, none survives.
func (g *gateway) track(c net.Conn, state http.ConnState) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch state {
	case http.StateNew:
		if g.kind.Load() == cutOff {
			c.Close()
			return
		}
		g.conns[c] = true
	case http.StateClosed, http.StateHijacked:
		delete(g.conns, c)
	case http.StateActive, http.StateIdle:
	}
}

// close stops listening and closes all connections.
func (g *gateway) close() {
	g.mu.Lock()
	s := g.server
	g.server = nil
	g.mu.Unlock()
	if s != nil {
		s.Close()
	}
}

// ServeHTTP implements http.Handler.
func (g *gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch g.kind.Load() {
	case plain503:
		w.WriteHeader(http.StatusServiceUnavailable)
	case retryAfter:
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusServiceUnavailable)
	case blackholed:
		<-r.Context().Done()
	case halfOf502:
		if rand.N(2) == 0 {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		g.proxy.ServeHTTP(w, r)
	default:
		g.proxy.ServeHTTP(w, r)
	}
}

// begin begins an outage.
func (g *gateway) begin(kind outageKind) {
	g.t.Helper()
	g.kind.Store(kind)
	switch kind {
	case portClosed:
		g.close()
	case cutOff:
		g.mu.Lock()
		for c := range g.conns {
			c.Close()
		}
		g.mu.Unlock()
	case blackholed:
		g.mu.Lock()
		s := g.server
		g.mu.Unlock()
		// Stop listening, but leave the connections open.
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = s.Shutdown(ctx)
		g.dropPackets()
	default:
	}
}

// dropPackets listens without accepting, and fills the queue of connections. The kernel then drops the
// packets of further connections.
func (g *gateway) dropPackets() {
	g.t.Helper()
	address, err := net.ResolveTCPAddr("tcp4", g.address)
	if err != nil {
		g.t.Fatal(err)
	}
	hole, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		g.t.Fatal(err)
	}
	name := &syscall.SockaddrInet4{Port: address.Port, Addr: [4]byte(address.IP.To4())}
	for _, err := range []error{
		syscall.SetsockoptInt(hole, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1), syscall.Bind(hole, name), syscall.Listen(hole, 0),
	} {
		if err != nil {
			g.t.Fatal(err)
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.hole = hole
	for range 3 {
		if c, err := net.DialTimeout("tcp", g.address, 100*time.Millisecond); err == nil {
			g.stuck = append(g.stuck, c)
		}
	}
}

// end ends the outage.
func (g *gateway) end() {
	g.t.Helper()
	was := g.kind.Swap(noOutage)
	switch was {
	case portClosed:
		g.listen()
	case blackholed:
		g.mu.Lock()
		_ = syscall.Close(g.hole)
		for _, c := range g.stuck {
			c.Close()
		}
		g.stuck = nil
		for c := range g.conns {
			c.Close()
		}
		g.mu.Unlock()
		g.close()
		g.listen()
	}
}

// TestUpstreamOutages checks that outages of the upstream make no request fail, except those whose
// outcome is unknown, and that all stores run again soon after.
func TestUpstreamOutages(t *testing.T) {
	for database, nodes := range map[string]int{"SQLite": 1, "PostgreSQL": 3} {
		r := newRow("upstream outage, "+database, restartPromise)
		t.Run(database, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "sheaf.db")
			if database == "PostgreSQL" {
				path = pgtest.NewDatabase(t)
			}
			ledger, err := NewLedger(steady, func(l net.Listener) net.Listener { return l }) // the gateway watches its own connections
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(ledger.Close)
			gate := newGateway(t, ledger.URL)
			f := newFleet(t, r, ledger, path, nodes, "--request-timeout", "5s", "--retry-interval", "500ms")
			f.front = "http://" + gate.address
			f.up()
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			a := f.withLoad(ctx, outageStores, func(*load) {
				for n := range times(len(outageKinds)) {
					f.suffer(ctx, gate, outageKinds[n%len(outageKinds)], n)
				}
			})
			if a.impatient > 0 {
				t.Errorf("%d requests failed that could have been sent again", a.impatient)
			}
			t.Logf("%d outages; until the last store ran again after the first answer: %v (median, maximum)", r.runs, spread(r.took))
		})
	}
}

// suffer makes the upstream unavailable for a while, and waits until all stores run again.
func (f *fleet) suffer(ctx context.Context, gate *gateway, kind outageKind, n int) {
	f.t.Helper()
	f.awaitArrivals(ctx, len(f.ledger.Arrivals()), outageStores)
	lasts := time.Second
	if *faults > 0 {
		lasts = []time.Duration{time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 20 * time.Second, 30 * time.Second, time.Minute}[n%7]
	}
	hit := f.strike("", faultKind(kind))
	gate.begin(kind)
	select { // an outage lasts for a time, so there is no event to wait for
	case <-time.After(lasts):
	case <-ctx.Done():
	}
	gate.end()
	returned, before := time.Now(), len(f.ledger.Arrivals())
	hit.endAfter(0)
	f.awaitArrivals(ctx, before, 1)
	first := time.Since(returned)
	f.awaitArrivals(ctx, before, outageStores)
	took := time.Since(returned) - first
	f.row.took = append(f.row.took, took)
	f.t.Logf("%s for %v: first answer after %v, all stores %v later", kind, lasts, first.Round(time.Millisecond), took.Round(time.Millisecond))
	checkPromise(f.t, fmt.Sprintf("until the last store ran again after %s", kind), took, restartPromise)
}

// awaitArrivals waits until requests of a number of stores have arrived after the first n arrivals.
func (f *fleet) awaitArrivals(ctx context.Context, n, stores int) {
	f.t.Helper()
	seen := map[string]bool{}
	for {
		next := f.ledger.After(1)
		for _, a := range f.ledger.Since(n) {
			n = a.Seq
			if store := storeOf(a); strings.HasPrefix(store, "store-") {
				seen[store] = true
			}
		}
		if len(seen) >= stores {
			return
		}
		select {
		case <-ctx.Done():
			f.t.Fatalf("requests of %d stores arrived, not of %d", len(seen), stores)
		case <-next:
		}
	}
}
