package gate

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// One name gets half, and each further name half of the rest, so that something always remains for others.
func TestGateLeavesRoomForOthers(t *testing.T) {
	g := New[string](64, 64)
	var got []int
	for _, name := range []string{"a", "b", "c", "d"} {
		n := 0
		for g.Try(1, name) {
			n++
		}
		got = append(got, n)
	}
	if want := []int{32, 16, 8, 4}; !slices.Equal(got, want) {
		t.Errorf("greedy names got %v, want %v", got, want)
	}
	g.Leave(32, "a")
	if !g.Try(1, "e") || g.Taken() != 29 {
		t.Errorf("%d are held", g.Taken())
	}
}

// The limit for each name applies even if most of the total is free. All names of a caller count. A
// gate of 1 works.
func TestGateBounds(t *testing.T) {
	g := New[string](100, 2)
	if !g.Try(1, "alice", "home") || !g.Try(1, "bob", "home") {
		t.Fatal("refused")
	}
	if g.Try(1, "carol", "home") {
		t.Error("three came from one address")
	}
	if !g.Try(1, "carol", "work") || g.Try(2, "carol", "work") {
		t.Error("carol's limit is wrong")
	}
	if one := New[string](1, 1); !one.Try(1, "a") || one.Try(1, "b") {
		t.Error("a gate of 1 doesn't admit exactly one")
	}
	if New[string](4, 4).Try(5, "a") {
		t.Error("more than the total was granted")
	}
}

// A hundred waiting calls of one name don't delay the first of another.
func TestGateServesNamesInTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New[string](1, 1)
		if !g.Try(1, "first") {
			t.Fatal("refused")
		}
		var mu sync.Mutex
		var order []string
		var all sync.WaitGroup
		enter := func(name string) {
			all.Go(func() {
				if err := g.Enter(t.Context(), 1, name); err != nil {
					t.Error(err)
				}
				mu.Lock()
				order = append(order, name)
				mu.Unlock()
				g.Leave(1, name)
			})
			synctest.Wait()
		}
		for range 100 {
			enter("greedy")
		}
		enter("modest")
		g.Leave(1, "first")
		all.Wait()
		if i := slices.Index(order, "modest"); i != 1 || len(order) != 101 {
			t.Errorf("modest came after %d of %d", i, len(order))
		}
		if g.Taken() != 0 || len(g.held) != 0 || len(g.lines) != 0 {
			t.Errorf("%d are held at the end, by %v", g.Taken(), g.held)
		}
	})
}

// A name at its limit doesn't block the names after it.
func TestGatePassesThoseAtTheirBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New[string](8, 2)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if !g.Try(2, "greedy") || g.Try(3, "x", "y") {
			t.Fatal("a caller got more than each")
		}
		left := make(chan error, 1)
		go func() { left <- g.Enter(ctx, 1, "greedy") }()
		synctest.Wait()
		if err := g.Enter(ctx, 1, "modest"); err != nil {
			t.Errorf("modest waits: %v", err)
		}
		if err := <-left; !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("greedy got %v", err)
		}
		g.Leave(2, "greedy")
		g.Leave(1, "modest")
		if g.Taken() != 0 || len(g.lines) != 0 {
			t.Errorf("%d are held, %d lines", g.Taken(), len(g.lines))
		}
	})
}

// A caller that stops waiting holds nothing, even if it is granted at the same moment.
func TestGateForgetsWhoLeft(t *testing.T) {
	g := New[int](4, 4)
	var all sync.WaitGroup
	for i := range 64 {
		all.Go(func() {
			for j := range 200 {
				ctx, cancel := context.WithCancel(t.Context())
				if (i+j)%3 == 0 {
					go cancel()
				}
				if g.Enter(ctx, 1, i%8, 100+i%5) == nil {
					g.Leave(1, i%8, 100+i%5)
				}
				cancel()
			}
		})
	}
	all.Wait()
	if g.Taken() != 0 || len(g.held) != 0 || len(g.lines) != 0 {
		t.Errorf("%d are held, by %v, %d lines", g.Taken(), g.held, len(g.lines))
	}
}
