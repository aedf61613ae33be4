package api

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sheafapi/sheaf/internal/storage"
)

const (
	// pollInterval is how often storage is asked for news of batches that other nodes run.
	pollInterval = 100 * time.Millisecond
	// pollShare is which part of the time asking may take: with many watchers news come later.
	pollShare = 10
	// pollPage is of how many batches storage is asked at once.
	pollPage = 1000
)

// hub tells those who watch a batch that something has happened to it.
type hub struct {
	watched atomic.Int64 // batches; so that nobody waits for mu where nobody watches

	mu      sync.Mutex
	batches map[storage.BatchID]*topic
	closed  bool
}

// topic is a batch that is watched.
type topic struct {
	watchers map[chan struct{}]struct{}
	last     storage.News // as storage told
}

// watch returns a channel that is told of news of a batch until stop is called, and that
// is closed when the service shuts down.
func (h *hub) watch(id storage.BatchID) (news chan struct{}, stop func()) {
	news = make(chan struct{}, 1)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		close(news)
		return news, func() {}
	}
	t := h.batches[id]
	if t == nil {
		t = &topic{watchers: map[chan struct{}]struct{}{}}
		if h.batches == nil {
			h.batches = map[storage.BatchID]*topic{}
		}
		h.batches[id] = t
		h.watched.Add(1)
	}
	t.watchers[news] = struct{}{}
	return news, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if delete(t.watchers, news); len(t.watchers) == 0 && h.batches[id] == t {
			delete(h.batches, id)
			h.watched.Add(-1)
		}
	}
}

// changed tells that something was recorded of a batch.
func (h *hub) changed(id storage.BatchID) {
	if h.watched.Load() == 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.batches[id].tell()
}

// stirred tells that something may have happened to any batch.
func (h *hub) stirred() {
	if h.watched.Load() == 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, t := range h.batches {
		t.tell()
	}
}

func (t *topic) tell() {
	if t == nil {
		return
	}
	for news := range t.watchers {
		select {
		case news <- struct{}{}:
		default:
		}
	}
}

// close tells everybody that the service shuts down.
func (h *hub) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for _, t := range h.batches {
		for news := range t.watchers {
			close(news)
		}
	}
	h.batches = nil
	h.watched.Store(0)
}

// ids returns the batches that are watched.
func (h *hub) ids() []storage.BatchID {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := make([]storage.BatchID, 0, len(h.batches))
	for id := range h.batches {
		out = append(out, id)
	}
	return out
}

// learn compares what storage tells of these batches with what it told before. One that it
// leaves out is gone.
func (h *hub) learn(ids []storage.BatchID, news []storage.News) {
	h.mu.Lock()
	defer h.mu.Unlock()
	known := make(map[storage.BatchID]storage.News, len(news))
	for _, n := range news {
		known[n.ID] = n
	}
	for _, id := range ids {
		if t := h.batches[id]; t != nil && t.last != known[id] {
			t.last = known[id]
			t.tell()
		}
	}
}

// Changed tells that something was recorded of a batch, so that those who watch it are
// told. It does not wait.
func (s *API) Changed(id storage.BatchID) { s.hub.changed(id) }

// Run finds out what happens to batches that other nodes run and somebody watches here,
// until ctx ends; then whoever waits for news is answered with what there is.
func (s *API) Run(ctx context.Context) {
	defer s.hub.close()
	wait := pollInterval
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		wait = pollInterval
		if s.Alone || s.hub.watched.Load() == 0 {
			continue
		}
		began := time.Now()
		ids := s.hub.ids()
		for len(ids) > 0 {
			page := ids[:min(len(ids), pollPage)]
			ids = ids[len(page):]
			news, err := s.Storage.News(ctx, page)
			if err != nil {
				wait = time.Second // other calls tell of it
				break
			}
			s.hub.learn(page, news)
		}
		wait = max(wait, pollShare*time.Since(began))
	}
}
