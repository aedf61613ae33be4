package storagetest

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// Clocked is a database whose clock a test can set.
type Clocked interface {
	storage.Storage
	SetClock(t *testing.T, ahead time.Duration) // ahead of the right time
	Now() time.Time                             // the time that the storage's caller sees
}

// RunClock is the conformance suite for clocks that are set: what was stored while a clock was
// wrong counts no longer than its own limit. open opens an empty database whose clock is right.
func RunClock(t *testing.T, open func(t *testing.T) Clocked) {
	for _, tt := range clockTests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := open(t)
			tt.run(&clockFixture{fixture{t, c}, c})
		})
	}
}

type clockFixture struct {
	fixture
	c Clocked
}

// set sets the clock ahead of the right time.
func (f *clockFixture) set(ahead time.Duration) {
	f.Helper()
	f.c.SetClock(f.T, ahead)
}

// near fails unless a time is this far ahead of now.
func (f *clockFixture) near(what string, at time.Time, ahead time.Duration) {
	f.Helper()
	if got := at.Sub(f.c.Now()); (got - ahead).Abs() > 20*time.Second {
		f.Errorf("%s lies %v ahead, want %v", what, got, ahead)
	}
}

// called ends a new batch with a callback and returns it.
func (f *clockFixture) called() *storage.NewBatch {
	b := calling("s", 1)
	f.finish(f.claimed(b))
	return b
}

var clockTests = []struct {
	name string
	run  func(f *clockFixture)
}{
	{"a hold lasts no longer than when it was made", func(f *clockFixture) {
		one := batch.OwnerOf("one")
		f.set(time.Hour)
		f.hold(one, f.c.Now().Add(time.Minute))
		f.near("by the wrong clock", f.holds()[0].Until, time.Minute)
		f.set(0)
		f.near("by the right clock", f.holds()[0].Until, time.Minute)
		f.set(2 * time.Minute)
		expect(f.T, "holds after its end", len(f.holds()), 0)
		f.set(time.Hour)
		f.hold(one, f.c.Now().Add(4*time.Minute))
		f.set(0)
		f.hold(one, f.c.Now().Add(time.Minute))
		f.near("after a shorter one", f.holds()[0].Until, 4*time.Minute)
		f.set(-time.Hour)
		f.near("an hour earlier", f.holds()[0].Until, 4*time.Minute)
	}},
	{"no hold lasts longer than the limit", func(f *clockFixture) {
		f.hold(batch.OwnerOf("one"), f.c.Now().Add(2*storage.HoldLimit))
		f.near("a long one", f.holds()[0].Until, storage.HoldLimit)
	}},
	{"reservations reach no further ahead than when they were made", func(f *clockFixture) {
		one := batch.OwnerOf("one")
		f.set(time.Hour)
		f.reserve(one, time.Minute)
		f.near("the second span", f.reserve(one, time.Minute), time.Minute)
		f.set(0)
		f.near("the third span", f.reserve(one, time.Minute), 2*time.Minute)
		f.set(-time.Hour)
		f.hold(one, f.c.Now().Add(time.Minute))
		f.near("the fourth span", f.reserve(one, time.Minute), 3*time.Minute)
		f.set(time.Hour)
		f.near("a span two hours later", f.reserve(one, time.Minute), 0)
	}},
	{"a deduplication key from the future counts from now", func(f *clockFixture) {
		first, second := withDedup(newBatch("s", 1)), newBatch("s", 1)
		second.DedupKey = first.DedupKey
		f.set(time.Hour)
		q := f.create(first)
		f.set(0)
		f.expectDuplicate(second, first, q)
		st, err := f.s.Status(f.Context(), key(first), 0)
		expectError(f.T, "Status", err, nil)
		f.near("its creation", st.CreatedAt, 0)
	}},
	{"a deduplication key survives a step forward", func(f *clockFixture) {
		first, second := withDedup(newBatch("s", 1)), newBatch("s", 1)
		second.DedupKey = first.DedupKey
		q := f.create(first)
		f.set(time.Hour)
		f.expectDuplicate(second, first, q)
		f.set(2 * time.Hour)
		f.expectDuplicate(second, first, q)
	}},
	{"a delivery from the future is due now", func(f *clockFixture) {
		f.set(time.Hour)
		f.called()
		f.set(0)
		expect(f.T, "due", len(f.due(time.Minute)), 1)
		expect(f.T, "due again", len(f.due(time.Minute)), 0)
		f.set(2 * time.Minute)
		expect(f.T, "due after its lease", len(f.due(time.Minute)), 1)
	}},
	{"a delivery waits no longer than planned", func(f *clockFixture) {
		f.set(time.Hour)
		b := f.called()
		d := f.due(time.Hour)[0]
		d.State, d.NextAt = storage.Pending, f.c.Now().Add(10*time.Minute)
		f.put(d)
		f.set(0)
		expect(f.T, "due at once", len(f.due(time.Minute)), 0)
		f.near("the next attempt", f.deliveries(b, uuid.Nil)[0].NextAt, 10*time.Minute)
		f.set(11 * time.Minute)
		expect(f.T, "due after its pause", len(f.due(time.Minute)), 1)
	}},
	{"a lease from the future ends", func(f *clockFixture) {
		f.called()
		f.set(time.Hour)
		expect(f.T, "due", len(f.due(time.Minute)), 1)
		f.set(0)
		expect(f.T, "due under its lease", len(f.due(time.Minute)), 0)
		f.set(2 * time.Minute)
		expect(f.T, "due after its lease", len(f.due(time.Minute)), 1)
	}},
	{"no delivery waits longer than the limit", func(f *clockFixture) {
		b := f.called()
		d := f.due(time.Hour)[0]
		d.State, d.NextAt = storage.Pending, f.c.Now().Add(1000*time.Hour)
		f.put(d)
		f.due(time.Hour)
		f.near("the next attempt", f.deliveries(b, uuid.Nil)[0].NextAt, storage.DeliveryLimit)
	}},
	{"an end in the future counts as now", func(f *clockFixture) {
		f.set(100 * time.Hour)
		b := newBatch("s", 1)
		f.finish(f.claimed(b))
		f.set(0)
		f.purge(time.Hour)
		expect(f.T, "within retention", f.outcome(b), "COMPLETED -")
		f.set(2 * time.Hour)
		f.purge(time.Hour)
		_, err := f.s.Status(f.Context(), key(b), 0)
		expectError(f.T, "Status after retention", err, storage.ErrNotFound)
	}},
	{"a pause stays a pause", func(f *clockFixture) {
		b := newBatch("s", 1)
		c := f.claimed(b)
		_, err := f.s.Pause(f.Context(), storage.PauseRequest{Key: key(b), Paused: true})
		expectError(f.T, "Pause", err, nil)
		err = f.s.Release(f.Context(), c, nil, storage.Forever)
		expectError(f.T, "Release", err, nil)
		f.set(-time.Hour)
		f.purge(time.Hour)
		free, err := f.s.Runnable(f.Context(), 0, 1)
		if err != nil || len(free) != 1 || free[0].NotBefore.Before(f.c.Now().Add(1000*time.Hour)) {
			f.Errorf("a paused queue is runnable: %v, %v", free, err)
		}
	}},
}
