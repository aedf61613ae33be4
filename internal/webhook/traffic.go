package webhook

import (
	"sync"
	"time"

	"github.com/sheafapi/sheaf/internal/storage"
)

// Limits of the attempts that one node has in flight, so that no receiver and no store delays others.
const (
	atOnce     = 128 // in total
	perStore   = 4
	perHost    = 2
	toOperator = 16 // to --webhook-url, which the operator trusts
)

// A circuit breaker suspends a host that does not answer. Any answer closes it again, even an error:
// otherwise a caller could suspend another caller's receiver with URLs that answer 500.
const (
	tripAfter   = 3 // attempts in a row without an answer
	firstTrip   = 15 * time.Second
	longestTrip = 5 * time.Minute
	maxHosts    = 4096 // how many hosts are remembered
)

// traffic counts the attempts that a node has in flight, and tracks which receivers must not be called at
// the moment. It is safe for concurrent use.
type traffic struct {
	mu     sync.Mutex
	total  int
	stores map[string]int
	hosts  map[string]*host
	asked  map[storage.Lane]time.Time // by lane: the end of the wait that a receiver requested with Retry-After
}

// host is a receiver's host and port.
type host struct {
	inFlight int
	silent   int       // attempts in a row without an answer
	until    time.Time // when the suspension ends
}

func newTraffic() *traffic {
	return &traffic{stores: map[string]int{}, hosts: map[string]*host{}, asked: map[storage.Lane]time.Time{}}
}

// busy returns how many attempts may begin, and the lanes that they must not use.
func (t *traffic) busy(now time.Time) (free int, busy []storage.Lane) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for store, n := range t.stores {
		if n >= perStore {
			busy = append(busy, storage.Lane{Store: store})
		}
	}
	for name, h := range t.hosts {
		if h.inFlight >= h.limit(name) || now.Before(h.until) {
			busy = append(busy, storage.Lane{Host: name})
		}
	}
	for lane, until := range t.asked {
		if now.Before(until) {
			busy = append(busy, lane)
		} else {
			delete(t.asked, lane)
		}
	}
	return atOnce - t.total, busy
}

// limit returns how many attempts a host may have in flight: only one while the host doesn't answer.
func (h *host) limit(name string) int {
	switch {
	case h.silent >= tripAfter:
		return 1
	case name == operatorHost:
		return toOperator
	}
	return perHost
}

// begin counts an attempt as in flight.
func (t *traffic) begin(lane storage.Lane) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.total++
	t.stores[lane.Store]++
	h := t.hosts[lane.Host]
	if h == nil {
		t.forget()
		h = &host{}
		t.hosts[lane.Host] = h
	}
	h.inFlight++
}

// forget makes room for another host. mu is held.
func (t *traffic) forget() {
	for name, h := range t.hosts {
		if len(t.hosts) < maxHosts {
			return
		}
		if h.inFlight == 0 {
			delete(t.hosts, name)
		}
	}
}

// end counts an attempt as ended.
func (t *traffic) end(lane storage.Lane, o outcome, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.total--
	if t.stores[lane.Store]--; t.stores[lane.Store] == 0 {
		delete(t.stores, lane.Store)
	}
	h := t.hosts[lane.Host]
	h.inFlight--
	switch {
	case o.uncounted:
	case o.code != 0:
		h.silent, h.until = 0, time.Time{}
	default:
		if h.silent++; h.silent >= tripAfter {
			h.until = now.Add(min(firstTrip<<min(h.silent-tripAfter, 8), longestTrip))
		}
	}
	if o.pause > 0 && len(t.asked) < maxHosts {
		t.asked[lane] = now.Add(o.pause)
	}
	if h.inFlight == 0 && h.silent == 0 {
		delete(t.hosts, lane.Host)
	}
}
