package budget

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// TestModel compares a budget with a slow but simple model, after every step of random histories.
func TestModel(t *testing.T) {
	for seed := range uint64(300) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { compare(t, rand.New(rand.NewPCG(seed, 1))) })
		})
	}
}

// consumer is a share, as the test sees it.
type consumer struct {
	share  *Share
	owner  string
	cancel context.CancelFunc
	result chan error

	// The state in the model:
	held  int64
	wants int64 // 0: not waiting
	since int
}

func compare(t *testing.T, random *rand.Rand) {
	total := 20 + random.Int64N(100)
	reserve := 1 + random.Int64N(total)
	b := New(total, reserve)
	all := make([]*consumer, 12)
	for i := range all {
		owner := fmt.Sprint("owner", random.IntN(4))
		all[i] = &consumer{share: b.Share(owner), owner: owner, result: make(chan error, 1)}
	}
	m := &model{common: total - reserve, reserve: reserve, all: all}
	for range 150 {
		step(t, random, m, all[random.IntN(len(all))])
		synctest.Wait()
		m.distribute()
		check(t, b, m)
	}
	for u := b.Usage(); u.Waiting > 0; u = b.Usage() { // releasing all shares serves all waiters
		for _, c := range all {
			if c.wants == 0 {
				c.share.Release()
				m.shrink(c, c.held)
				synctest.Wait()
				m.distribute()
				check(t, b, m)
			}
		}
	}
	for _, c := range all {
		c.share.Release()
	}
	if u := b.Usage(); u.Held != 0 || u.Waiting != 0 || len(b.owners) != 0 || b.favored != nil {
		t.Fatalf("after the end %+v, %d owners and the favored share %v are left", u, len(b.owners), b.favored)
	}
}

// step does the same with one consumer and with the model.
func step(t *testing.T, random *rand.Rand, m *model, c *consumer) {
	n := random.Int64N(m.reserve) + 1
	switch {
	case c.wants > 0:
		if random.IntN(4) > 0 {
			return
		}
		c.cancel()
		if err := <-c.result; !errors.Is(err, context.Canceled) {
			t.Fatalf("a Grow whose context ended returned %v", err)
		}
		c.wants = 0
	case random.IntN(3) == 0:
		n = min(n, c.held)
		c.share.Shrink(n)
		m.shrink(c, n)
	case c.held+n > m.reserve:
		if err := c.share.Grow(t.Context(), n); !errors.Is(err, ErrTooLarge) || c.share.TryGrow(n) {
			t.Fatalf("a share grew beyond the reserve: %v", err)
		}
	default:
		ctx, cancel := context.WithCancel(t.Context())
		c.cancel = cancel
		go func() { c.result <- c.share.Grow(ctx, n) }()
		m.steps++
		c.wants, c.since = n, m.steps
	}
}

// check compares the budget with the model.
func check(t *testing.T, b *Budget, m *model) {
	t.Helper()
	var held int64
	waiting := 0
	for i, c := range m.all {
		held += c.held
		if c.wants > 0 {
			waiting++
			continue
		}
		if c.cancel != nil {
			select {
			case err := <-c.result:
				if err != nil {
					t.Fatalf("consumer %d: %v", i, err)
				}
			default:
			}
		}
		if c.share.Held() != c.held {
			t.Fatalf("consumer %d holds %d bytes, but %d in the model", i, c.share.Held(), c.held)
		}
	}
	if want := (Usage{Total: m.common + m.reserve, Held: held, Waiting: waiting}); b.Usage() != want {
		t.Fatalf("%+v, but %+v in the model", b.Usage(), want)
	}
	if held > m.common+m.reserve {
		t.Fatalf("%d of %d bytes are held", held, m.common+m.reserve)
	}
	if waiting > 0 && m.favored == nil {
		t.Fatal("a share waits, but none is favored")
	}
}

// model is a budget that recomputes everything each time.
type model struct {
	common, reserve int64
	all             []*consumer
	favored         *consumer
	steps           int
}

func (m *model) shrink(c *consumer, n int64) {
	if c.held -= n; c.held == 0 && m.favored == c {
		m.favored = nil
	}
}

func (m *model) distribute() {
	for {
		var waiters []*consumer
		of := map[string]int64{}
		free := m.common
		for _, c := range m.all {
			of[c.owner] += c.held
			if c != m.favored {
				free -= c.held
			}
			if c.wants > 0 {
				waiters = append(waiters, c)
			}
		}
		if len(waiters) == 0 {
			return
		}
		slices.SortFunc(waiters, func(a, b *consumer) int { return a.since - b.since })
		oldest := waiters[0]
		slices.SortStableFunc(waiters, func(a, b *consumer) int { return int(of[a.owner] - of[b.owner]) })
		next := waiters[0]
		switch {
		case m.favored != nil && m.favored.wants > 0:
			next = m.favored
		case of[next.owner]+next.wants <= free:
		case m.favored == nil:
			next, m.favored = oldest, oldest
		default:
			return
		}
		next.held, next.wants = next.held+next.wants, 0
	}
}

// TestConsumersThatHoldPartsFinish has a hundred consumers that each grow in two parts. The first parts alone
// use up the budget.
func TestConsumersThatHoldPartsFinish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New(30, 10)
		finished := make(chan struct{}, 100)
		for i := range 100 {
			go func() {
				s := b.Share(fmt.Sprint(i % 7))
				defer s.Release()
				for range 2 {
					if err := s.Grow(t.Context(), 5); err != nil {
						t.Error(err)
					}
					time.Sleep(time.Second)
				}
				finished <- struct{}{}
			}()
		}
		for range 100 { // synctest reports a deadlock
			<-finished
		}
	})
}

// TestOneOwnersCrowdDelaysNobody has one owner with a thousand waiting consumers. Another owner's first bytes
// are free, and it gets the next bytes that are released.
func TestOneOwnersCrowdDelaysNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New(20, 2)
		var crowd []*Share
		for s := b.Share("crowd"); s.TryGrow(2); s = b.Share("crowd") {
			crowd = append(crowd, s)
		}
		if len(crowd) != 5 {
			t.Errorf("one owner got %d of 18 bytes, want 10", 2*len(crowd))
		}
		ctx, cancel := context.WithCancel(t.Context())
		for range 1000 {
			go func() { _ = b.Share("crowd").Grow(ctx, 2) }()
		}
		synctest.Wait()
		for range 2 {
			if !b.Share("alone").TryGrow(2) {
				t.Fatal("the free bytes were refused")
			}
		}
		grown := make(chan error, 1)
		go func() { grown <- b.Share("alone").Grow(ctx, 2) }()
		synctest.Wait()
		if b.Share("alone").TryGrow(1) {
			t.Error("TryGrow got bytes that another share of the owner waits for")
		}
		crowd[0].Release()
		synctest.Wait()
		select {
		case err := <-grown:
			if err != nil {
				t.Error(err)
			}
		default:
			t.Error("the released bytes went to the crowd")
		}
		cancel()
		synctest.Wait()
		if u := b.Usage(); u.Waiting != 0 {
			t.Errorf("%d shares still wait after their contexts are done", u.Waiting)
		}
	})
}
