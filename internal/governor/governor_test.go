package governor

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
	"pgregory.net/rapid"
)

// noOutages and noCredentials are never called, because these tests set no limits for them.
type (
	noOutages     Outages
	noCredentials Credentials
)

// schedule is the storage that nodes share.
type schedule struct {
	mu     sync.Mutex
	next   time.Time
	calls  int
	broken bool
	slow   time.Duration
	holds  []storage.Hold
	noOutages
	noCredentials
}

var errBroken = errors.New("storage is broken")

func (s *schedule) Reserve(_ context.Context, _ batch.Owner, span time.Duration) (time.Time, error) {
	if s.slow > 0 {
		<-time.After(s.slow)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	if s.broken {
		return time.Time{}, errBroken
	}
	first := time.Now()
	if s.next.After(first) {
		first = s.next
	}
	s.next = first.Add(span)
	return first, nil
}

func (s *schedule) Hold(_ context.Context, h storage.Hold) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken {
		return errBroken
	}
	s.holds = append(s.holds, h)
	return nil
}

func (s *schedule) Holds(context.Context) ([]storage.Hold, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken {
		return nil, errBroken
	}
	return slices.Clone(s.holds), nil
}

var key = batch.OwnerOf("the credential")

func newGovernor(s Shared, r Rate) *Governor {
	return New(s, r, nil, 1000, 0, 0, slog.New(slog.DiscardHandler))
}

// TestPace checks that two nodes together never exceed the rate in any span of time, whatever their queues
// do. It allows for requests that use their slots late or early.
func TestPace(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		rate := rapid.SampledFrom([]Rate{{10, time.Second}, {7, time.Second}, {1000, time.Second}, {600, time.Minute}, {1, 10 * time.Second}}).Draw(rt, "rate")
		type step struct {
			node, queue int
			pass        time.Duration
			undo, away  bool
		}
		steps := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) step {
			return step{
				rapid.IntRange(0, 1).Draw(t, "node"), rapid.IntRange(1, 5).Draw(t, "queue"),
				rapid.SampledFrom([]time.Duration{0, 0, time.Millisecond, 60 * time.Millisecond, 150 * time.Millisecond, time.Second, time.Minute}).Draw(t, "pass"),
				rapid.IntRange(0, 5).Draw(t, "undo") == 0, rapid.IntRange(0, 5).Draw(t, "away") == 0,
			}
		}), 1, 60).Draw(rt, "steps")
		slow := rapid.SampledFrom([]time.Duration{0, 0, 10 * time.Millisecond, 300 * time.Millisecond}).Draw(rt, "slow")
		synctest.Test(t, func(t *testing.T) {
			shared := &schedule{slow: slow}
			nodes := []*Credential{newGovernor(shared, rate).Attach(key), newGovernor(shared, rate).Attach(key)}
			due := map[storage.QueueID]time.Time{} // the slot that each queue was last given
			type request struct {
				at   time.Time
				node int
				late bool // sent after its slot, so it must conform to the pace of its node's requests
			}
			var sent []request
			send := func(node int, q storage.QueueID) {
				slot, ok := due[q]
				sent = append(sent, request{time.Now(), node, ok && time.Since(slot) > late})
				delete(due, q)
				nodes[node].Done(t.Context(), Answer{Kind: Fine, Asked: time.Now(), Began: time.Now(), Ended: time.Now()})
			}
			for _, s := range steps {
				c, q := nodes[s.node], storage.QueueID(s.queue+10*s.node)
				next, ok := c.Try(t.Context(), q, time.Now())
				if !ok {
					due[q] = next
				}
				switch {
				case ok && s.undo:
					c.Undo(q)
					due[q] = time.Now()
				case ok:
					send(s.node, q)
				case next.IsZero():
					rt.Fatal("no place is free although there is no limit")
				case !next.After(time.Now()):
					rt.Fatal("refused until a time that has passed")
				case s.away:
					c.Forget(q)
					delete(due, q)
				case s.pass > time.Second:
					<-time.After(time.Until(next))
					if again, ok := c.Try(t.Context(), q, time.Now()); !ok {
						rt.Fatalf("a queue that came when its slot was due must wait %v more", time.Until(again))
					}
					send(s.node, q)
				}
				<-time.After(s.pass)
			}
			for i := range sent {
				punctual, node := 0, 0
				for j := i; j < len(sent); j++ {
					span := sent[j].at.Sub(sent[i].at)
					if !sent[j].late {
						punctual++
					}
					// Each of the two nodes may send late and early, and a request that was undone
					// may be late a second time.
					if allowed := 1 + float64(span+3*late+2*early)/float64(rate.interval()) + 1; float64(punctual) > allowed {
						rt.Fatalf("%d requests within %v; the rate is %d in %v", punctual, span, rate.N, rate.Per)
					}
					if sent[j].node == sent[i].node {
						node++
					}
					if allowed := 1 + float64(span+late+early)/float64(rate.interval()); sent[j].late && sent[j].node == sent[i].node && float64(node) > allowed {
						rt.Fatalf("a late request is number %d of its node within %v; the rate is %d in %v", node, span, rate.N, rate.Per)
					}
				}
			}
		})
	})
}

// TestRateBusy checks that queues that always have requests take turns, and that the full rate is
// used.
func TestRateBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := &schedule{slow: 3 * time.Millisecond}
		c := newGovernor(shared, Rate{1200, time.Minute}).Attach(key)
		sent := make([]int, 5)
		var all sync.WaitGroup
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		for i := range sent {
			all.Go(func() {
				for ctx.Err() == nil {
					due, ok := c.Try(ctx, storage.QueueID(i), time.Now())
					if ok {
						sent[i]++
						<-time.After(7 * time.Millisecond)
						c.Done(t.Context(), Answer{Kind: Fine, Asked: time.Now(), Began: time.Now(), Ended: time.Now()})
						continue
					}
					<-time.After(time.Until(due))
				}
			})
		}
		all.Wait()
		total := 0
		for i, n := range sent {
			if total += n; n < 230 || n > 250 {
				t.Errorf("queue %d sent %d requests, want 240", i, n)
			}
		}
		if total < 1180 || total > 1210 {
			t.Errorf("%d requests were sent in a minute, want 1200", total)
		}
		if shared.calls > 260 {
			t.Errorf("storage was called %d times in a minute, want 4 a second", shared.calls)
		}
	})
}

// TestStorageBroken checks that nothing is sent at a shared rate while storage is broken, and that
// queues don't retry in a tight loop.
func TestStorageBroken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := &schedule{broken: true}
		g := newGovernor(shared, Rate{10, time.Second})
		c := g.Attach(key)
		if due, ok := c.Try(t.Context(), 1, time.Now()); ok || time.Until(due) < refillPause {
			t.Errorf("got %v, %v", time.Until(due), ok)
		}
		g.Poll(t.Context())
		shared.broken = false
		g.Poll(t.Context())
		if _, ok := c.Try(t.Context(), 1, time.Now()); !ok {
			t.Error("nothing is sent although storage works again")
		}
	})
}

// TestHold checks that a hold is announced at once, applies on other nodes within a second, and
// applies to queues that attach later.
func TestHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := &schedule{}
		ctx, cancel := context.WithCancel(t.Context())
		one, two := newGovernor(shared, Rate{}), newGovernor(shared, Rate{})
		var all sync.WaitGroup
		all.Go(func() { one.Run(ctx) })
		all.Go(func() { two.Run(ctx) })
		here, there := one.Attach(key), two.Attach(key)
		if _, ok := here.Try(ctx, 1, time.Now()); !ok {
			t.Error("refused without a reason")
		}
		here.Done(t.Context(), Answer{Kind: Throttled, Asked: time.Now(), Began: time.Now(), Ended: time.Now(), Pause: time.Minute})
		until := time.Now().Add(time.Minute)
		if due, ok := here.Try(ctx, 2, time.Now()); ok || !due.Equal(until) {
			t.Errorf("here: %v, %v", due, ok)
		}
		<-time.After(time.Second)
		if due, ok := there.Try(ctx, 3, time.Now()); ok || !due.Equal(until) {
			t.Errorf("on another node: %v, %v", due, ok)
		}
		there.Detach()
		<-time.After(2 * sweepInterval)
		if n := len(two.credentials); n != 0 {
			t.Errorf("%d unused credentials are kept", n)
		}
		if _, ok := there.Try(ctx, 3, time.Now()); !ok {
			t.Error("refused after the hold ended")
		}
		later := storage.Hold{Credential: batch.OwnerOf("another"), Until: time.Now().Add(time.Minute)}
		if err := shared.Hold(ctx, later); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Second)
		if due, ok := two.Attach(later.Credential).Try(ctx, 4, time.Now()); ok || !due.Equal(later.Until) {
			t.Errorf("attached later: %v, %v", due, ok)
		}
		cancel()
		all.Wait()
	})
}

// TestSpeed checks that the pace approaches the one that failed, stays there for a while, and then
// grows beyond it.
func TestSpeed(t *testing.T) {
	from := time.Now()
	at := func(l *learnedPace, d time.Duration) float64 { return l.speed(from.Add(d)) }
	known := &learnedPace{base: 5, peak: 10, from: from}
	last := 0.0
	for d := -time.Second; d < 2*time.Minute; d += time.Second / 4 {
		if v := at(known, d); v < last || v < 5 || d <= plateau && v > 10 {
			t.Fatalf("after %v the pace is %v; before it was %v", d, v, last)
		} else {
			last = v
		}
	}
	if v := at(known, plateau+probing); v < 12.4 || v > 12.6 {
		t.Errorf("after %v the pace is %v, want a quarter more than the peak", plateau+probing, v)
	}
	unknown := &learnedPace{base: 8, from: from}
	if v := at(unknown, 0); v != 8 {
		t.Errorf("at first the pace is %v, want 8", v)
	}
	if v := at(unknown, firstProbing); v != 10 {
		t.Errorf("after %v the pace is %v, want a quarter more", firstProbing, v)
	}
	if unknown.learned(from.Add(memoryOf)) {
		t.Error("the pace is not forgotten")
	}
}
