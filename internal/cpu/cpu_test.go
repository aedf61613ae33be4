package cpu

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestShares checks that a store with a thousand tasks gets half of the processors, and that another store's
// first task runs at once.
func TestShares(t *testing.T) {
	for _, size := range []int64{1, Large} {
		synctest.Test(t, func(t *testing.T) {
			s := New(4)
			ctx, cancel := context.WithCancel(t.Context())
			running := 0
			for range 1000 {
				go func() {
					if leave, err := s.Enter(ctx, size, "crowd"); err == nil {
						running++
						<-ctx.Done()
						leave()
					}
				}()
			}
			synctest.Wait()
			if running != 1 { // of two processors for tasks of this size
				t.Errorf("%d tasks of %d bytes run for one store on 4 processors, want 1", running, size)
			}
			began := time.Now()
			for _, size := range []int64{1, Large} {
				leave, err := s.Enter(t.Context(), size, "alone", "10.0.0.1")
				if err != nil {
					t.Fatal(err)
				}
				leave()
			}
			if time.Since(began) > 0 {
				t.Error("another store's task had to wait")
			}
			cancel()
			synctest.Wait()
			if n := s.small.Taken() + s.large.Taken(); n != 0 {
				t.Errorf("%d tasks are counted at the end", n)
			}
		})
	}
}

// TestLargeLeavesHalf checks that large tasks leave half of the processors for small ones, and stores
// take turns on the rest.
func TestLargeLeavesHalf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(2)
		var order []string
		for range 3 {
			for _, store := range []string{"a", "b"} {
				go func() {
					leave, err := s.Enter(t.Context(), Large, store)
					if err != nil {
						t.Error(err)
						return
					}
					order = append(order, store)
					<-time.After(time.Second)
					leave()
				}()
				synctest.Wait() // so that they arrive in this order
			}
		}
		began := time.Now()
		leave, err := s.Enter(t.Context(), 1, "small")
		if err != nil || time.Since(began) > 0 {
			t.Errorf("a small task waited for %v: %v", time.Since(began), err)
		}
		leave()
		<-time.After(time.Minute)
		synctest.Wait()
		for i := 1; i < len(order); i++ {
			if order[i] == order[i-1] {
				t.Errorf("the stores did not take turns: %v", order)
				break
			}
		}
		if len(order) != 6 {
			t.Errorf("%d tasks ran, want 6", len(order))
		}
	})
}

// TestCanceled checks that a task whose context is done isn't counted.
func TestCanceled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(1)
		for _, size := range []int64{1, Large} {
			leave, err := s.Enter(t.Context(), size, "a")
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				leave()
				if n := s.small.Taken() + s.large.Taken(); size == 1 && n != 0 { // after the last one
					t.Errorf("%d tasks are counted at the end", n)
				}
			}()
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		for _, size := range []int64{1, Large} {
			if _, err := s.Enter(ctx, size, "b"); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("a task of %d bytes on a busy processor: %v", size, err)
			}
		}
	})
}

// TestNil checks that a nil *Shares limits nothing.
func TestNil(t *testing.T) {
	var s *Shares
	for range 100 {
		if _, err := s.Enter(t.Context(), Large, "a"); err != nil {
			t.Fatal(err)
		}
	}
}
