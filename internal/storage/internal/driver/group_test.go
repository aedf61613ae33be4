package driver

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
)

type operation struct {
	Pending
	name string
}

// TestGroup: a group holds the queued operations up to its limit, without those whose callers gave
// up. A caller waits for an operation that was taken, even after the caller's context has ended.
func TestGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		queue := make(chan *operation, 9)
		submit := func(ctx context.Context, name string) chan error {
			op, result := &operation{name: name}, make(chan error, 1)
			go func() { result <- Wait(ctx, queue, op) }()
			synctest.Wait()
			return result
		}
		names := func(group []*operation) (out string) {
			for _, op := range group {
				out += op.name
			}
			return out
		}
		two := func(group []*operation) bool { return len(group) == 2 }
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		a := submit(ctx, "a")
		given, giveUp := context.WithCancel(t.Context())
		b := submit(given, "b")
		giveUp()
		if err := <-b; !errors.Is(err, context.Canceled) {
			t.Errorf("a caller that gives up: %v", err)
		}
		c, d := submit(t.Context(), "c"), submit(t.Context(), "d")
		first := Collect(nil, <-queue, queue, two)
		if got := names(first); got != "ac" {
			t.Fatalf("the first group: %q", got)
		}
		cancel()
		synctest.Wait()
		select {
		case <-a:
			t.Error("a caller returned while its operation was running")
		default:
		}
		second := Collect(nil, <-queue, queue, two)
		if got := names(second); got != "d" {
			t.Errorf("the second group: %q", got)
		}
		for _, op := range append(first, second...) {
			op.End()
		}
		for _, result := range []chan error{a, c, d} {
			if err := <-result; err != nil {
				t.Error(err)
			}
		}
	})
}
