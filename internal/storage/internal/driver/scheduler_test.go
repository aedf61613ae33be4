package driver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
	"pgregory.net/rapid"
)

func caller(store, token string) storage.Caller {
	return storage.Caller{Store: store, Owner: batch.OwnerOf(token)}
}

// take acquires a slot that must be free.
func take(t *testing.T, s *Scheduler, in Class, by storage.Caller) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Acquire(ctx, in, by); err != nil {
		t.Fatalf("no slot for class %d, store %q: %v", in, by.Store, err)
	}
}

// waits reports whether a call has to wait. It then gives up the call.
func waits(t *testing.T, s *Scheduler, in Class, by storage.Caller) bool {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := s.Acquire(ctx, in, by)
	if err == nil {
		s.Release(in, by)
	}
	return errors.Is(err, context.Canceled)
}

// TestSchedulerKeepsSlotsForHigherClasses: each class still gets a slot of its own, whatever lower
// classes hold.
func TestSchedulerKeepsSlotsForHigherClasses(t *testing.T) {
	s := NewScheduler(Slots{Results: 6, Claims: 5, Creates: 4, Reads: 3})
	for _, c := range []struct {
		class Class
		held  int
	}{{Reads, 3}, {Creates, 1}, {Claims, 1}, {Results, 1}} {
		for i := range c.held {
			take(t, s, c.class, caller(fmt.Sprint(i), ""))
		}
		if !waits(t, s, c.class, caller("another", "")) {
			t.Errorf("class %d takes a slot that belongs to a higher one", c.class)
		}
	}
}

// TestSchedulerLeavesASlotToOtherStores: one store doesn't hold all slots of its class, however
// many owners it has.
func TestSchedulerLeavesASlotToOtherStores(t *testing.T) {
	s := NewScheduler(Slots{Results: 6, Claims: 5, Creates: 4, Reads: 3})
	take(t, s, Reads, caller("a", "1"))
	take(t, s, Reads, caller("a", "2"))
	if !waits(t, s, Reads, caller("a", "3")) {
		t.Error("a store took all slots")
	}
	take(t, s, Reads, caller("b", "1"))
}

// TestSchedulerTakesTurns: stores take turns, and within a store its owners do.
func TestSchedulerTakesTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewScheduler(Slots{1, 1, 1, 1})
		take(t, s, Reads, caller("holder", ""))
		var order []string
		for _, w := range []struct{ store, token string }{
			{"a", "1"}, {"a", "1"}, {"a", "1"}, {"a", "2"}, {"b", "1"}, {"b", "1"}, {"c", "1"},
		} {
			go func() {
				by := caller(w.store, w.token)
				if err := s.Acquire(t.Context(), Reads, by); err != nil {
					t.Error(err)
				}
				order = append(order, w.store+w.token)
				s.Release(Reads, by)
			}()
			synctest.Wait() // the call is in the line
		}
		s.Release(Reads, caller("holder", ""))
		synctest.Wait()
		if want := []string{"a1", "b1", "c1", "a2", "b1", "a1", "a1"}; !slices.Equal(order, want) {
			t.Errorf("they ran in the order %v, want %v", order, want)
		}
	})
}

// TestSchedulerLimitsLines: an owner or a store with a full line is refused. Others are not, and
// neither is the service itself.
func TestSchedulerLimitsLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		s := NewScheduler(Slots{1, 1, 1, 1})
		take(t, s, Results, storage.Caller{})
		wait := func(by storage.Caller, n int) {
			for range n {
				go func() {
					if err := s.Acquire(ctx, Reads, by); !errors.Is(err, context.Canceled) {
						t.Error(err)
					}
				}()
			}
			synctest.Wait()
		}
		refused := func(by storage.Caller) bool {
			done, cancel := context.WithCancel(t.Context())
			cancel()
			return errors.Is(s.Acquire(done, Reads, by), storage.ErrTooManyCalls)
		}
		wait(caller("a", "1"), ownerLine)
		if !refused(caller("a", "1")) || refused(caller("a", "2")) {
			t.Error("the line of an owner is not its own")
		}
		for i := range storeLine/ownerLine - 1 {
			wait(caller("a", fmt.Sprint(i+2)), ownerLine)
		}
		if !refused(caller("a", "another")) || refused(caller("b", "1")) {
			t.Error("the line of a store is not its own")
		}
		wait(storage.Caller{}, 2*storeLine)
		cancel()
		synctest.Wait()
		if refused(caller("a", "1")) {
			t.Error("calls that were given up stay in the line")
		}
	})
}

// TestSchedulerNeverRefusesResults: results and claims wait, however many calls with the same owner
// wait already. A refused result would leave a request in doubt that has an answer.
func TestSchedulerNeverRefusesResults(t *testing.T) {
	for _, in := range []Class{Results, Claims} {
		synctest.Test(t, func(t *testing.T) {
			s, by := NewScheduler(Slots{1, 1, 1, 1}), caller("a", "1")
			take(t, s, Results, by)
			var calls sync.WaitGroup
			for range 2 * storeLine {
				calls.Go(func() {
					if err := s.Acquire(t.Context(), in, by); err != nil {
						t.Errorf("a call of class %d: %v", in, err)
						return
					}
					s.Release(in, by)
				})
			}
			synctest.Wait()
			if n := s.Waiting(); n != 2*storeLine {
				t.Errorf("%d calls of class %d wait, want %d", n, in, 2*storeLine)
			}
			s.Release(Results, by)
			calls.Wait()
		})
	}
}

// TestSchedulerStarvesNoClass: a busy class delays a lower one but doesn't starve it.
func TestSchedulerStarvesNoClass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewScheduler(Slots{1, 1, 1, 1})
		take(t, s, Results, storage.Caller{})
		var order []Class
		for in, n := range map[Class]int{Results: 4 * patience, Reads: 2} {
			for range n {
				go func() {
					if err := s.Acquire(t.Context(), in, storage.Caller{}); err != nil {
						t.Error(err)
					}
					order = append(order, in)
					s.Release(in, storage.Caller{})
				}()
			}
		}
		synctest.Wait()
		s.Release(Results, storage.Caller{})
		synctest.Wait()
		if i := slices.Index(order, Reads); i != patience {
			t.Errorf("the first read came after %d results, want %d", i, patience)
		}
	})
}

// TestSchedulerModel: whatever calls come, end and are given up, no class holds more than its
// slots, no call waits for a free slot, and nothing is left at the end.
func TestSchedulerModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		synctest.Test(t, func(t *testing.T) {
			slots := Slots{Results: 4, Claims: 3, Creates: 2, Reads: 1}
			s := NewScheduler(slots)
			type call struct {
				in     Class
				by     storage.Caller
				held   bool
				giveUp context.CancelFunc
			}
			var calls []*call
			for range rapid.IntRange(1, 60).Draw(rt, "steps") {
				if n := len(calls); n > 0 && rapid.Bool().Draw(rt, "ends") {
					i := rapid.IntRange(0, n-1).Draw(rt, "which")
					c := calls[i]
					calls = slices.Delete(calls, i, i+1)
					if c.held {
						s.Release(c.in, c.by)
					}
					c.giveUp()
				} else {
					ctx, cancel := context.WithCancel(context.Background())
					c := &call{
						in: Class(rapid.IntRange(0, int(classes)-1).Draw(rt, "class")),
						by: caller(rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "store"), rapid.SampledFrom([]string{"1", "2"}).Draw(rt, "token")), giveUp: cancel,
					}
					calls = append(calls, c)
					go func() { c.held = s.Acquire(ctx, c.in, c.by) == nil }()
				}
				synctest.Wait()
				held := 0
				for in := classes - 1; in >= 0; in-- {
					for _, c := range calls {
						if c.in == in && c.held {
							held++
						}
					}
					if held > slots[in] {
						rt.Fatalf("class %d and those below hold %d slots, more than %d", in, held, slots[in])
					}
					if s.hasSlot(in) && s.classes[in].next() >= 0 {
						rt.Fatalf("a call of class %d waits for a slot that is free", in)
					}
				}
			}
			for _, c := range calls {
				c.giveUp()
			}
			synctest.Wait()
			for _, c := range calls {
				if c.held {
					s.Release(c.in, c.by)
				}
			}
			for in := range classes {
				if c := &s.classes[in]; s.used[in] != 0 || len(c.line) != 0 || len(c.stores) != 0 {
					rt.Fatalf("class %d: %d used, %d in line, %d stores are left", in, s.used[in], len(c.line), len(c.stores))
				}
			}
		})
	})
}
