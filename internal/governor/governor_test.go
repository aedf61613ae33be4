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

// schedule is storage as nodes share it.
type schedule struct {
	mu     sync.Mutex
	next   time.Time
	calls  int
	broken bool
	slow   time.Duration
	holds  []storage.Hold
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

func newGovernor(s Shared, r Rate) *Governor { return New(s, r, 1000, slog.New(slog.DiscardHandler)) }

// TestPace: whatever queues do, on two nodes, no more is sent in any time than the rate
// allows, but for what may come late.
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
			told := map[storage.QueueID]time.Time{} // the slot that a queue holds, as far as can be seen
			type request struct {
				at   time.Time
				node int
				late bool // after its slot: has to fit in with what its node has sent
			}
			var sent []request
			send := func(node int, q storage.QueueID) {
				slot, ok := told[q]
				sent = append(sent, request{time.Now(), node, ok && time.Since(slot) > late})
				delete(told, q)
				nodes[node].Done(Answer{Kind: Fine, Asked: time.Now(), Began: time.Now(), Ended: time.Now()})
			}
			for _, s := range steps {
				c, q := nodes[s.node], storage.QueueID(s.queue+10*s.node)
				due, ok := c.Try(t.Context(), q, time.Now())
				if !ok {
					told[q] = due
				}
				switch {
				case ok && s.undo:
					c.Undo(q)
					told[q] = time.Now()
				case ok:
					send(s.node, q)
				case due.IsZero():
					rt.Fatal("refused for want of a place, and there is no limit")
				case !due.After(time.Now()):
					rt.Fatal("refused until a moment that has come")
				case s.away:
					c.Forget(q)
					delete(told, q)
				case s.pass > time.Second:
					<-time.After(time.Until(due)) // comes when it was told to
					if again, ok := c.Try(t.Context(), q, time.Now()); !ok {
						rt.Fatalf("who comes at the moment that it was told is sent away for %v", time.Until(again))
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
					// Both nodes may be late, and early, and what was undone may be late again.
					if allowed := 1 + float64(span+3*late+2*early)/float64(rate.interval()) + 1; float64(punctual) > allowed {
						rt.Fatalf("%d requests within %v, where %d in %v are allowed", punctual, span, rate.N, rate.Per)
					}
					if sent[j].node == sent[i].node {
						node++
					}
					if allowed := 1 + float64(span+late+early)/float64(rate.interval()); sent[j].late && sent[j].node == sent[i].node && float64(node) > allowed {
						rt.Fatalf("one that is late is the %d. of its node within %v, where %d in %v are allowed", node, span, rate.N, rate.Per)
					}
				}
			}
		})
	})
}

// TestRateBusy: queues that always want to send are served by turns, at the full rate.
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
						c.Done(Answer{Kind: Fine, Asked: time.Now(), Began: time.Now(), Ended: time.Now()})
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
				t.Errorf("queue %d has sent %d, want 240", i, n)
			}
		}
		if total < 1180 || total > 1210 {
			t.Errorf("%d were sent in a minute, want 1200", total)
		}
		if shared.calls > 260 {
			t.Errorf("storage was asked %d times in a minute, want 4 a second", shared.calls)
		}
	})
}

// TestStorageBroken: without storage nothing is sent at a common rate, and nobody spins.
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
			t.Error("storage works again, and nothing is sent")
		}
	})
}

// TestHold: announced at once, taken up by others within a second, and kept for who
// attaches later.
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
		here.Done(Answer{Kind: Throttled, Asked: time.Now(), Began: time.Now(), Ended: time.Now(), Pause: time.Minute})
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
			t.Errorf("%d credentials are kept that nobody uses", n)
		}
		if _, ok := there.Try(ctx, 3, time.Now()); !ok {
			t.Error("refused after the time")
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

// TestSpeed: after a lesson the pace approaches the one that was too fast, stays, and then
// tries for more.
func TestSpeed(t *testing.T) {
	from := time.Now()
	at := func(l *lesson, d time.Duration) float64 { return l.speed(from.Add(d)) }
	known := &lesson{base: 5, peak: 10, from: from}
	last := 0.0
	for d := -time.Second; d < 2*time.Minute; d += time.Second / 4 {
		if v := at(known, d); v < last || v < 5 || d <= plateau && v > 10 {
			t.Fatalf("after %v the pace is %v, and was %v", d, v, last)
		} else {
			last = v
		}
	}
	if v := at(known, plateau+probing); v < 12.4 || v > 12.6 {
		t.Errorf("a quarter more is tried after %v: %v", plateau+probing, v)
	}
	unknown := &lesson{base: 8, from: from}
	if v := at(unknown, 0); v != 8 {
		t.Errorf("at first %v", v)
	}
	if v := at(unknown, firstProbing); v != 10 {
		t.Errorf("after %v %v, want a quarter more", firstProbing, v)
	}
	if unknown.learned(from.Add(memoryOf)) {
		t.Error("the lesson is not forgotten")
	}
}
