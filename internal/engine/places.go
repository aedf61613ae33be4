package engine

import "sync"

// leastOfStore is the number of extra places that every store may hold, if that many exist.
const leastOfStore = 128

// extras are the places for the second and further attempts of parallel batches. They are a part of the
// outbound places, so that the first attempt of every batch finds one. Batches share them evenly: a
// batch that has its even part takes no more while one with less waits. The batches of one store share
// a quarter, because a store may have any number of batches if each token is an owner.
type extras struct {
	mu     sync.Mutex
	all    int
	most   int // of one store
	free   int
	shares int // running parallel batches
	poor   poor
	stores map[string]*storeExtras // stores that have shares
}

// storeExtras is one store's part of the extras.
type storeExtras struct {
	held   int
	shares int
	poor   poor // refused because the store holds its limit
}

// share is one batch's part of the extras.
type share struct {
	store *storeExtras
	name  string // of the store
	held  int
	again chan struct{} // a place may be free now

	refused bool // the run's last attempt to take a place; only the run uses it
}

// poor are batches that were refused a place and hold less than their even part.
type poor map[*share]struct{}

func newExtras(n int) *extras {
	return &extras{all: n, most: max(min(n, leastOfStore), n/4), free: n, poor: poor{}, stores: map[string]*storeExtras{}}
}

// join adds a batch of a store to those that share the extras, until leave.
func (x *extras) join(store string) *share {
	x.mu.Lock()
	defer x.mu.Unlock()
	st := x.stores[store]
	if st == nil {
		st = &storeExtras{poor: poor{}}
		x.stores[store] = st
	}
	x.shares++
	st.shares++
	return &share{store: st, name: store, again: make(chan struct{}, 1)}
}

// leave returns the places that the batch still has.
func (x *extras) leave(s *share) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.put(s, s.held)
	x.enrich(s)
	x.shares--
	if s.store.shares--; s.store.shares == 0 {
		delete(x.stores, s.name)
	}
	x.wake(s.store)
}

// take takes one place. After a refusal, share.again signals that a place may be free.
func (x *extras) take(s *share) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	st := s.store
	even := max(1, min(x.all/x.shares, x.most/st.shares))
	switch full := st.held >= x.most; {
	case s.held < even && full:
		st.poor[s] = struct{}{}
		return false
	case s.held < even && x.free == 0:
		x.poor[s] = struct{}{}
		return false
	case s.held >= even && (full || x.free == 0 || len(x.poor)+len(st.poor) > 0):
		x.wake(st)
		return false
	}
	x.put(s, -1)
	x.enrich(s)
	return true
}

// give returns up to n places.
func (x *extras) give(s *share, n int) {
	if n = min(n, s.held); n == 0 {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.put(s, n)
	x.wake(s.store)
}

// content reports that the batch needs no more places than it has.
func (x *extras) content(s *share) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.enrich(s)
	x.wake(s.store)
}

// put returns n places of a batch, or takes -n. mu is held.
func (x *extras) put(s *share, n int) {
	s.held -= n
	s.store.held -= n
	x.free += n
}

// enrich removes a batch from the poor. mu is held.
func (x *extras) enrich(s *share) {
	delete(x.poor, s)
	delete(s.store.poor, s)
}

// wake signals one of the poor, and one of the store's poor, that a place is free. mu is held.
func (x *extras) wake(st *storeExtras) {
	if x.free == 0 {
		return
	}
	x.poor.wake()
	if st.held < x.most {
		st.poor.wake()
	}
}

// wake signals one of them.
func (p poor) wake() {
	for s := range p {
		select {
		case s.again <- struct{}{}:
		default:
		}
		return
	}
}
