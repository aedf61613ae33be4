package engine

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/outbound"
)

// ruleUpstream is an upstream that answers by a rule. It records when its last answer was due.
type ruleUpstream struct {
	reachable
	rule func(c *outbound.Call, n, inFlight int) (outbound.Answer, time.Duration)

	mu       sync.Mutex
	n        int // calls so far
	inFlight int
	refused  int
	last     time.Time
}

func (u *ruleUpstream) Do(_ context.Context, c *outbound.Call) outbound.Answer {
	u.mu.Lock()
	u.n++
	u.inFlight++
	a, takes := u.rule(c, u.n, u.inFlight)
	u.mu.Unlock()
	<-time.After(takes)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.inFlight--
	if u.last = time.Now(); a.Code != 200 {
		u.refused++
	}
	return a
}

// run runs a batch of n requests, and returns how long the upstream was busy with it.
func (u *ruleUpstream) run(t *testing.T, w *world, o batch.Options, n int) time.Duration {
	t.Helper()
	methods := make([]string, n)
	for i := range methods {
		methods[i] = []string{"GET", "POST"}[i%2]
	}
	began := time.Now()
	b := w.create("s", o, methods...)
	for strings.Contains(w.outcome(b), "E") { // QUEUED and IN_PROGRESS
		w.pass(time.Second)
		synctest.Wait()
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.last.Sub(began)
}

// once returns a rule that answers the first call with a, and all others with 200.
func once(a outbound.Answer, at int, latency time.Duration) func(*outbound.Call, int, int) (outbound.Answer, time.Duration) {
	return func(_ *outbound.Call, n, _ int) (outbound.Answer, time.Duration) {
		if n == at {
			return a, latency
		}
		return answered(200), latency
	}
}

// withUpstream runs a scenario with one upstream for all stores.
func withUpstream(t *testing.T, name string, u *ruleUpstream, f func(t *testing.T, w *world)) {
	t.Helper()
	scenario(t, name, func(t *testing.T, w *world) {
		w.shutdown()
		w.options.Upstream = u
		w.policy.RetryInterval = 50 * time.Millisecond
		w.sharing()
		w.start()
		f(t, w)
	})
}

// TestGovernorIdeal checks that a parallel batch takes at most 1.3 times as long as the ideal, which has a
// hundred requests in flight all the time, whatever the upstream answered before. The upstream has no
// limit.
func TestGovernorIdeal(t *testing.T) {
	const quick = 150 * time.Millisecond
	dropped := outbound.Answer{Outcome: outbound.Doubt, Code: 502, Line: "the connection broke"}
	for _, tt := range []struct {
		name    string
		rule    func(*outbound.Call, int, int) (outbound.Answer, time.Duration)
		latency time.Duration
		before  int // requests in order, one at a time
	}{
		{"nothing", once(answered(200), 0, quick), quick, 0},
		{"one 503", once(answered(503), 1, quick), quick, 1},
		{"one 503 in a calm time", once(answered(503), 60, quick), quick, 60},
		{"one dropped connection", once(dropped, 1, quick), quick, 1},
		{"one 429", once(answered(429), 1, quick), quick, 1},
		{"one 429 with Retry-After: 0", once(answered(429, "Retry-After", "0"), 1, quick), quick, 1},
		{"one 429 in a calm time", once(answered(429), 60, quick), quick, 60},
		{"one 503 before requests of a second", once(answered(503), 1, time.Second), time.Second, 1},
		{"one 429 in a calm time with requests of 1 ms", once(answered(429), 60, time.Millisecond), time.Millisecond, 60},
	} {
		for _, n := range []int{200, 500} {
			u := &ruleUpstream{rule: tt.rule}
			withUpstream(t, fmt.Sprint(tt.name, ", ", n), u, func(t *testing.T, w *world) {
				for range tt.before { // a client that sends one request a second
					u.run(t, w, goOn, 1)
				}
				ideal := time.Duration(n/100) * tt.latency
				if took := u.run(t, w, parallel, n); took > ideal*13/10 {
					t.Errorf("%d requests took %v; ideal is %v", n, took, ideal)
				}
			})
		}
	}
}

// TestGovernorLatency checks that latency alone never lowers the number of requests in flight.
func TestGovernorLatency(t *testing.T) {
	mixed := func(c *outbound.Call, _, _ int) (outbound.Answer, time.Duration) {
		if c.Method == "GET" {
			return answered(200), time.Millisecond
		}
		return answered(200), 300 * time.Millisecond
	}
	stepped := func(_ *outbound.Call, n, _ int) (outbound.Answer, time.Duration) {
		if n <= 1500 {
			return answered(200), 20 * time.Millisecond
		}
		return answered(200), 300 * time.Millisecond
	}
	u := &ruleUpstream{rule: mixed}
	withUpstream(t, "1 and 300 ms", u, func(t *testing.T, w *world) {
		for range 3 {
			if took, ideal := u.run(t, w, parallel, 500), 750*time.Millisecond; took > ideal*13/10 {
				t.Errorf("500 requests took %v; ideal is %v", took, ideal)
			}
		}
	})
	u = &ruleUpstream{rule: stepped}
	withUpstream(t, "from 20 to 300 ms", u, func(t *testing.T, w *world) {
		for range 3 {
			u.run(t, w, parallel, 500)
		}
		for range 3 {
			if took, ideal := u.run(t, w, parallel, 500), 1500*time.Millisecond; took > ideal*13/10 {
				t.Errorf("500 requests took %v; ideal is %v", took, ideal)
			}
		}
	})
}

// TestGovernorIndependent checks that failures that don't depend on the number of requests in flight cost
// only their retries. The control run has 500 instead of 503, because the governor ignores 500.
func TestGovernorIndependent(t *testing.T) {
	for _, tt := range []struct {
		name  string
		fails func(r *rand.Rand, n int) bool
	}{
		{"1 of 100", func(r *rand.Rand, _ int) bool { return r.IntN(100) == 0 }},
		{"5 of 100", func(r *rand.Rand, _ int) bool { return r.IntN(100) < 5 }},
		{"20 of 100", func(r *rand.Rand, _ int) bool { return r.IntN(100) < 20 }},
		{"one in the middle", func(_ *rand.Rand, n int) bool { return n == 250 }},
		{"one at the end of a batch", func(_ *rand.Rand, n int) bool { return n == 490 }},
	} {
		for _, latency := range []time.Duration{150 * time.Millisecond, time.Second} {
			var took [2]time.Duration
			for i, code := range []int{500, 503} {
				random := rand.New(rand.NewPCG(1, 2))
				u := &ruleUpstream{rule: func(_ *outbound.Call, n, _ int) (outbound.Answer, time.Duration) {
					d := latency/2 + time.Duration(random.Int64N(int64(latency)))
					if tt.fails(random, n) {
						return answered(code), d
					}
					return answered(200), d
				}}
				withUpstream(t, fmt.Sprint(tt.name, ", ", latency, ", ", code), u, func(t *testing.T, w *world) {
					for range 4 {
						took[i] += u.run(t, w, parallel, 500)
					}
				})
			}
			t.Logf("%s, %v: %v, control %v", tt.name, latency, took[1], took[0])
			if took[1] > took[0]*13/10 {
				t.Errorf("%s, %v: 2,000 requests took %v; the control took %v", tt.name, latency, took[1], took[0])
			}
		}
	}
}
