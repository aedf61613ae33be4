package integration

import (
	"context"
	"flag"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

var kills = flag.Int("kills", 20, "how often TestKill9UnderLoad kills the service")

// TestKill9UnderLoad kills the service again and again, each time when a number of
// requests has reached the upstream, and starts it again on what the kill left.
func TestKill9UnderLoad(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	ledger := NewLedger(moody)
	defer ledger.Close()
	s := start(t, ledger.URL+"/api/{storeId}", filepath.Join(t.TempDir(), "sheaf.db"))
	l := startLoad(ctx, client{s.base, "caller"}, 8)

	// A few arrivals: killed while it recovers. Many: killed in the middle of its work.
	points := []int{250, 100, 1, 180, 20, 300, 3}
	var ready, working []time.Duration
	for i := range *kills {
		arrived(ctx, t, ledger.After(points[i%len(points)]))
		s.kill9(t)
		first := ledger.After(1)
		s = s.restart(t)
		ready = append(ready, time.Since(s.started))
		working = append(working, arrived(ctx, t, first).Sub(s.started))
	}
	l.finish(ctx, t)
	a := auditLoad(ctx, t, l, ledger)
	t.Logf("%d kills; from exec to ready: %v; from exec to the next request at the upstream: %v", *kills, spread(ready), spread(working))
	if *kills >= 20 && (a.inDoubt == 0 || a.repeated == 0) {
		t.Errorf("no kill hit a request under way: the test is too gentle to prove anything")
	}
}

// arrived waits for a point in the ledger and returns its moment.
func arrived(ctx context.Context, t *testing.T, point <-chan time.Time) (moment time.Time) {
	t.Helper()
	select {
	case moment = <-point:
	case <-time.After(patience):
		t.Fatal("no more requests reach the upstream")
	case <-ctx.Done():
		t.Fatal(ctx.Err())
	}
	return moment
}

// spread returns the median and the maximum.
func spread(d []time.Duration) [2]time.Duration {
	if len(d) == 0 {
		return [2]time.Duration{}
	}
	slices.Sort(d)
	return [2]time.Duration{d[len(d)/2].Round(time.Millisecond), d[len(d)-1].Round(time.Millisecond)}
}
