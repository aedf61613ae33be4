package integration

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/sheafapi/sheaf/internal/pgtest"
)

const (
	// settleTime is the longest time from the database's return until the nodes agree which of
	// them are alive.
	settleTime = 20 * time.Second
	// resumeLimit is the promised time from the database's return until every store runs again.
	resumeLimit = 15 * time.Second
)

// newPostgres starts a PostgreSQL server for this test and returns it with the URL of a database.
func newPostgres(t *testing.T, o pgtest.Options) (base *pgtest.Cluster, database string) {
	t.Helper()
	base, err := pgtest.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the log of PostgreSQL:\n%s", tail(base.Log(), 4000))
		}
		base.Close()
	})
	if database, err = base.Database(t.Context()); err != nil {
		t.Fatal(err)
	}
	return base, database
}

// awaitRecovery waits until every store of a load runs again after the database's return.
func (f *fleet) awaitRecovery(ctx context.Context, hit *fault, back time.Time, l *load) {
	f.t.Helper()
	all := map[string]bool{}
	for i := range l.stores {
		all[storeName(i)] = true
	}
	f.awaitStores(ctx, hit, back, all, func(Arrival) bool { return true })
	hit.endAfter(settleTime)
}

// startPostgres starts PostgreSQL again and returns the time when it accepts connections.
func (f *fleet) startPostgres(ctx context.Context, base *pgtest.Cluster) time.Time {
	f.t.Helper()
	if err := base.Up(ctx); err != nil {
		f.t.Fatal(err)
	}
	return time.Now()
}

// TestPostgresKilled kills PostgreSQL under load and starts it again.
func TestPostgresKilled(t *testing.T) {
	r := newRow("`kill -9` of PostgreSQL, restarted within 1 s", resumeLimit)
	r.repeat(t, times(2), func(t *testing.T, times int) {
		ctx := t.Context()
		base, database := newPostgres(t, pgtest.Options{})
		f := newFleet(t, r, newLedger(t, moody), database, 3)
		f.up()
		f.withLoad(ctx, 6, func(l *load) {
			for range times {
				awaitArrivals(ctx, t, f.ledger.After(150))
				hit := f.strike("", databaseKilled)
				if err := base.Kill(); err != nil {
					t.Fatal(err)
				}
				outage(ctx, rand.N(time.Second))
				f.awaitRecovery(ctx, hit, f.startPostgres(ctx, base), l)
			}
		})
	})
}

// outage waits for the length of an outage.
func outage(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// TestPostgresDown stops PostgreSQL for some seconds. Creates get 503, nothing is sent that
// couldn't be recorded, and afterwards everything works.
func TestPostgresDown(t *testing.T) {
	r := newRow("PostgreSQL shut down, restarted after 3 s", resumeLimit)
	t.Parallel()
	r.repeat(t, times(1), func(t *testing.T, times int) {
		ctx := t.Context()
		base, database := newPostgres(t, pgtest.Options{})
		f := newFleet(t, r, newLedger(t, steady), database, 3)
		f.up()
		var silent []time.Duration
		f.withLoad(ctx, 6, func(l *load) {
			for range times {
				awaitArrivals(ctx, t, f.ledger.After(150))
				hit := f.strike("", databaseDown)
				if err := base.Down(); err != nil {
					t.Fatal(err)
				}
				outage(ctx, time.Second) // requests in flight end
				before := f.ledger.Count()
				for _, n := range f.nodes {
					n.awaitReadyStatus(ctx, t, http.StatusServiceUnavailable)
					f.awaitRefusedCreate(ctx, n)
				}
				outage(ctx, 2*time.Second)
				if sent := f.ledger.Since(before); len(sent) > 0 {
					t.Errorf("%v after the database had stopped, %d requests were sent, such as %+v", sent[0].At.Sub(hit.at), len(sent), sent[0])
				}
				arrivals := f.ledger.Arrivals()
				silent = append(silent, arrivals[len(arrivals)-1].At.Sub(hit.at))
				f.awaitRecovery(ctx, hit, f.startPostgres(ctx, base), l)
				for _, n := range f.nodes {
					n.awaitReadyStatus(ctx, t, http.StatusOK)
				}
			}
		})
		t.Logf("without a database, the nodes sent their last request after %v (median, maximum)", spread(silent))
	})
}

// awaitRefusedCreate waits until a node refuses a create because it can't store the batch, and checks
// the answer.
func (f *fleet) awaitRefusedCreate(ctx context.Context, n *node) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for i := 0; ; i++ {
		one := []request{{Method: "PUT", Path: fmt.Sprintf("items/%d/0-of-1", time.Now().UnixNano())}}
		_, err := caller(n.base).tryCreate(ctx, "other", nil, one)
		r, refused := errors.AsType[*refusal](err)
		switch {
		case err == nil && pause(ctx): // there was room left
		case !refused || r.code != http.StatusServiceUnavailable || r.after == "":
			f.t.Fatalf("node %s, without its database, answered create %d with %v, want 503 and Retry-After", n.name, i, err)
		default:
			return
		}
	}
}

// awaitReadyStatus waits until /readyz answers with the wanted status.
func (s *service) awaitReadyStatus(ctx context.Context, t *testing.T, want int) {
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

// TestPostgresFull fills PostgreSQL's disk under load, then frees it. Creates get 503 in the
// meantime. If PostgreSQL stops because the disk is full, it is started again.
func TestPostgresFull(t *testing.T) {
	r := newRow("PostgreSQL's disk full until all nodes refuse creates", resumeLimit)
	r.repeat(t, times(1), func(t *testing.T, times int) {
		ctx := t.Context()
		disk := smallDisk(t)
		if disk == "" {
			return
		}
		base, database := newPostgres(t, pgtest.Options{
			Dir:      filepath.Join(disk, "postgres"),
			Settings: map[string]string{"max_wal_size": "48MB", "min_wal_size": "32MB"},
		})
		f := newFleet(t, r, newLedger(t, steady), database, 3)
		f.up()
		ended := 0
		f.withLoad(ctx, 6, func(l *load) {
			for range times {
				awaitArrivals(ctx, t, f.ledger.After(150))
				hit := f.strike("", databaseFull)
				ballast := filepath.Join(disk, "ballast")
				fill(t, ballast)
				for _, n := range f.nodes {
					f.awaitRefusedCreate(ctx, n)
				}
				if err := os.Remove(ballast); err != nil {
					t.Fatal(err)
				}
				back := time.Now()
				if base.Pid() == 0 {
					ended++
					back = f.startPostgres(ctx, base)
				}
				f.awaitRecovery(ctx, hit, back, l)
			}
		})
		t.Logf("the full disk stopped PostgreSQL %d of %d times", ended, times)
	})
}

// smallDisk returns a folder on a small file system, or "" if the user may not mount one.
func smallDisk(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sheaf-disk-") // only root can enter t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=160m,mode=755", "sheaf-test", dir).CombinedOutput(); err != nil {
		os.Remove(dir)
		t.Logf("NOT TESTED: a full disk, because only root can mount a small one: %v: %s", err, out)
		return ""
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
		os.Remove(dir)
	})
	if err := os.Mkdir(filepath.Join(dir, "postgres"), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// fill fills the free space of a disk with a file.
func fill(t *testing.T, file string) {
	t.Helper()
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size > 0; size /= 2 {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, size))
		}
	}
}
