package governor

import (
	"context"
	"slices"
	"time"

	"github.com/sheafapi/sheaf/internal/storage"
)

const (
	// early is how long before its time a slot may be used, because timers are not exact.
	early = time.Millisecond
	// late is how long a slot stays valid after its time. After that, the request must also conform to
	// the pace of the requests that were sent in the meantime.
	late = 100 * time.Millisecond
	// piece is how much of the shared schedule a node reserves at a time.
	piece = 250 * time.Millisecond
	// slotRetry is how long a queue waits before it tries again after another queue took its slot.
	slotRetry = 5 * time.Millisecond
	// refillPause is how long a queue waits after storage could not reserve slots.
	refillPause = 250 * time.Millisecond
)

// pace is a schedule of slots. Guarded by Credential.mu.
type pace struct {
	learnedPace
	common  slots                         // the unused rest of the last piece of the shared schedule
	next    time.Time                     // the next slot of the learned schedule
	ahead   map[storage.QueueID]time.Time // the slot that each queue holds
	free    []time.Time                   // slots that were given up, earliest first
	arrival time.Time                     // the earliest time at which the next request conforms to the pace (GCRA, ITU-T I.371)
}

// slots are evenly spaced times.
type slots struct {
	first    time.Time
	interval time.Duration
	left     int
}

// pop removes and returns the first slot that is not before t.
func (s *slots) pop(t time.Time) (time.Time, bool) {
	if behind := t.Sub(s.first); behind > 0 && s.left > 0 {
		n := min(s.left, int((behind+s.interval-1)/s.interval))
		s.first, s.left = s.first.Add(time.Duration(n)*s.interval), s.left-n
	}
	if s.left == 0 {
		return time.Time{}, false
	}
	first := s.first
	s.first, s.left = first.Add(s.interval), s.left-1
	return first, true
}

// paced reports whether requests need slots.
func (c *Credential) paced(now time.Time) bool { return c.rate.N > 0 || c.learned(now) }

// slot returns the slot that the queue holds, if it is still valid.
func (c *Credential) slot(q storage.QueueID) (time.Time, bool) {
	t, ok := c.ahead[q]
	return t, ok && !t.Before(c.hold.until(q))
}

// starved reports whether the queue can get a slot only after storage has reserved more slots.
func (c *Credential) starved(q storage.QueueID, now time.Time) bool {
	if c.rate.N == 0 || now.Before(c.hold.until(q)) {
		return false
	}
	if _, ok := c.slot(q); ok {
		return false
	}
	earliest := now.Add(-late)
	if held := c.hold.until(q); held.After(earliest) {
		earliest = held
	}
	if n := len(c.free); n > 0 && !c.free[n-1].Before(earliest) {
		return false
	}
	s := c.common
	_, ok := s.pop(earliest)
	return !ok
}

// due returns when the queue may send its next request; zero: now. The queue then holds that slot.
func (c *Credential) due(q storage.QueueID, now time.Time) time.Time {
	held := c.hold.until(q)
	if !c.paced(now) {
		c.ahead, c.free = nil, nil
		if now.Before(held) {
			return held
		}
		return time.Time{}
	}
	t, ok := c.slot(q)
	switch {
	case !ok && now.Before(held) && (c.rate.N > 0 || held.Sub(now) > firstHold):
		return held // don't waste a slot on a queue that must wait anyway
	case !ok:
		if t, ok = c.nextSlot(now, held); !ok {
			return now.Add(slotRetry)
		}
	case now.Sub(t) > late && c.arrival.After(now):
		t = c.arrival
	}
	if t.Sub(now) <= early && !now.Before(held) {
		t = now
	}
	if c.ahead == nil {
		c.ahead = map[storage.QueueID]time.Time{}
	}
	c.ahead[q] = t
	if t.After(now) {
		return t
	}
	return time.Time{}
}

// nextSlot removes and returns the next slot of the schedule. It returns false if storage must reserve
// more slots first.
func (c *Credential) nextSlot(now, held time.Time) (time.Time, bool) {
	earliest := now.Add(-late)
	if held.After(earliest) {
		earliest = held
	}
	for len(c.free) > 0 {
		t := c.free[0]
		c.free = c.free[1:]
		if !t.Before(earliest) {
			return t, true
		}
	}
	t := earliest
	if c.rate.N > 0 {
		var ok bool
		if t, ok = c.common.pop(earliest); !ok {
			return t, false
		}
	}
	if c.learned(now) {
		if c.next.After(t) {
			t = c.next
		}
		c.next = t.Add(c.interval(t))
	}
	return t, true
}

// useSlot uses the queue's slot for a request that is sent now.
func (c *Credential) useSlot(q storage.QueueID, now time.Time) {
	delete(c.ahead, q)
	c.hold.sent(now)
	c.sent(now, c.busy(now), c.inflight == 1 && len(c.ahead) == 0)
	if !c.paced(now) {
		return
	}
	if t := now.Add(-late); c.arrival.Before(t) {
		c.arrival = t
	}
	interval := c.interval(now)
	if r := c.rate; r.N > 0 {
		interval = max(interval, r.interval())
	}
	c.arrival = c.arrival.Add(interval)
}

// returnSlot returns a slot to its queue, which may use it at once.
func (c *Credential) returnSlot(q storage.QueueID, now time.Time) {
	if _, ok := c.ahead[q]; !ok && c.paced(now) && c.ahead != nil {
		c.ahead[q] = now
	}
}

// dropSlot gives the queue's slot to the next queue that needs one.
func (c *Credential) dropSlot(q storage.QueueID, now time.Time) {
	t, ok := c.ahead[q]
	if !ok {
		return
	}
	delete(c.ahead, q)
	if t.After(now) {
		i, _ := slices.BinarySearchFunc(c.free, t, time.Time.Compare)
		c.free = slices.Insert(c.free, i, t)
	}
}

// refill reserves a piece of the shared schedule, unless another queue has just done so.
func (c *Credential) refill(ctx context.Context, q storage.QueueID) error {
	select {
	case c.refilling <- struct{}{}:
		defer func() { <-c.refilling }()
	case <-ctx.Done():
		return ctx.Err()
	}
	c.mu.Lock()
	needed := c.starved(q, time.Now())
	c.mu.Unlock()
	if !needed {
		return nil
	}
	interval := c.rate.interval()
	n := max(1, int(piece/max(interval, 1)))
	// Round up, because storage counts milliseconds.
	span := (time.Duration(n)*interval + time.Millisecond - 1).Truncate(time.Millisecond)
	first, err := c.governor.shared.Reserve(ctx, c.key, span)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	c.common = slots{first: now.Add(first.Sub(now)), interval: span / time.Duration(n), left: n}
	return nil
}
