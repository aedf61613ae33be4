// Package watch wakes the calls that wait for changes of a batch.
//
// The node that records something calls Changed. To learn what other nodes record, the hub polls
// storage ten times a second for all batches that are watched here. A wake-up is a hint: the
// watcher then reads the batch itself.
package watch

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sheafapi/sheaf/internal/storage"
)

const (
	// pollInterval is how often storage is polled for changes of batches that other nodes run.
	pollInterval = 100 * time.Millisecond
	// pollShare limits polling to about 1/pollShare of the time. With many watchers, changes are
	// therefore noticed later.
	pollShare = 10
	// pollPage is the number of batches in one query.
	pollPage = 1000
)

// Storage finds news of batches.
type Storage interface {
	// News returns the state of the given batches. It leaves out those that no longer exist.
	News(ctx context.Context, ids []storage.BatchID) ([]storage.News, error)
}

// Hub connects the watchers of a batch with the code that changes it. The zero Hub is ready for
// use.
type Hub struct {
	watched atomic.Int64 // batches; lets Changed return without mu if nobody watches

	mu      sync.Mutex
	batches map[storage.BatchID]*topic
	closed  bool
}

// topic is a batch that is watched.
type topic struct {
	watchers map[chan struct{}]struct{}
	last     storage.News // from the last poll
}

// Watch returns a channel that receives a value after each change of the batch, until stop is
// called. Several changes may be combined into one value. The channel is closed when the service
// shuts down.
func (h *Hub) Watch(id storage.BatchID) (news <-chan struct{}, stop func()) {
	ch := make(chan struct{}, 1)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		close(ch)
		return ch, func() {}
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
	t.watchers[ch] = struct{}{}
	return ch, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if delete(t.watchers, ch); len(t.watchers) == 0 && h.batches[id] == t {
			delete(h.batches, id)
			h.watched.Add(-1)
		}
	}
}

// Watchers returns the number of open channels.
func (h *Hub) Watchers() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for _, t := range h.batches {
		n += len(t.watchers)
	}
	return n
}

// Changed wakes those who watch a batch. It doesn't block.
func (h *Hub) Changed(id storage.BatchID) {
	if h.watched.Load() == 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if t := h.batches[id]; t != nil {
		t.wake()
	}
}

// ChangedAny wakes all watchers, because any batch may have changed. It doesn't block.
func (h *Hub) ChangedAny() {
	if h.watched.Load() == 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, t := range h.batches {
		t.wake()
	}
}

func (t *topic) wake() {
	for news := range t.watchers {
		select {
		case news <- struct{}{}:
		default:
		}
	}
}

// Run polls storage for batches that other nodes run, until ctx ends. Then it closes all channels.
// A nil s means that this node is the only one; Run then only waits until ctx ends.
func (h *Hub) Run(ctx context.Context, s Storage) {
	defer h.close()
	wait := pollInterval
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		wait = pollInterval
		if s == nil || h.watched.Load() == 0 {
			continue
		}
		began := time.Now()
		ids := h.ids()
		for len(ids) > 0 {
			page := ids[:min(len(ids), pollPage)]
			ids = ids[len(page):]
			news, err := s.News(ctx, page)
			if err != nil {
				wait = time.Second // other calls report it
				break
			}
			h.compare(page, news)
		}
		wait = max(wait, pollShare*time.Since(began))
	}
}

// ids returns the batches that are watched.
func (h *Hub) ids() []storage.BatchID {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := make([]storage.BatchID, 0, len(h.batches))
	for id := range h.batches {
		out = append(out, id)
	}
	return out
}

// compare wakes the watchers of each batch whose state differs from that of the last poll. A batch
// that news leaves out no longer exists.
func (h *Hub) compare(ids []storage.BatchID, news []storage.News) {
	h.mu.Lock()
	defer h.mu.Unlock()
	known := make(map[storage.BatchID]storage.News, len(news))
	for _, n := range news {
		known[n.ID] = n
	}
	for _, id := range ids {
		if t := h.batches[id]; t != nil && t.last != known[id] {
			t.last = known[id]
			t.wake()
		}
	}
}

// close closes the channels of all watchers.
func (h *Hub) close() {
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
