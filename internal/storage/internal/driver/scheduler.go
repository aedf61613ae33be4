package driver

import (
	"context"
	"slices"
	"sync"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// Class is the priority of a call. Results has the highest.
type Class int

// The classes of calls.
const (
	Results Class = iota // results of running batches, and calls that keep the node registered
	Claims               // claims, and the service's other work
	Creates              // callers' changes
	Reads                // callers' reads
	classes
)

const (
	// ownerLine and storeLine limit how many calls of one owner and of one store may wait in a
	// class.
	ownerLine = 256
	storeLine = 1024
	// patience is how many times in a row a class whose call could run is passed over. A busy class
	// thus delays a lower one but never starves it.
	patience = 8
)

// Slots says, for each class, how many slots this class and all lower ones may hold together. The
// other slots are reserved for higher classes.
type Slots [classes]int

// Scheduler shares slots, such as connections, among calls. It chooses by class, within a class by
// store in turn, and within a store by owner in turn. In a class of callers' calls with more than
// one slot, no store holds all of them. It is safe for concurrent use.
type Scheduler struct {
	slots Slots

	mu      sync.Mutex
	used    [classes]int
	passed  [classes]int // how many times in a row another class was chosen
	classes [classes]class
}

// class holds the running and waiting calls of one class.
type class struct {
	perStore int // maximum slots of one store; 0: no limit
	stores   map[string]*store
	line     []*store // stores with waiting calls, the next one first
	free     []*store // to be reused
}

// store holds the running and waiting calls of one store. It exists while there are any.
type store struct {
	name             string
	running, waiting int
	line             []*owner // owners with waiting calls, the next one first
}

type owner struct {
	id    batch.Owner
	calls []chan struct{} // a call is granted its slot by closing its channel
}

// NewScheduler returns a scheduler for these slots.
func NewScheduler(slots Slots) *Scheduler {
	s := &Scheduler{slots: slots}
	for i := range s.classes {
		c := &s.classes[i]
		c.stores = map[string]*store{}
		if Class(i) >= Creates {
			c.perStore = max(1, slots[i]-max(1, slots[i]/4))
		}
	}
	return s
}

// Acquire waits for a slot. The caller must return it with Release. Errors: the cause of ctx's end,
// and storage.ErrTooManyCalls.
func (s *Scheduler) Acquire(ctx context.Context, in Class, by storage.Caller) error {
	s.mu.Lock()
	c := &s.classes[in]
	st := c.store(by.Store)
	if st.waiting == 0 && c.mayRun(st) && s.hasSlot(in) {
		s.take(in, st)
		s.mu.Unlock()
		return nil
	}
	if in >= Creates && by != (storage.Caller{}) && (st.waiting >= storeLine || st.waitingOf(by.Owner) >= ownerLine) {
		s.mu.Unlock()
		return storage.ErrTooManyCalls
	}
	granted := make(chan struct{})
	c.enqueue(st, by.Owner, granted)
	s.mu.Unlock()
	select {
	case <-granted:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-granted: // granted before withdraw could remove the call
		s.release(in, st)
	default:
		c.withdraw(st, by.Owner, granted)
	}
	return context.Cause(ctx)
}

// Release returns a slot.
func (s *Scheduler) Release(in Class, by storage.Caller) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.release(in, s.classes[in].store(by.Store))
}

// Waiting returns the number of waiting calls.
func (s *Scheduler) Waiting() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.classes {
		for _, st := range s.classes[i].line {
			n += st.waiting
		}
	}
	return n
}

func (s *Scheduler) release(in Class, st *store) {
	s.used[in]--
	st.running--
	s.classes[in].forget(st)
	s.dispatch()
}

// hasSlot reports whether a call of this class can run without taking a slot that is reserved for a
// higher one.
func (s *Scheduler) hasSlot(in Class) bool {
	held := 0
	for c := classes - 1; c >= 0; c-- {
		if held += s.used[c]; c <= in && held >= s.slots[c] {
			return false
		}
	}
	return true
}

func (s *Scheduler) take(in Class, st *store) {
	s.used[in]++
	st.running++
}

// dispatch grants the free slots.
func (s *Scheduler) dispatch() {
	for {
		best := Class(-1)
		for in := range classes {
			if !s.hasSlot(in) || s.classes[in].next() < 0 {
				continue
			}
			if best < 0 || s.passed[in] >= patience {
				best = in
			}
		}
		if best < 0 {
			return
		}
		for in := range classes {
			if in != best && s.hasSlot(in) && s.classes[in].next() >= 0 {
				s.passed[in]++
			}
		}
		s.passed[best] = 0
		st, granted := s.classes[best].dequeue()
		s.take(best, st)
		close(granted)
	}
}

// store returns the entry of a store. It creates the entry if necessary.
func (c *class) store(name string) *store {
	st := c.stores[name]
	if st != nil {
		return st
	}
	if n := len(c.free); n > 0 {
		st, c.free = c.free[n-1], c.free[:n-1]
		st.name = name
	} else {
		st = &store{name: name}
	}
	c.stores[name] = st
	return st
}

// forget drops a store that has no running or waiting calls.
func (c *class) forget(st *store) {
	if st.running > 0 || st.waiting > 0 {
		return
	}
	delete(c.stores, st.name)
	if len(c.free) < ownerLine {
		c.free = append(c.free, st)
	}
}

func (c *class) mayRun(st *store) bool { return c.perStore == 0 || st.running < c.perStore }

// next returns the position in the line of the store whose turn it is; -1: no store may run a call.
func (c *class) next() int {
	return slices.IndexFunc(c.line, c.mayRun)
}

func (c *class) enqueue(st *store, id batch.Owner, granted chan struct{}) {
	if st.waiting++; st.waiting == 1 {
		c.line = append(c.line, st)
	}
	i := st.find(id)
	if i < 0 {
		i = len(st.line)
		st.line = append(st.line, &owner{id: id})
	}
	st.line[i].calls = append(st.line[i].calls, granted)
}

// dequeue removes the next call from the line. There must be one.
func (c *class) dequeue() (*store, chan struct{}) {
	i := c.next()
	st := c.line[i]
	c.line = slices.Delete(c.line, i, i+1)
	o := st.line[0]
	st.line = slices.Delete(st.line, 0, 1)
	granted := o.calls[0]
	if o.calls = o.calls[1:]; len(o.calls) > 0 {
		st.line = append(st.line, o)
	}
	if st.waiting--; st.waiting > 0 {
		c.line = append(c.line, st)
	}
	return st, granted
}

// withdraw removes a call whose caller has given up.
func (c *class) withdraw(st *store, id batch.Owner, granted chan struct{}) {
	i := st.find(id)
	o := st.line[i]
	o.calls = slices.DeleteFunc(o.calls, func(g chan struct{}) bool { return g == granted })
	if len(o.calls) == 0 {
		st.line = slices.Delete(st.line, i, i+1)
	}
	if st.waiting--; st.waiting == 0 {
		c.line = slices.DeleteFunc(c.line, func(other *store) bool { return other == st })
		c.forget(st)
	}
}

// find returns an owner's position in the line; -1: the owner isn't in it.
func (st *store) find(id batch.Owner) int {
	return slices.IndexFunc(st.line, func(o *owner) bool { return o.id == id })
}

func (st *store) waitingOf(id batch.Owner) int {
	if i := st.find(id); i >= 0 {
		return len(st.line[i].calls)
	}
	return 0
}
