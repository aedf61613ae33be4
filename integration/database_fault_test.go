package integration

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"testing"
	"time"

	"github.com/sheafapi/sheaf/internal/pgtest"
)

// settled is how long the nodes may take after the database is back until they have
// sorted out who is alive.
const settled = 20 * time.Second

// newBase starts a PostgreSQL of the test's own and returns it with a database.
func newBase(ctx context.Context, t *testing.T) (base *pgtest.Cluster, database string) {
	t.Helper()
	base, err := pgtest.Start(ctx, pgtest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the log of PostgreSQL:\n%s", tail(base.Log(), 4000))
		}
		base.Close()
	})
	if database, err = base.Database(ctx); err != nil {
		t.Fatal(err)
	}
	return base, database
}

// allStores returns the stores of a load.
func allStores(l *load) map[string]bool {
	all := map[string]bool{}
	for i := range l.stores {
		all[storeName(i)] = true
	}
	return all
}

// TestPostgresKilled kills PostgreSQL under load and starts it again.
func TestPostgresKilled(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	base, database := newBase(ctx, t)
	f := newFleet(t, newLedger(t, moody), database, 3)
	f.up()
	var took takeovers
	f.withLoad(ctx, 6, func(l *load) {
		for range times(2) {
			arrived(ctx, t, f.ledger.After(150))
			hit := f.strike("", noBase)
			if err := base.Kill(); err != nil {
				t.Fatal(err)
			}
			wait(ctx, rand.N(time.Second))
			up := f.databaseUp(ctx, base)
			took = append(took, f.resumed(ctx, &fault{kind: noBase, at: up}, allStores(l), anything))
			hit.over(settled)
		}
	})
	t.Logf("PostgreSQL killed, from its start to the next request of a store: %v", took)
}

func anything(Arrival) bool { return true }

// databaseUp starts PostgreSQL again and returns when it accepted connections.
func (f *fleet) databaseUp(ctx context.Context, base *pgtest.Cluster) time.Time {
	f.t.Helper()
	if err := base.Up(ctx); err != nil {
		f.t.Fatal(err)
	}
	return time.Now()
}

// wait waits, as long as somebody else's outage lasts.
func wait(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// TestPostgresDown takes PostgreSQL away for some seconds. Creates are told to come
// back, nothing is sent that could not be recorded, and afterwards all is well.
func TestPostgresDown(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	base, database := newBase(ctx, t)
	f := newFleet(t, newLedger(t, steady), database, 3)
	f.up()
	var took takeovers
	var silent []time.Duration
	f.withLoad(ctx, 6, func(l *load) {
		for range times(1) {
			arrived(ctx, t, f.ledger.After(150))
			hit := f.strike("", noBase)
			if err := base.Down(); err != nil {
				t.Fatal(err)
			}
			wait(ctx, time.Second)
			before := f.ledger.Count()
			f.refusesWork(ctx)
			wait(ctx, 2*time.Second)
			if sent := f.ledger.Since(before); len(sent) > 0 {
				t.Errorf("%v after the database was gone %d requests were sent, such as %+v", sent[0].At.Sub(hit.at), len(sent), sent[0])
			}
			arrivals := f.ledger.Arrivals()
			silent = append(silent, arrivals[len(arrivals)-1].At.Sub(hit.at))
			up := f.databaseUp(ctx, base)
			took = append(took, f.resumed(ctx, &fault{kind: noBase, at: up}, allStores(l), anything))
			hit.over(settled)
			for _, n := range f.nodes {
				n.turnsReady(ctx, t, http.StatusOK)
			}
		}
	})
	t.Logf("PostgreSQL gone for 3 s, from its start to the next request of a store: %v; the last request had been sent after %v", took, spread(silent))
}

// refusesWork checks what each node answers while its database is away.
func (f *fleet) refusesWork(ctx context.Context) {
	f.t.Helper()
	for _, n := range f.nodes {
		n.turnsReady(ctx, f.t, http.StatusServiceUnavailable)
		_, err := caller(n.base).tryCreate(ctx, "other", nil, onePUT)
		r, refused := errors.AsType[*refusal](err)
		if !refused || r.code != http.StatusServiceUnavailable || r.after == "" {
			f.t.Errorf("node %s without its database answers a create with %v, want 503 and Retry-After", n.name, err)
		}
	}
}

// turnsReady waits until /readyz answers as wanted.
func (s *service) turnsReady(ctx context.Context, t *testing.T, want int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.base+"/readyz", nil)
		if err != nil {
			t.Fatal(err)
		}
		got := 0
		if resp, err := http.DefaultClient.Do(r); err == nil {
			resp.Body.Close()
			got = resp.StatusCode
		}
		if got == want {
			return
		}
		if !pause(ctx) {
			t.Fatalf("/readyz answers %d, want %d", got, want)
		}
	}
}
