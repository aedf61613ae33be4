package integration

import (
	"context"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"
)

// TestKill9UnderLoad repeatedly kills the service after a number of requests have reached the
// upstream, and restarts it with the same database.
func TestKill9UnderLoad(t *testing.T) {
	onEach(t, func(t *testing.T, database string) {
		n := 8
		if isPostgres(database) {
			n = 3 // after each kill, the next node waits until the dead one's session has expired
		}
		kill9UnderLoad(t, database, timesKilled(n))
	})
}

func kill9UnderLoad(t *testing.T, database string, kills int) {
	parallel(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Minute)
	defer cancel()
	ledger := newLedger(t, moody)
	s := start(t, ledger.URL+"/api/{storeId}", database)
	l := startLoad(ctx, caller(s.base), 8)

	// A kill after few arrivals hits the recovery; a kill after many hits normal work.
	points := []int{250, 100, 1, 180, 20, 300, 3}
	var ready, working []time.Duration
	for i := range kills {
		awaitArrivals(ctx, t, ledger.After(points[i%len(points)]))
		s.kill9(t)
		first := ledger.After(1)
		s = s.restart(t)
		ready = append(ready, time.Since(s.started))
		working = append(working, awaitArrivals(ctx, t, first).Sub(s.started))
	}
	l.finish(ctx, t)
	a := auditLoad(ctx, t, l, ledger)
	t.Logf("%d kills; from exec to ready: %v; from exec to the next request at the upstream: %v", kills, spread(ready), spread(working))
	if *faults > 0 && (a.inDoubt == 0 || a.repeated == 0) {
		t.Errorf("no kill hit a request in flight: in doubt %d, repeated %d", a.inDoubt, a.repeated)
	}
}

// TestKill9WhileCreating kills the service while it returns tickets. Every returned ticket is
// valid, and repeating a create that got no answer doesn't create a second batch.
func TestKill9WhileCreating(t *testing.T) { onEach(t, kill9WhileCreating) }

func kill9WhileCreating(t *testing.T, database string) {
	parallel(t)
	ctx := t.Context()
	const rounds, creates = 10, 16
	ledger := newLedger(t, steady)
	s := start(t, ledger.URL, database)
	c := caller(s.base)
	answered := 0
	var all []string
	for round := range rounds {
		keys, tickets := createAndKill(ctx, t, s, creates, 1+round)
		s = s.restart(t)
		for i, ticket := range tickets {
			again, err := c.create(ctx, "1", keys[i], onePUT)
			if err != nil || ticket != "" && ticket != again {
				t.Errorf("the create that returned %q now returns %q, %v", ticket, again, err)
			}
			if ticket != "" {
				answered++
			}
			all = append(all, again)
		}
	}
	for _, ticket := range all {
		if _, err := c.awaitEnd(ctx, "1", ticket); err != nil {
			t.Error(err)
		}
	}
	found, err := c.tickets(ctx, "1")
	slices.Sort(all)
	slices.Sort(found)
	if err != nil || !slices.Equal(found, all) {
		t.Errorf("%d creates left %d batches, %v", len(all), len(found), err)
	}
	t.Logf("%d kills, %d creates, %d of them answered before the kill; batches: %d", rounds, len(all), answered, len(found))
}

var onePUT = []request{{Method: "PUT", Path: "x"}}

// createAndKill sends n creates at once and kills the service after some answers. It returns each
// create's deduplication key, and its ticket if it was answered.
func createAndKill(ctx context.Context, t *testing.T, s *service, n, answers int) (keys []url.Values, tickets []string) {
	t.Helper()
	keys, tickets = make([]url.Values, n), make([]string, n)
	answered := make(chan struct{}, n)
	var creators sync.WaitGroup
	for i := range n {
		keys[i] = url.Values{"deduplicationKey": {newKey()}}
		creators.Go(func() {
			tickets[i], _ = caller(s.base).tryCreate(ctx, "1", keys[i], onePUT)
			answered <- struct{}{}
		})
	}
	for range answers {
		<-answered
	}
	s.kill9(t)
	creators.Wait()
	return keys, tickets
}

// TestUpstreamDies stops the upstream under load. POST and PATCH in flight are reported as in doubt.
func TestUpstreamDies(t *testing.T) { onEach(t, upstreamDies) }

func upstreamDies(t *testing.T, database string) {
	parallel(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	ledger := newLedger(t, steady)
	s := start(t, ledger.URL+"/api/{storeId}", database)
	l := startLoad(ctx, caller(s.base), 4)
	for range 10 {
		awaitArrivals(ctx, t, ledger.After(60))
		ledger.Down()
		for range 3 { // longer than a request takes, but shorter than its retries last
			pause(ctx)
		}
		if err := ledger.Up(); err != nil {
			t.Fatal(err)
		}
	}
	l.finish(ctx, t)
	a := auditLoad(ctx, t, l, ledger)
	if a.inDoubt == 0 {
		t.Errorf("the outages didn't hit POST and PATCH in flight: the test proves nothing")
	}
}

// TestThrottleSurvivesKill9: a wait that Retry-After asked for still applies after a crash.
func TestThrottleSurvivesKill9(t *testing.T) { onEach(t, throttleSurvivesKill9) }

func throttleSurvivesKill9(t *testing.T, database string) {
	parallel(t)
	ctx := t.Context()
	const wait = 2 * time.Second
	ledger := newLedger(t, func(a Arrival) (r Reply) {
		if a.Method == "POST" && a.Nth == 1 {
			r.Status, r.RetryAfter = 429, "2"
		}
		return r
	})
	s := start(t, ledger.URL, database)
	c := caller(s.base)
	both := ledger.After(2)
	ticket, err := c.create(ctx, "1", map[string][]string{"allowParallelMode": {"true"}},
		[]request{{Method: "POST", Path: "a"}, {Method: "GET", Path: "b"}})
	if err != nil {
		t.Fatal(err)
	}
	throttled := awaitArrivals(ctx, t, both)
	// The GET's result and the POST's wait are stored in one transaction. So once the result is
	// visible, the wait is stored too.
	for done := 0; done == 0; {
		got, err := c.status(ctx, "1", ticket)
		if err != nil || !pause(ctx) {
			t.Fatal(err, ctx.Err())
		}
		done = got.CompletedRequests
	}
	s.kill9(t)
	again := ledger.After(1)
	s.restart(t)
	if gap := awaitArrivals(ctx, t, again).Sub(throttled); gap < wait-200*time.Millisecond {
		t.Errorf("the POST arrived again after %v; the upstream had asked for %v", gap, wait)
	}
	if got, err := c.awaitEnd(ctx, "1", ticket); err != nil || got.CompletedRequests != 2 || got.Responses[0].Status != "COMPLETED" {
		t.Errorf("the batch ended as %+v, %v", got, err)
	}
}

// awaitArrivals waits for a channel that Ledger.After returned, and returns the time from it.
func awaitArrivals(ctx context.Context, t *testing.T, point <-chan time.Time) (moment time.Time) {
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
