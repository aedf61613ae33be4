package storagetest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// Run is the conformance suite for one node. Each call of open returns a new, empty database, which
// it closes with t.Cleanup.
func Run(t *testing.T, open func(t *testing.T) storage.Storage) {
	runTests(t, "create", open, createTests)
	runTests(t, "order", open, orderTests)
	runTests(t, "read", open, readTests)
	runTests(t, "search", open, searchTests)
	runTests(t, "look", open, lookTests)
	runTests(t, "doubt", open, doubtTests)
	runTests(t, "run", open, runningTests)
	runTests(t, "epoch", open, epochTests)
	runTests(t, "authority", open, authorityTests)
	runTests(t, "repeat", open, repeatTests)
	runTests(t, "stop", open, stopTests)
	runTests(t, "delete", open, deleteTests)
	runTests(t, "abandon", open, abandonTests)
	runTests(t, "purge", open, purgeTests)
	runTests(t, "bytes", open, byteTests)
	runTests(t, "holds", open, holdTests)
	runTests(t, "waits", open, waitTests)
	runTests(t, "credentials", open, credentialTests)
	runTests(t, "renewal", open, renewalTests)
	runTests(t, "outages", open, outageTests)
	runTests(t, "steer", open, steerTests)
	runTests(t, "quarantine", open, quarantineTests)
	runTests(t, "deliveries", open, deliveryTests)
	runTests(t, "seals", open, sealTests)
	runTests(t, "settings", open, settingTests)
	runTests(t, "concurrency", open, concurrencyTests)
	runTests(t, "calls", open, callTests)
}

var callTests = []test{
	{"an ended context ends the call", func(f *fixture) {
		b := newBatch("s", 1)
		c := f.claimed(newBatch("t", 1))
		ctx, cancel := context.WithCancel(f.Context())
		cancel()
		for name, call := range calls(ctx, f.s, b, c) {
			expectError(f.T, name, call(), context.Canceled)
		}
	}},
	{"after Close every call fails", func(f *fixture) {
		b := newBatch("s", 1)
		c := f.claimed(b)
		if err := f.s.Close(); err != nil {
			f.Fatal(err)
		}
		for name, call := range calls(f.Context(), f.s, b, c) {
			if call() == nil {
				f.Errorf("%s still works", name)
			}
		}
	}},
	{"a ping is answered", func(f *fixture) {
		if err := f.s.Ping(f.Context()); err != nil {
			f.Error(err)
		}
	}},
}

// calls returns all calls of a storage except Close, by name.
func calls(ctx context.Context, s storage.Storage, b *storage.NewBatch, c *storage.Claim) map[string]func() error {
	return map[string]func() error{
		"Create":        func() error { _, err := s.Create(ctx, b); return err },
		"Status":        func() error { _, err := s.Status(ctx, key(b), 1); return err },
		"Results":       func() error { _, err := s.Results(ctx, c.ID, 0, 1); return err },
		"Stop":          func() error { _, err := s.Stop(ctx, storage.Selection{Store: b.Store, GroupID: "g"}); return err },
		"Delete":        func() error { _, err := s.Delete(ctx, key(b)); return err },
		"Runnable":      func() error { _, err := s.Runnable(ctx, 0, 1); return err },
		"Claim":         func() error { _, err := s.Claim(ctx, c.Queue); return err },
		"Load":          func() error { return s.Load(ctx, c) },
		"Record":        func() error { _, err := s.Record(ctx, c, []storage.Mark{begun(0)}); return err },
		"Finish":        func() error { _, err := s.Finish(ctx, c, nil, "", true); return err },
		"Release":       func() error { return s.Release(ctx, c, nil, moment(0)) },
		"Authorize":     func() error { return s.Authorize(ctx, c) },
		"Abandon":       func() error { _, err := s.Abandon(ctx, batch.Result{}, ""); return err },
		"Purge":         func() error { _, err := s.Purge(ctx, 0); return err },
		"Hold":          func() error { return s.Hold(ctx, storage.Hold{Until: moment(0)}) },
		"Holds":         func() error { _, err := s.Holds(ctx); return err },
		"Reserve":       func() error { _, err := s.Reserve(ctx, b.Owner, time.Second); return err },
		"Requests":      func() error { _, _, err := s.Requests(ctx, 1); return err },
		"News":          func() error { _, err := s.News(ctx, []storage.BatchID{1}); return err },
		"Pause":         func() error { _, err := s.Pause(ctx, storage.PauseRequest{Queue: "q", Paused: true}); return err },
		"Group":         func() error { _, err := s.Group(ctx, "s", batch.Owner{}, "g"); return err },
		"DueDeliveries": func() error { _, _, err := s.DueDeliveries(ctx, storage.DueQuery{Limit: 1}); return err },
		"PutDelivery":   func() error { return s.PutDelivery(ctx, &storage.Delivery{ID: 1, State: storage.Delivered}) },
		"Deliveries":    func() error { _, err := s.Deliveries(ctx, storage.DeliverySearch{Store: "s", Limit: 1}); return err },
		"Redeliver":     func() error { return s.Redeliver(ctx, key(b)) },
		"Seals":         func() error { _, err := s.Seals(ctx, 9); return err },
		"Find":          func() error { _, err := s.Find(ctx, storage.Filter{Store: "s", Limit: 1}); return err },
		"Marks":         func() error { _, err := s.Marks(ctx, 1); return err },
		"Queue":         func() error { _, err := s.Queue(ctx, "q"); return err },
		"Overview":      func() error { _, err := s.Overview(ctx, 1); return err },
		"Setting":       func() error { _, err := s.Setting(ctx, "name"); return err },
		"PutSetting":    func() error { return s.PutSetting(ctx, "name", "value") },
		"InitSetting":   func() error { _, err := s.InitSetting(ctx, "first", "value"); return err },
		"Ping":          func() error { return s.Ping(ctx) },
	}
}

var settingTests = []test{
	{"one that was never put is empty", func(f *fixture) {
		f.expectSetting("none", "")
	}},
	{"the last value counts", func(f *fixture) {
		for _, v := range []string{"first", "second", "second", "ключ = 🔑"} {
			f.putSetting("name", v)
			f.expectSetting("name", v)
		}
	}},
	{"settings are independent of each other", func(f *fixture) {
		f.putSetting("a", "1")
		f.putSetting("A", "2")
		f.putSetting("a ", "3")
		f.expectSetting("a", "1")
		f.expectSetting("A", "2")
		f.expectSetting("a ", "3")
	}},
	{"a value can be emptied", func(f *fixture) {
		f.putSetting("name", "value")
		f.putSetting("name", "")
		f.expectSetting("name", "")
	}},
	{"InitSetting doesn't change a value", func(f *fixture) {
		f.initSetting("name", odd, odd)
		f.initSetting("name", "second", odd)
		f.expectSetting("name", odd)
		f.initSetting("another", "value", "value")
		f.putSetting("name", "put")
		f.initSetting("name", "third", "put")
	}},
	{"an empty value counts as unset", func(f *fixture) {
		f.putSetting("name", "")
		f.initSetting("name", "value", "value")
		f.expectSetting("name", "value")
	}},
	{"of concurrent first values, one is stored", func(f *fixture) { expectOneFirst(f.T, f.s, f.s) }},
}

func (f *fixture) initSetting(name, value, want string) {
	f.Helper()
	got, err := f.s.InitSetting(f.Context(), name, value)
	if err != nil {
		f.Fatalf("InitSetting: %v", err)
	}
	expect(f.T, "what is stored under "+name, got, want)
}

func (f *fixture) putSetting(name, value string) {
	f.Helper()
	if err := f.s.PutSetting(f.Context(), name, value); err != nil {
		f.Fatalf("PutSetting: %v", err)
	}
}

// expectOneFirst checks that two concurrent first values lead to one stored value.
func expectOneFirst(t *testing.T, a, b storage.Storage) {
	t.Helper()
	for round := range 10 {
		name := fmt.Sprint("round", round)
		got := make([]string, 8)
		errs := together(len(got), func(i int) (err error) {
			got[i], err = []storage.Storage{a, b}[i%2].InitSetting(t.Context(), name, fmt.Sprint("value", i))
			return err
		})
		for i := range got {
			expectError(t, "InitSetting", errs[i], nil)
			expect(t, "the value", got[i], got[0])
		}
		(&fixture{t, b}).expectSetting(name, got[0])
	}
}

func (f *fixture) expectSetting(name, want string) {
	f.Helper()
	got, err := f.s.Setting(f.Context(), name)
	if err != nil {
		f.Fatalf("Setting: %v", err)
	}
	expect(f.T, "the setting "+name, got, want)
}
