package storagetest

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sheafapi/sheaf/internal/storage"
)

func openMemory(*testing.T) storage.Storage { return NewMemory().Node() }

func TestMemory(t *testing.T) { Run(t, openMemory) }

func TestMemoryNodes(t *testing.T) {
	RunNodes(t, func(*testing.T) Cluster { return cluster{NewMemory()} })
}

func TestMemoryReopen(t *testing.T) {
	RunReopen(t, func(*testing.T) func(*testing.T) storage.Storage {
		m := NewMemory()
		return func(*testing.T) storage.Storage { return m.Node() }
	})
}

func TestMemoryModel(t *testing.T) { RunModel(t, openMemory) }

type cluster struct{ *Memory }

func (c cluster) Node(*testing.T) storage.Storage     { return c.Memory.Node() }
func (c cluster) Die(_ *testing.T, n storage.Storage) { c.Kill(n.(*Node)) }

func (c cluster) Expire(_ *testing.T, n storage.Storage) { c.Memory.Expire(n.(*Node)) }

// TestTime changes the clock, which the suites for real databases can't do.
func TestTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fixture{t, openMemory(t)}
		first, second := withDedup(newBatch("s", 1)), newBatch("s", 1)
		second.DedupKey = first.DedupKey
		q := f.create(first)
		time.Sleep(storage.DedupWindow - time.Second)
		f.expectDuplicate(second, first, q)
		time.Sleep(time.Second)
		f.create(second)

		f.finish(f.claim(q))
		time.Sleep(time.Hour - time.Second)
		f.purge(time.Hour)
		expect(t, "within retention", f.outcome(first), "COMPLETED -")
		time.Sleep(time.Second)
		f.purge(time.Hour)
		_, err := f.s.Status(t.Context(), key(first), 0)
		expectError(t, "Status after retention", err, storage.ErrNotFound)
		expect(t, "the unfinished batch", f.outcome(second), "QUEUED -")
	})
}

func TestKill(t *testing.T) {
	m := NewMemory()
	a, b := m.Node(), m.Node()
	x := newBatch("s", 1)
	c := (&fixture{t, a}).claimed(x)
	m.Kill(a)
	for name, call := range calls(t.Context(), a, newBatch("t", 1), c) {
		expectError(t, name, call(), ErrKilled)
	}
	expectError(t, "Close", a.Close(), ErrKilled)
	other := &fixture{t, b}
	expect(t, "outcome", other.outcome(x), "QUEUED -")
	expectLarger(t, other.claim(c.Queue), c)
}

// TestUncertain: a node waits while it can't tell whether it is considered alive. It may or may not
// have lost its claims by then.
func TestUncertain(t *testing.T) {
	for _, expires := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			m := NewMemory()
			n := m.Node()
			f := &fixture{t, n}
			c := f.claimed(newBatch("s", 1))
			n.SetCertain(false)
			expect(t, "Authorized", n.Authorized(c), false)
			ctx, cancel := context.WithCancel(t.Context())
			answers := make(chan error, 2)
			go func() { answers <- n.Authorize(ctx, c) }()
			synctest.Wait()
			cancel()
			expectError(t, "Authorize that was given up", <-answers, context.Canceled)

			go func() { answers <- n.Authorize(t.Context(), c) }()
			if expires {
				m.Expire(n)
			}
			synctest.Wait()
			expect(t, "early answers", len(answers), 0)
			n.SetCertain(true)
			if expires {
				expectError(t, "Authorize", <-answers, storage.ErrNotOwner)
			} else {
				expectError(t, "Authorize", <-answers, nil)
			}
			expect(t, "Authorized", n.Authorized(c), !expires)

			n.SetCertain(false)
			go func() { answers <- n.Authorize(t.Context(), c) }()
			synctest.Wait()
			m.Kill(n)
			expectError(t, "Authorize of a dead node", <-answers, ErrKilled)
			n.SetCertain(true)
			expect(t, "Authorized", n.Authorized(c), false)
		})
	}
}

// TestLostHints: a stop is still reported in time; an offer is not.
func TestLostHints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMemory()
		a, b := &fixture{t, m.Node()}, &fixture{t, m.Node()}
		told := a.watched()
		m.DropHints(true)
		x := newBatch("s", 1)
		c := a.claimed(x)
		b.stop(byTicket(x))
		b.s.Offer(c.Queue)
		time.Sleep(2 * time.Second)
		expect(t, "notified of", <-told.notified, c.Queue)
		expect(t, "wake-ups", len(told.woken), 0)
		m.DropHints(false)
		b.s.Offer(c.Queue)
		expect(t, "woken for", <-told.woken, c.Queue)
	})
}

// TestFaults makes every call fail in both ways, and checks whether its change was stored.
func TestFaults(t *testing.T) {
	changes := map[string]func(f *fixture, b *storage.NewBatch) bool{
		"Create": func(f *fixture, b *storage.NewBatch) bool {
			_, err := f.s.Status(f.Context(), key(b), 0)
			return err == nil
		},
		"PutSetting": func(f *fixture, _ *storage.NewBatch) bool {
			v, err := f.s.Setting(f.Context(), "name")
			return v == "value" && err == nil
		},
		"InitSetting": func(f *fixture, _ *storage.NewBatch) bool {
			v, err := f.s.Setting(f.Context(), "first")
			return v == "value" && err == nil
		},
	}
	names := calls(t.Context(), nil, nil, &storage.Claim{})
	for _, fault := range []Fault{None, FailedNotStored, FailedButStored} {
		for op := range names {
			n := NewMemory().Node()
			f := &fixture{t, n}
			c := f.claimed(newBatch("s", 1))
			b := newBatch("t", 1)
			if op == "Redeliver" { // Redeliver needs a delivery
				b.Callback = "https://example.com"
				f.finish(f.claimed(b))
			} else if op != "Create" {
				f.create(b)
			}
			seen := 0
			n.SetFault(func(o string) Fault {
				if o != op {
					return None
				}
				seen++
				return fault
			})
			err := calls(t.Context(), n, b, c)[op]()
			if fault == None {
				expectError(t, op, err, nil)
			} else {
				expectError(t, op, err, ErrInjected)
			}
			expect(t, "calls of "+op, seen, 1)
			n.SetFault(nil)
			if there := changes[op]; there != nil {
				expect(t, op+" with "+fault.String(), there(f, b), fault != FailedNotStored)
			}
		}
	}
}

func TestGate(t *testing.T) {
	n := NewMemory().Node()
	f := &fixture{t, n}
	b := newBatch("s", 1)
	entered, goOn := make(chan string), make(chan struct{})
	n.SetGate(func(ctx context.Context, op string) error {
		entered <- op
		select {
		case <-goOn:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	create := func() { _, err := n.Create(ctx, b); ended <- err }

	go create()
	expect(t, "the operation", <-entered, "Create")
	cancel()
	expectError(t, "a call that was given up", <-ended, context.Canceled)

	ctx = t.Context()
	go create()
	<-entered
	close(goOn)
	expectError(t, "a slow call", <-ended, nil)

	closed := errors.New("the gate is closed")
	n.SetGate(func(context.Context, string) error { return closed })
	_, err := n.Status(t.Context(), key(b), 0)
	expectError(t, "a call that was turned away", err, closed)
	n.SetGate(nil)
	expect(t, "outcome", f.outcome(b), "QUEUED -")
}

func TestMemoryClock(t *testing.T) {
	RunClock(t, func(*testing.T) Clocked {
		m := NewMemory()
		return memoryClock{m.Node()}
	})
}

type memoryClock struct{ *Node }

func (c memoryClock) SetClock(_ *testing.T, ahead time.Duration) { c.m.SetClock(ahead) }

func (c memoryClock) Now() time.Time {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	return c.m.now()
}
