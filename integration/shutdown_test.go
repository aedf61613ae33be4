package integration

import (
	"context"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestSIGTERMUnderLoad stops the service in the middle of its work. Requests in flight end and are
// recorded, so that nothing is sent twice or left in doubt.
func TestSIGTERMUnderLoad(t *testing.T) { onEach(t, sigtermUnderLoad) }

func sigtermUnderLoad(t *testing.T, database string) {
	parallel(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	ledger := newLedger(t, steady)
	s := start(t, ledger.URL+"/api/{storeId}", database)
	l := startLoad(ctx, caller(s.base), 4)

	var stop []time.Duration
	for range 5 {
		awaitArrivals(ctx, t, ledger.After(100))
		began := time.Now()
		s.term(t)
		stop = append(stop, time.Since(began))
		s = s.restart(t)
	}
	l.finish(ctx, t)
	a := auditLoad(ctx, t, l, ledger)
	t.Logf("%d shutdowns; from SIGTERM to exit 0 (median, maximum): %v", len(stop), spread(stop))
	if a.inDoubt+a.interrupted+a.repeated+a.unreported > 0 {
		t.Errorf("a graceful shutdown left an outcome unknown or sent a request again: %+v", *a)
	}
}

// startHanging starts a service whose upstream never answers below /hold, and creates a batch of a
// POST there and another request. It returns once the POST has arrived.
func startHanging(ctx context.Context, t *testing.T, database, limit string) (s *service, ledger *Ledger, ticket string) {
	t.Helper()
	ledger = newHoldingLedger(t)
	s = start(t, ledger.URL, database, "--shutdown-timeout", limit, "--request-timeout", "10m")
	point := ledger.After(1)
	ticket, err := caller(s.base).create(ctx, "1", nil, []request{
		{Method: "POST", Path: "hold", Body: []byte(`{"n":1}`)},
		{Method: "GET", Path: "after"},
	})
	if err != nil {
		t.Fatal(err)
	}
	awaitArrivals(ctx, t, point)
	return s, ledger, ticket
}

// expectDoubt checks that the POST of startHanging is reported as in doubt after a restart.
func expectDoubt(ctx context.Context, t *testing.T, s *service, ledger *Ledger, ticket string) {
	t.Helper()
	got, err := caller(s.base).awaitEnd(ctx, "1", ticket)
	if err != nil {
		t.Fatal(err)
	}
	if r := got.Responses[0]; r.Status != "FAILED" || r.Code != 502 || !strings.Contains(r.Line, "not known") {
		t.Errorf("the POST is %+v, want FAILED, 502, not known", r)
	}
	if r := got.Responses[1]; r.Status != "NOT_EXECUTED" {
		t.Errorf("the request after it is %+v, want NOT_EXECUTED", r)
	}
	if n := len(ledger.Arrivals()); n != 1 {
		t.Errorf("%d requests arrived, want the POST alone: %+v", n, ledger.Arrivals())
	}
}

// TestSIGTERMLimit: if the upstream doesn't answer, a shutdown ends at its timeout.
func TestSIGTERMLimit(t *testing.T) { onEach(t, sigtermLimit) }

func sigtermLimit(t *testing.T, database string) {
	parallel(t)
	ctx := t.Context()
	s, ledger, ticket := startHanging(ctx, t, database, "700ms")
	began := time.Now()
	s.term(t)
	if took := time.Since(began); took < 700*time.Millisecond {
		t.Errorf("the shutdown took %v, the limit was 700ms", took)
	}
	expectDoubt(ctx, t, s.restart(t), ledger, ticket)
}

// TestSecondSIGTERM: a second signal ends the process without waiting, like a crash.
func TestSecondSIGTERM(t *testing.T) { onEach(t, secondSIGTERM) }

func secondSIGTERM(t *testing.T, database string) {
	parallel(t)
	ctx := t.Context()
	s, ledger, ticket := startHanging(ctx, t, database, "10m")
	s.signal(t, syscall.SIGTERM)
	s.await(t, `"msg":"shutting down"`)
	s.signal(t, syscall.SIGTERM)
	if state := s.awaitExit(t); state.Success() {
		t.Errorf("after a second SIGTERM: %v, want a failure", state)
	}
	expectDoubt(ctx, t, s.restart(t), ledger, ticket)
}

// TestSIGTERMIdle: without work, the service doesn't wait for its shutdown timeout of ten minutes,
// even though a client keeps its connection and a batch waits for a retry.
func TestSIGTERMIdle(t *testing.T) { onEach(t, sigtermIdle) }

func sigtermIdle(t *testing.T, database string) {
	parallel(t)
	ctx := t.Context()
	ledger := newLedger(t, func(a Arrival) (r Reply) {
		if a.Nth == 1 {
			r.Status = 503
		}
		return r
	})
	s := start(t, ledger.URL, database, "--shutdown-timeout", "10m", "--retry-interval", "2s")
	c := caller(s.base)
	point := ledger.After(1)
	ticket, err := c.create(ctx, "1", map[string][]string{"stopOnFirstFailure": {"false"}}, []request{{Method: "PUT", Path: "x"}})
	if err != nil {
		t.Fatal(err)
	}
	awaitArrivals(ctx, t, point)
	s.term(t)
	got, err := caller(s.restart(t).base).awaitEnd(ctx, "1", ticket)
	if err != nil {
		t.Fatal(err)
	}
	if r := got.Responses[0]; r.Status != "COMPLETED" || len(ledger.Arrivals()) != 2 {
		t.Errorf("the retry is %+v after %d arrivals", r, len(ledger.Arrivals()))
	}
}
