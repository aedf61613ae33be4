// Package budget shares a fixed amount of memory among its consumers.
//
// A consumer creates a Share, grows it before it allocates memory, and releases it when it no longer
// uses the memory. The package guarantees:
//
//   - All shares together never hold more than the total.
//   - The shares of one owner never hold more than remains free for others. So one owner gets at most
//     half, two owners get a third each, and the first bytes of the next owner are free.
//   - While memory is scarce, the next bytes go to the waiter whose owner holds the fewest, and among
//     one owner's waiters to the one that has waited longest. An owner with a thousand consumers delays
//     another owner's consumer no more than an owner with a few.
//   - Consumers that hold a part and wait for the rest never deadlock. A part of the total, the
//     reserve, belongs to one favored share at a time: the one that had waited longest when the reserve
//     became free. The favored share grows without waiting until it is released. So every Grow returns,
//     as long as each share is eventually released after its last Grow.
//   - No share grows beyond the reserve, so the reserve must cover the needs of any one consumer. Grow
//     returns ErrTooLarge for more instead of waiting forever.
//
// A Budget is safe for concurrent use; a Share is not. Nothing runs in the background. An owner whose
// shares hold nothing and don't wait takes no memory.
package budget

import (
	"container/heap"
	"container/list"
	"context"
	"errors"
	"sync"
)

// ErrTooLarge is returned when a share would grow beyond the reserve.
var ErrTooLarge = errors.New("one consumer must not hold so much memory")

// Budget is an amount of memory to share. Use New to create it.
type Budget struct {
	reserve int64 // bytes for the favored share
	common  int64 // bytes for all other shares together

	mu       sync.Mutex
	shared   int64 // bytes of common that are held
	favored  *Share
	owners   map[string]*owner // owners that hold bytes or wait
	waiting  list.List         // of *waiter, in order of arrival
	line     line              // the waiting owners, the next one first
	arrivals uint64            // how many waiters have come so far
}

// Share is the memory that one consumer holds. Use Budget.Share to create it.
type Share struct {
	budget *Budget
	name   string // the owner's name
	held   int64
}

// owner is the state of one owner. Guarded by Budget.mu, as is waiter.
type owner struct {
	name    string
	held    int64
	waiters list.List // of *waiter, in order of arrival
	index   int       // the owner's index in the line; -1: not waiting
}

type waiter struct {
	share   *Share
	owner   *owner
	bytes   int64
	nth     uint64        // its number in order of arrival
	granted chan struct{} // closed when the share has grown
	all     *list.Element // the element in Budget.waiting
	own     *list.Element // the element in owner.waiters
}

// Usage says how much of a budget is in use.
type Usage struct {
	Total   int64 // in bytes
	Held    int64 // bytes that shares hold
	Waiting int   // the number of shares that wait to grow
}

// New returns a budget of total bytes, of which reserve bytes are for the favored share. If reserve is
// larger than total, it is reduced to total. Then the shares take turns at the whole budget.
func New(total, reserve int64) *Budget {
	reserve = min(reserve, total)
	return &Budget{reserve: reserve, common: total - reserve, owners: map[string]*owner{}}
}

// Most returns the maximum number of bytes that one share may hold.
func (b *Budget) Most() int64 { return b.reserve }

// Usage returns how much of the budget is in use.
func (b *Budget) Usage() Usage {
	b.mu.Lock()
	defer b.mu.Unlock()
	u := Usage{Total: b.common + b.reserve, Held: b.shared, Waiting: b.waiting.Len()}
	if b.favored != nil {
		u.Held += b.favored.held
	}
	return u
}

// Share returns a new share that holds nothing. The shares of one owner first compete with each other,
// and only then with those of other owners.
func (b *Budget) Share(owner string) *Share { return &Share{budget: b, name: owner} }

// Held returns how many bytes the share holds.
func (s *Share) Held() int64 { return s.held }

// TryGrow adds n bytes to the share if they are free and no owner that holds as little is waiting. It
// reports whether it did.
func (s *Share) TryGrow(n int64) bool {
	s.budget.mu.Lock()
	defer s.budget.mu.Unlock()
	return s.fits(n) && s.tryGrow(n)
}

// Grow adds n bytes to the share, and waits until they are free. If it returns ErrTooLarge or the error
// of ctx, the share has not changed.
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
	case <-w.granted: // granted at the same moment
		return nil
	default:
	}
	b.unwait(w)
	b.distribute() // w may have been the first in line
	return ctx.Err()
}

// Shrink returns n bytes to the budget, or all bytes of the share if it holds fewer.
func (s *Share) Shrink(n int64) {
	if n = min(n, s.held); n <= 0 {
		return
	}
	s.budget.mu.Lock()
	defer s.budget.mu.Unlock()
	s.budget.adjust(s, -n)
	s.budget.distribute()
}

// Keep returns the bytes that the share holds beyond n. A nil share holds nothing.
func (s *Share) Keep(n int64) {
	if s != nil {
		s.Shrink(s.held - n)
	}
}

// Release returns all bytes of the share. The share may grow again. A nil share holds nothing.
func (s *Share) Release() { s.Keep(0) }

// fits reports whether one share may hold n more bytes.
func (s *Share) fits(n int64) bool { return n <= s.budget.reserve-s.held }

// tryGrow grows the share if it need not wait. mu is held.
func (s *Share) tryGrow(n int64) bool {
	b := s.budget
	if n > 0 && b.favored != s {
		o := b.owners[s.name]
		behind := b.waiting.Len() > 0 && b.line[0].held <= o.bytes()
		if behind || !b.hasRoom(o, n) {
			return false
		}
	}
	b.adjust(s, max(n, 0))
	b.distribute() // the order of the line changes if the favored share has grown
	return true
}

// adjust adds n bytes, which may be negative, to a share. A favored share that no longer holds anything
// stops being favored. mu is held.
func (b *Budget) adjust(s *Share, n int64) {
	s.held += n
	if b.favored != s {
		b.shared += n
	} else if s.held == 0 {
		b.favored = nil
	}
	o := b.owner(s.name)
	o.held += n
	b.settle(o)
}

// hasRoom reports whether an owner may hold n more of the common bytes. mu is held.
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

// owner returns the state of an owner, which settle removes when it is no longer needed. mu is held.
func (b *Budget) owner(name string) *owner {
	o := b.owners[name]
	if o == nil {
		o = &owner{name: name, index: -1}
		b.owners[name] = o
	}
	return o
}

// settle updates the line after an owner's bytes or waiters have changed. mu is held.
func (b *Budget) settle(o *owner) {
	waits := o.waiters.Len() > 0
	switch {
	case waits && o.index < 0:
		heap.Push(&b.line, o)
	case waits:
		heap.Fix(&b.line, o.index)
	case o.index >= 0:
		heap.Remove(&b.line, o.index)
	}
	if !waits && o.held == 0 {
		delete(b.owners, o.name)
	}
}

// wait adds a waiter. mu is held.
func (b *Budget) wait(s *Share, n int64) *waiter {
	b.arrivals++
	w := &waiter{share: s, owner: b.owner(s.name), bytes: n, nth: b.arrivals, granted: make(chan struct{})}
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

// grant grows a waiter's share. mu is held.
func (b *Budget) grant(w *waiter) {
	b.unwait(w)
	b.adjust(w.share, w.bytes)
	close(w.granted)
}

// distribute grants free bytes to the waiters. mu is held.
func (b *Budget) distribute() {
	for b.waiting.Len() > 0 {
		next := b.line[0].first()
		switch {
		case b.hasRoom(b.line[0], next.bytes):
			b.grant(next)
		case b.favored == nil:
			oldest := b.waiting.Front().Value.(*waiter)
			b.favored = oldest.share
			b.shared -= oldest.share.held
			b.grant(oldest)
		default:
			return
		}
	}
}

// first returns the owner's waiter that has waited longest.
func (o *owner) first() *waiter { return o.waiters.Front().Value.(*waiter) }

// line is a heap of the waiting owners. The one that holds the fewest bytes comes first. Among
// equals, the one whose first waiter has waited longest comes first.
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
	l[i].index, l[j].index = i, j
}

func (l *line) Push(x any) {
	o := x.(*owner)
	o.index = len(*l)
	*l = append(*l, o)
}

func (l *line) Pop() any {
	last := len(*l) - 1
	o := (*l)[last]
	(*l)[last], *l = nil, (*l)[:last]
	o.index = -1
	return o
}
