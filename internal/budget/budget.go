// Package budget shares a fixed number of bytes among those that need memory.
//
// A consumer opens a Share, grows it before it allocates, and releases it when the memory is
// free again. What the package guarantees:
//
//   - The shares never hold more than the total together.
//   - The shares of one owner never hold more than remains free for others. So one owner gets
//     half, two get a third each, and the next owner's first bytes are free.
//   - While bytes are scarce, the next ones go to the waiter whose owner holds the fewest; of
//     one owner's waiters to the one that has waited longest. An owner with a thousand
//     consumers delays another owner's consumer no more than one with a few.
//   - Consumers that each hold a part and wait for the rest never block each other for good.
//     A part of the total, the reserve, belongs to one favoured share at a time: the one that
//     had waited longest when the reserve became free. It grows without waiting until it is
//     released. So every Grow ends, provided that each share is released some time after its
//     last Grow.
//   - No share grows beyond the reserve, so the reserve must be the most that one consumer
//     can need. Grow refuses more with ErrTooLarge instead of waiting forever.
//
// A Budget may be used by many goroutines; a Share by one at a time. Nothing runs in the
// background, and nothing is kept of an owner that holds nothing and waits for nothing.
package budget

import (
	"container/heap"
	"container/list"
	"context"
	"errors"
	"sync"
)

// ErrTooLarge is returned when a share would grow beyond the reserve.
var ErrTooLarge = errors.New("more memory is needed than one consumer may hold")

// Budget is a number of bytes to be shared. Make it with New.
type Budget struct {
	reserve int64 // for the favoured share
	common  int64 // for all others together

	mu       sync.Mutex
	shared   int64 // of common: held
	favoured *Share
	owners   map[string]*owner // that hold bytes or wait
	waiting  list.List         // of *waiter, in the order in which they came
	line     line              // the owners that wait, the next one first
	came     uint64            // how many waiters have come so far
}

// Share is what one consumer holds. Make it with Budget.Share.
type Share struct {
	budget *Budget
	name   string // of its owner
	held   int64
}

// owner is one owner's part of the budget. Guarded by Budget.mu, as what follows.
type owner struct {
	name    string
	held    int64
	waiters list.List // of *waiter, in the order in which they came
	place   int       // in the line; -1: waits for nothing
}

type waiter struct {
	share   *Share
	owner   *owner
	bytes   int64
	nth     uint64        // of all waiters
	granted chan struct{} // closed when the share has grown
	all     *list.Element // in Budget.waiting
	own     *list.Element // in owner.waiters
}

// Usage is how much of a budget is in use.
type Usage struct {
	Total   int64 // bytes
	Held    int64 // of these, in shares
	Waiting int   // shares that wait to grow
}

// New returns a budget of total bytes, of which reserve are kept for the favoured share. A
// reserve that is larger than the total is as large as the total: then one share after the
// other gets all of it.
func New(total, reserve int64) *Budget {
	reserve = min(reserve, total)
	return &Budget{reserve: reserve, common: total - reserve, owners: map[string]*owner{}}
}

// Most returns the most bytes that one share may hold.
func (b *Budget) Most() int64 { return b.reserve }

// Usage returns how much is in use.
func (b *Budget) Usage() Usage {
	b.mu.Lock()
	defer b.mu.Unlock()
	u := Usage{Total: b.common + b.reserve, Held: b.shared, Waiting: b.waiting.Len()}
	if b.favoured != nil {
		u.Held += b.favoured.held
	}
	return u
}

// Share returns a new share that holds nothing yet. Shares of one owner compete with each
// other before they compete with those of other owners.
func (b *Budget) Share(owner string) *Share { return &Share{budget: b, name: owner} }

// Held returns how many bytes the share holds.
func (s *Share) Held() int64 { return s.held }

// TryGrow adds n bytes to the share if they are free and no owner who holds as little is waiting.
// It reports whether it did.
func (s *Share) TryGrow(n int64) bool {
	s.budget.mu.Lock()
	defer s.budget.mu.Unlock()
	return s.fits(n) && s.tryGrow(n)
}

// Grow adds n bytes to the share. It waits until they are free, or ctx ends: then the share
// is as it was.
// Errors: ErrTooLarge, or the context's.
func (s *Share) Grow(ctx context.Context, n int64) error {
	b := s.budget
	b.mu.Lock()
	switch {
	case !s.fits(n):
		b.mu.Unlock()
		return ErrTooLarge
	case s.tryGrow(n):
		b.mu.Unlock()
		return nil
	}
	w := b.wait(s, n)
	b.distribute()
	b.mu.Unlock()
	select {
	case <-w.granted:
		return nil
	case <-ctx.Done():
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case <-w.granted: // at the same moment
		return nil
	default:
	}
	b.unwait(w)
	b.distribute() // it may have been the first in the line
	return ctx.Err()
}

// Shrink gives n bytes back, at most those that the share holds.
func (s *Share) Shrink(n int64) {
	if n = min(n, s.held); n <= 0 {
		return
	}
	s.budget.mu.Lock()
	defer s.budget.mu.Unlock()
	s.budget.take(s, -n)
	s.budget.distribute()
}

// Keep gives back what the share holds beyond n bytes.
func (s *Share) Keep(n int64) {
	if s != nil {
		s.Shrink(s.held - n)
	}
}

// Release gives everything back. The share may grow again. A nil share holds nothing.
func (s *Share) Release() { s.Keep(0) }

// fits reports whether one share may hold n bytes more.
func (s *Share) fits(n int64) bool { return n <= s.budget.reserve-s.held }

// tryGrow grows the share where it need not wait. mu is held.
func (s *Share) tryGrow(n int64) bool {
	b := s.budget
	if n > 0 && b.favoured != s {
		o := b.owners[s.name]
		behind := b.waiting.Len() > 0 && b.line[0].held <= o.bytes()
		if behind || !b.hasRoom(o, n) {
			return false
		}
	}
	b.take(s, max(n, 0))
	b.distribute() // the line has another order where the favoured share has grown
	return true
}

// take adds n bytes, which may be negative, to what a share holds. A favoured share that
// holds nothing any more is favoured no longer. mu is held.
func (b *Budget) take(s *Share, n int64) {
	s.held += n
	if b.favoured != s {
		b.shared += n
	} else if s.held == 0 {
		b.favoured = nil
	}
	o := b.owner(s.name)
	o.held += n
	b.settle(o)
}

// hasRoom reports whether an owner may take n more of the common bytes. mu is held.
func (b *Budget) hasRoom(o *owner, n int64) bool {
	free := b.common - b.shared
	return o.bytes()+n <= free
}

// bytes returns how many bytes the owner's shares hold. A nil owner holds nothing.
func (o *owner) bytes() int64 {
	if o == nil {
		return 0
	}
	return o.held
}

// owner returns an owner's entry, which settle removes again. mu is held.
func (b *Budget) owner(name string) *owner {
	o := b.owners[name]
	if o == nil {
		o = &owner{name: name, place: -1}
		b.owners[name] = o
	}
	return o
}

// settle puts an owner whose bytes or waiters have changed where it belongs. mu is held.
func (b *Budget) settle(o *owner) {
	waits := o.waiters.Len() > 0
	switch {
	case waits && o.place < 0:
		heap.Push(&b.line, o)
	case waits:
		heap.Fix(&b.line, o.place)
	case o.place >= 0:
		heap.Remove(&b.line, o.place)
	}
	if !waits && o.held == 0 {
		delete(b.owners, o.name)
	}
}

// wait adds a waiter. mu is held.
func (b *Budget) wait(s *Share, n int64) *waiter {
	b.came++
	w := &waiter{share: s, owner: b.owner(s.name), bytes: n, nth: b.came, granted: make(chan struct{})}
	w.all, w.own = b.waiting.PushBack(w), w.owner.waiters.PushBack(w)
	b.settle(w.owner)
	return w
}

// unwait removes a waiter. mu is held.
func (b *Budget) unwait(w *waiter) {
	b.waiting.Remove(w.all)
	w.owner.waiters.Remove(w.own)
	b.settle(w.owner)
}

// grant lets a waiter have what it waits for. mu is held.
func (b *Budget) grant(w *waiter) {
	b.unwait(w)
	b.take(w.share, w.bytes)
	close(w.granted)
}

// distribute grants what is free to those that wait. mu is held.
func (b *Budget) distribute() {
	for b.waiting.Len() > 0 {
		next := b.line[0].first()
		switch {
		case b.hasRoom(b.line[0], next.bytes):
			b.grant(next)
		case b.favoured == nil:
			oldest := b.waiting.Front().Value.(*waiter)
			b.favoured = oldest.share
			b.shared -= oldest.share.held
			b.grant(oldest)
		default:
			return
		}
	}
}

// first returns the waiter of an owner that has waited longest.
func (o *owner) first() *waiter { return o.waiters.Front().Value.(*waiter) }

// line is a heap of the owners that wait. The one that holds the fewest bytes comes first;
// of equals the one whose first waiter has waited longest.
type line []*owner

func (l line) Len() int { return len(l) }

func (l line) Less(i, j int) bool {
	if l[i].held != l[j].held {
		return l[i].held < l[j].held
	}
	return l[i].first().nth < l[j].first().nth
}

func (l line) Swap(i, j int) {
	l[i], l[j] = l[j], l[i]
	l[i].place, l[j].place = i, j
}

func (l *line) Push(x any) {
	o := x.(*owner)
	o.place = len(*l)
	*l = append(*l, o)
}

func (l *line) Pop() any {
	last := len(*l) - 1
	o := (*l)[last]
	(*l)[last], *l = nil, (*l)[:last]
	o.place = -1
	return o
}
