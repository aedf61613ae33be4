package engine

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sheafapi/sheaf/internal/governor"
	"github.com/sheafapi/sheaf/internal/outbound"
	"github.com/sheafapi/sheaf/internal/storage"
	"github.com/sheafapi/sheaf/internal/storage/storagetest"
)

// limiter reports whether an upstream accepts a request, and otherwise when it accepts the next one.
type limiter func(now time.Time) (ok bool, after time.Duration)

// window accepts n requests in each second. The seconds begin at offset.
func window(n int, offset time.Duration) limiter {
	var begin time.Time
	var used int
	return func(now time.Time) (bool, time.Duration) {
		if b := now.Add(-offset).Truncate(time.Second).Add(offset); !b.Equal(begin) {
			begin, used = b, 0
		}
		if used++; used > n {
			return false, begin.Add(time.Second).Sub(now)
		}
		return true, 0
	}
}

// bucket accepts ten requests a second, evenly, and up to ten at once after a pause.
func bucket() limiter {
	const n = 10
	tokens, at := float64(n), time.Time{}
	return func(now time.Time) (bool, time.Duration) {
		if !at.IsZero() {
			tokens = min(n, tokens+n*now.Sub(at).Seconds())
		}
		if at = now; tokens >= 1 {
			tokens--
			return true, 0
		}
		return false, time.Duration((1 - tokens) / n * float64(time.Second))
	}
}

// sliding accepts n requests in any period of one second.
func sliding(n int) limiter {
	var log []time.Time
	return func(now time.Time) (bool, time.Duration) {
		for len(log) > 0 && now.Sub(log[0]) >= time.Second {
			log = log[1:]
		}
		if len(log) == n {
			return false, time.Second - now.Sub(log[0])
		}
		log = append(log, now)
		return true, 0
	}
}

// Ways in which an upstream says when to retry.
func inSeconds(d time.Duration) string { return strconv.Itoa(int((d + time.Second - 1) / time.Second)) }
func oneSecond(time.Duration) string   { return "1" }
func silent(time.Duration) string      { return "" }
func atOnce(time.Duration) string      { return "0" }

// limitedUpstream is an upstream with a limit per token.
type limitedUpstream struct {
	reachable
	limit   func() limiter
	after   func(time.Duration) string
	latency time.Duration

	mu      sync.Mutex
	tokens  map[string]limiter
	sent    []time.Time
	refused int
}

func (u *limitedUpstream) Do(_ context.Context, c *outbound.Call) outbound.Answer {
	u.mu.Lock()
	if u.tokens == nil {
		u.tokens = map[string]limiter{}
	}
	if u.tokens[c.Token] == nil {
		u.tokens[c.Token] = u.limit()
	}
	u.sent = append(u.sent, time.Now())
	ok, wait := u.tokens[c.Token](time.Now())
	if !ok {
		u.refused++
	}
	u.mu.Unlock()
	<-time.After(u.latency)
	if ok {
		return answered(200)
	}
	if after := u.after(wait); after != "" {
		return answered(429, "Retry-After", after)
	}
	return answered(429)
}

// sharing makes all stores use one upstream credential.
func (w *world) sharing() {
	w.options.Unseal = func(*storage.Claim) (string, error) { return "everybody's", nil }
}

// await waits until the batches have ended, and returns how long that took.
func (w *world) await(t *testing.T, batches ...*testBatch) time.Duration {
	t.Helper()
	began := time.Now()
	for _, b := range batches {
		for strings.Contains(w.outcome(b), "E") { // QUEUED and IN_PROGRESS
			w.pass(100 * time.Millisecond)
			synctest.Wait()
			if time.Since(began) > time.Hour {
				t.Fatal("the batches have not ended within an hour")
			}
		}
	}
	return time.Since(began)
}

// TestGovernorPace has three stores make 300 calls to an upstream that allows 10 a second.
func TestGovernorPace(t *testing.T) {
	const ideal, wasted = 30 * time.Second, 9 - 1
	const wastedAtOnce = 24 // refusals in the first second if the upstream always says "now"
	for _, tt := range []struct {
		name  string
		limit func() limiter
		after func(time.Duration) string
		rate  governor.Rate
	}{
		{"window", func() limiter { return window(10, 0) }, inSeconds, governor.Rate{}},
		{"window that began before", func() limiter { return window(10, 500*time.Millisecond) }, inSeconds, governor.Rate{}},
		{"window, one second", func() limiter { return window(10, 0) }, oneSecond, governor.Rate{}},
		{"window, without Retry-After", func() limiter { return window(10, 0) }, silent, governor.Rate{}},
		{"bucket", bucket, inSeconds, governor.Rate{}},
		{"bucket, without Retry-After", bucket, silent, governor.Rate{}},
		{"bucket, at once", bucket, atOnce, governor.Rate{}},
		{"sliding", func() limiter { return sliding(10) }, inSeconds, governor.Rate{}},
		{"sliding, without Retry-After", func() limiter { return sliding(10) }, silent, governor.Rate{}},
		{"rate, window", func() limiter { return window(10, 0) }, inSeconds, governor.Rate{N: 600, Per: time.Minute}},
		{"rate, bucket", bucket, inSeconds, governor.Rate{N: 10, Per: time.Second}},
		{"rate, sliding", func() limiter { return sliding(10) }, inSeconds, governor.Rate{N: 600, Per: time.Minute}},
	} {
		scenario(t, tt.name, func(t *testing.T, w *world) {
			w.shutdown()
			up := &limitedUpstream{limit: tt.limit, after: tt.after, latency: 20 * time.Millisecond}
			w.options.Upstream, w.rate = up, tt.rate
			w.sharing()
			w.start()
			var batches []*testBatch
			for i := range 3 {
				batches = append(batches, w.create(fmt.Sprint("s", i), stop, posts(100)...))
			}
			took := w.await(t, batches...)
			for _, b := range batches {
				expect(t, "outcome", w.outcome(b), strings.TrimSpace(strings.Repeat("200 ", 100)))
			}
			t.Logf("took %v, refused %d", took, up.refused)
			most := wasted
			if tt.name == "bucket, at once" {
				most = wastedAtOnce
			}
			if took > ideal*11/10 || up.refused > most {
				t.Errorf("took %v with %d refused; want at most 1.1 times %v and %d", took, up.refused, ideal, most)
			}
		})
	}
}

// times returns when the upstream received requests after the given time.
func (u *limitedUpstream) times(since time.Time) (out []time.Duration) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, t := range u.sent {
		out = append(out, t.Sub(since))
	}
	return out
}

// TestGovernorTurns checks that a batch with a hundred requests in parallel gets no more of the pace than
// a batch that runs in order.
func TestGovernorTurns(t *testing.T) {
	scenario(t, "wide and narrow", func(t *testing.T, w *world) {
		w.shutdown()
		up := &limitedUpstream{limit: func() limiter { return window(1000, 0) }, latency: 20 * time.Millisecond}
		w.options.Upstream, w.rate = up, governor.Rate{N: 10, Per: time.Second}
		w.sharing()
		w.start()
		wide := w.create("wide", parallel, posts(100)...)
		narrow := w.create("narrow", stop, posts(20)...)
		if took := w.await(t, narrow); took > 4500*time.Millisecond {
			t.Errorf("20 requests took %v, want about 4 s: every second slot of 100 ms", took)
		}
		if took := w.await(t, wide); took > 8500*time.Millisecond {
			t.Errorf("the rest took %v, want about 8 s", took)
		}
		for i, at := range up.times(w.batches[0].at) {
			if early := time.Duration(i)*100*time.Millisecond - at; early > 10*time.Millisecond {
				t.Fatalf("request %d was sent %v before its time", i, early)
			}
		}
	})
	scenario(t, "a slot that is no longer needed goes to the next queue", func(t *testing.T, w *world) {
		w.shutdown()
		up := &limitedUpstream{limit: func() limiter { return window(1000, 0) }}
		w.options.Upstream, w.rate = up, governor.Rate{N: 1, Per: 10 * time.Second}
		w.sharing()
		w.start()
		first := w.create("a", stop, posts(1)...)
		synctest.Wait()
		expect(t, "first", w.outcome(first), "200")
		second, third := w.create("b", stop, posts(1)...), w.create("c", stop, posts(1)...)
		w.pass(time.Second)
		w.stopBatch(second)
		w.pass(10 * time.Second)
		expect(t, "stopped", w.outcome(second), "-")
		w.pass(10 * time.Second)
		expect(t, "third", w.outcome(third), "200")
	})
}

// TestGovernorHold checks that a hold applies to all batches of a store with the credential.
func TestGovernorHold(t *testing.T) {
	scenario(t, "after a crash", func(t *testing.T, w *world) {
		w.shutdown()
		w.sharing()
		refuse := &limitedUpstream{limit: func() limiter { return window(0, 0) }, after: func(time.Duration) string { return "30" }}
		w.options.Upstream = refuse
		w.start()
		w.create("a", stop, posts(1)...)
		w.pass(time.Second)
		w.crash()
		accept := &limitedUpstream{limit: func() limiter { return window(1000, 0) }}
		w.options.Upstream = accept
		w.start()
		b := w.create("a", stop, posts(1)...)
		w.pass(28 * time.Second)
		expect(t, "before the time", w.outcome(b), "QUEUED -")
		w.pass(2 * time.Second)
		expect(t, "after", w.outcome(b), "200")
	})
	scenario(t, "not for another credential", func(t *testing.T, w *world) {
		w.up.script(0, 0, step{answered(429, "Retry-After", "200"), 0}, step{answered(200), 0})
		w.create("a", stop, posts(1)...)
		b := w.create("b", stop, posts(1)...)
		synctest.Wait()
		expect(t, "another store", w.outcome(b), "200")
	})
	scenario(t, "a 503 with Retry-After", func(t *testing.T, w *world) {
		w.up.script(0, 0, step{answered(503, "Retry-After", "200"), 0}, step{answered(200), 0})
		a := w.create("a", goOn, posts(2)...)
		w.pass(199 * time.Second)
		expect(t, "before the time", w.outcome(a), "QUEUED - -")
		w.pass(time.Second)
		synctest.Wait()
		expect(t, "after", w.outcome(a), "200 200")
	})
}

// TestGovernorRandom checks that the pace doesn't keep falling if the upstream's answers 429 don't depend
// on it.
func TestGovernorRandom(t *testing.T) {
	scenario(t, "one in a hundred", func(t *testing.T, w *world) {
		w.shutdown()
		n := 0
		every := func() limiter {
			return func(time.Time) (bool, time.Duration) { n++; return n%100 != 0, 0 }
		}
		up := &limitedUpstream{limit: every, after: atOnce, latency: 5 * time.Millisecond}
		w.options.Upstream = up
		w.sharing()
		w.start()
		var batches []*testBatch
		for i := range 4 {
			for range 20 {
				batches = append(batches, w.create(fmt.Sprint("s", i), stop, posts(500)...))
			}
		}
		took := w.await(t, batches...)
		t.Logf("40,000 requests with 400 refused took %v; 50 s without any", took)
		if took > 3*time.Minute {
			t.Errorf("40,000 requests took %v", took)
		}
	})
}

// TestGovernorQuiet checks that many stores that wait for one credential cause little work in storage, and
// take no place from a store with another credential.
func TestGovernorQuiet(t *testing.T) {
	scenario(t, "a hundred stores, ten requests a second", func(t *testing.T, w *world) {
		w.shutdown()
		up := &limitedUpstream{limit: func() limiter { return window(1000, 0) }}
		var calls atomic.Int64
		w.options.Upstream, w.rate, w.options.QueuesAtOnce = up, governor.Rate{N: 10, Per: time.Second}, 20
		w.options.Unseal = func(c *storage.Claim) (string, error) {
			if c.Store == "other" {
				return "its own", nil
			}
			return "everybody's", nil
		}
		w.start()
		w.node.SetFault(func(op string) storagetest.Fault {
			if slices.Contains([]string{"Claim", "Record", "Release", "Reserve"}, op) {
				calls.Add(1)
			}
			return storagetest.None
		})
		var batches []*testBatch
		for i := range 100 {
			batches = append(batches, w.create(fmt.Sprint("s", i), stop, posts(4)...))
		}
		w.pass(5 * time.Second)
		other := w.create("other", stop, posts(1)...)
		w.pass(2 * time.Second)
		expect(t, "a store with another credential", w.outcome(other), "200")
		took := w.await(t, batches...)
		if took > 35*time.Second {
			t.Errorf("400 requests took 7 s and %v, want 40 s in all", took)
		}
		if n := calls.Load(); n > 4*401 {
			t.Errorf("%d storage calls for 401 requests", n)
		} else {
			t.Logf("%d calls of storage for 401 requests", n)
		}
	})
}

// crowdedUpstream is an upstream that answers 503 when more than room requests are in flight.
type crowdedUpstream struct {
	reachable
	room           int
	mu             sync.Mutex
	under, refused int
	most           int // the most requests in flight since reset
}

func (u *crowdedUpstream) Do(context.Context, *outbound.Call) outbound.Answer {
	u.mu.Lock()
	u.under++
	u.most = max(u.most, u.under)
	ok := u.under <= u.room
	if !ok {
		u.refused++
	}
	u.mu.Unlock()
	if ok {
		<-time.After(100 * time.Millisecond)
	} else {
		<-time.After(time.Millisecond)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.under--; !ok {
		return answered(503)
	}
	return answered(200)
}

// TestGovernorPlaces checks that batches find the limit of an upstream that accepts ten requests at once,
// and continue with about as many.
func TestGovernorPlaces(t *testing.T) {
	scenario(t, "503", func(t *testing.T, w *world) {
		w.shutdown()
		up := &crowdedUpstream{room: 10}
		w.options.Upstream = up
		w.policy.RetryLimit, w.policy.RetryInterval = 20, 100*time.Millisecond
		w.sharing()
		w.start()
		var batches []*testBatch
		for i := range 4 {
			batches = append(batches, w.create(fmt.Sprint("s", i), parallel, posts(250)...))
		}
		w.pass(5 * time.Second)
		up.mu.Lock()
		refused := up.refused
		up.most, up.refused = 0, 0
		up.mu.Unlock()
		took := 5*time.Second + w.await(t, batches...)
		for _, b := range batches {
			expect(t, "outcome", w.outcome(b), strings.TrimSpace(strings.Repeat("200 ", 250)))
		}
		t.Logf("took %v; refused %d in the first 5 s, %d after that, with at most %d at once", took, refused, up.refused, up.most)
		if up.most > 15 || up.refused > 50 {
			t.Errorf("%d at once and %d refused after the first seconds", up.most, up.refused)
		}
		if took > 20*time.Second {
			t.Errorf("took %v; the upstream could do it in 10 s", took)
		}
	})
	scenario(t, "a batch that waits for a place notices a stop", func(t *testing.T, w *world) {
		w.shutdown()
		up := &limitedUpstream{limit: func() limiter { return window(1, 0) }, after: atOnce, latency: time.Minute}
		w.options.Upstream = up
		w.sharing()
		w.start()
		for i := range 12 {
			w.create(fmt.Sprint("a", i), stop, posts(1)...)
		}
		w.pass(90 * time.Second) // eleven were refused; now eight are sent again, and three wait
		var line []*testBatch
		for i := range 4 {
			line = append(line, w.create(fmt.Sprint("c", i), stop, posts(2)...))
		}
		w.pass(time.Second)
		for _, b := range line {
			w.stopBatch(b)
		}
		synctest.Wait()
		ended := 0
		for _, b := range line {
			if w.outcome(b) == "- -" {
				ended++
			}
		}
		if ended < 4 {
			t.Errorf("%d of 4 batches have ended", ended)
		}
		w.pass(15 * time.Minute)
	})
}
