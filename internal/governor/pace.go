package governor

import (
	"context"
	"slices"
	"time"

	"github.com/sheafapi/sheaf/internal/storage"
)

const (
	// early is how long before its moment a slot may be used: timers are not exact.
	early = time.Millisecond
	// late is how long after its moment a slot counts. What comes later has to fit in with
	// what was sent since.
	late = 100 * time.Millisecond
	// piece is how much of the common schedule is taken at a time.
	piece = 250 * time.Millisecond
	// refillPause is when storage is asked again that has failed.
	refillPause = 250 * time.Millisecond
)

// pace is a schedule of slots, each for one request. Guarded by Credential.mu.
type pace struct {
	lesson                                // what the upstream has taught
	common  slots                         // what is left of the last piece of all nodes' schedule
	next    time.Time                     // the next slot of the learned schedule
	ahead   map[storage.QueueID]time.Time // the slot that a queue holds
	free    []time.Time                   // slots that were given up, earliest first
	arrival time.Time                     // when the next request would be on time, by what was sent (GCRA, ITU-T I.371)
}

// slots are moments at even distances.
type slots struct {
	first time.Time
	step  time.Duration
	left  int
}

// pop takes the first slot that is not before t.
func (s *slots) pop(t time.Time) (time.Time, bool) {
	if behind := t.Sub(s.first); behind > 0 && s.left > 0 {
		n := min(s.left, int((behind+s.step-1)/s.step))
		s.first, s.left = s.first.Add(time.Duration(n)*s.step), s.left-n
	}
	if s.left == 0 {
		return time.Time{}, false
	}
	first := s.first
	s.first, s.left = first.Add(s.step), s.left-1
	return first, true
}

// paced reports whether requests have to wait for slots.
func (c *Credential) paced(now time.Time) bool { return c.governor.rate.N > 0 || c.learned(now) }

// slot returns the slot that the queue holds, if it still counts.
func (c *Credential) slot(q storage.QueueID) (time.Time, bool) {
	t, ok := c.ahead[q]
	return t, ok && !t.Before(c.hold.until(q))
}

// starved reports whether storage has to be asked before the queue can get a slot.
func (c *Credential) starved(q storage.QueueID, now time.Time) bool {
	if c.governor.rate.N == 0 || now.Before(c.hold.until(q)) {
		return false
	}
	if _, ok := c.slot(q); ok {
		return false
	}
	least := now.Add(-late)
	if held := c.hold.until(q); held.After(least) {
		least = held
	}
	if n := len(c.free); n > 0 && !c.free[n-1].Before(least) {
		return false
	}
	s := c.common
	_, ok := s.pop(least)
	return !ok
}

// due returns when the queue may send its next request; zero: now. The queue holds a slot
// from then on.
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
	case !ok && now.Before(held) && (c.governor.rate.N > 0 || held.Sub(now) > firstHold):
		return held // the schedule goes on meanwhile: no slot of it is wasted on who waits
	case !ok:
		if t, ok = c.take(now, held); !ok {
			return now.Add(5 * early)
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

// take takes the next slot of the schedule. It reports false if storage has to be asked.
func (c *Credential) take(now, held time.Time) (time.Time, bool) {
	least := now.Add(-late)
	if held.After(least) {
		least = held
	}
	for len(c.free) > 0 {
		t := c.free[0]
		c.free = c.free[1:]
		if !t.Before(least) {
			return t, true
		}
	}
	t := least
	if c.governor.rate.N > 0 {
		var ok bool
		if t, ok = c.common.pop(least); !ok {
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

// spend uses the queue's slot.
func (c *Credential) spend(q storage.QueueID, now time.Time) {
	delete(c.ahead, q)
	c.hold.spend(now)
	c.begin(now, c.busy(now), c.inflight == 1 && len(c.ahead) == 0)
	if !c.paced(now) {
		return
	}
	if t := now.Add(-late); c.arrival.Before(t) {
		c.arrival = t
	}
	step := c.interval(now)
	if r := c.governor.rate; r.N > 0 {
		step = max(step, r.interval())
	}
	c.arrival = c.arrival.Add(step)
}

// unspend gives a slot back to its queue, which may use it at once.
func (c *Credential) unspend(q storage.QueueID, now time.Time) {
	if _, ok := c.ahead[q]; !ok && c.paced(now) && c.ahead != nil {
		c.ahead[q] = now
	}
}

// giveUp gives the slot that the queue holds to whoever asks next.
func (c *Credential) giveUp(q storage.QueueID, now time.Time) {
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

// refill takes a piece of the schedule that all nodes share, unless somebody else has done
// so meanwhile.
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
	step := c.governor.rate.interval()
	n := max(1, int(piece/max(step, 1)))
	// Rounded up: storage counts milliseconds.
	span := (time.Duration(n)*step + time.Millisecond - 1).Truncate(time.Millisecond)
	first, err := c.governor.shared.Reserve(ctx, c.key, span)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	c.common = slots{first: now.Add(first.Sub(now)), step: span / time.Duration(n), left: n}
	return nil
}
