package watch

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sheafapi/sheaf/internal/storage"
)

// states is a database that other nodes change. It holds the state of each batch.
type states struct {
	mu    sync.Mutex // guards the other fields
	news  map[storage.BatchID]storage.News
	err   error
	calls int
}

func (s *states) News(_ context.Context, ids []storage.BatchID) (out []storage.News, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	for _, id := range ids {
		if n, ok := s.news[id]; ok {
			out = append(out, n)
		}
	}
	return out, s.err
}

// change changes the database while the hub runs.
func (s *states) change(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// received reports whether a channel has a value, and whether it is open.
func received(news <-chan struct{}) (value, open bool) {
	select {
	case _, open = <-news:
		return open, open
	default:
		return false, true
	}
}

func expect(t *testing.T, what string, news <-chan struct{}, want bool) {
	t.Helper()
	if got, open := received(news); got != want || !open {
		t.Errorf("%s: news %v, open %v", what, got, open)
	}
}

func TestChanged(t *testing.T) {
	var h Hub
	h.Changed(1) // nobody watches
	one, stop := h.Watch(1)
	two, stopTwo := h.Watch(2)
	defer stopTwo()
	h.Changed(1)
	h.Changed(1)
	expect(t, "the changed batch", one, true)
	expect(t, "the second change", one, false)
	expect(t, "another batch", two, false)
	h.ChangedAny()
	expect(t, "any change", one, true)
	expect(t, "any change", two, true)
	stop()
	stop() // a second call has no effect
	h.Changed(1)
	expect(t, "after stop", one, false)
	if n := h.Watchers(); n != 1 {
		t.Errorf("%d watchers, want 1", n)
	}
}

// TestRun: the next poll reports a change by another node or a delete. A failed poll is retried.
// Batches that aren't watched are not polled.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h Hub
		s := &states{news: map[storage.BatchID]storage.News{1: {ID: 1}}}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { h.Run(ctx, s); close(ended) }()
		pass := func(d time.Duration) {
			<-time.After(d)
			synctest.Wait()
		}
		pass(time.Second)
		if s.calls != 0 {
			t.Errorf("%d polls without watchers", s.calls)
		}
		news, stop := h.Watch(1)
		defer stop()
		pass(2 * pollInterval)
		received(news) // the first poll gives a spurious hint
		pass(2 * pollInterval)
		expect(t, "without a change", news, false)
		s.change(func() { s.news[1] = storage.News{ID: 1, Completed: 1} })
		pass(2 * pollInterval)
		expect(t, "after a change", news, true)
		s.change(func() { s.err = errors.New("the database is gone") })
		pass(2 * time.Second)
		expect(t, "during a failure", news, false)
		s.change(func() { s.err = nil; delete(s.news, 1) })
		pass(2 * time.Second)
		expect(t, "after a delete", news, true)
		cancel()
		<-ended
		if _, open := received(news); open {
			t.Error("the channel is open after the end")
		}
		late, stopLate := h.Watch(1)
		stopLate()
		if _, open := received(late); open {
			t.Error("a later channel is open")
		}
	})
}
