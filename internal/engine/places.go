package engine

import "sync"

// leastOfStore is the number of extra places that every store may hold, if there are that many.
const leastOfStore = 128

// extras are the places for the second and further concurrent attempts of parallel batches. They are
// only a part of the outbound places, so that the first attempt of every batch finds one. Batches
// share the extras evenly: a batch that has its equal share takes no more while a batch with less is
// waiting. The batches of one store share a quarter of the extras, because a store can have any
// number of batches if each token is a separate owner.
type extras struct {
	mu     sync.Mutex
	all    int
	most   int // maximum for one store
	free   int
	shares int // running parallel batches
	poor   poor
	stores map[string]*storeExtras // stores that have running parallel batches
}

// storeExtras is one store's share of the extras.
type storeExtras struct {
	held   int
	shares int
	poor   poor // batches that were refused because the store has reached its maximum
}

// share is one batch's share of the extras.
type share struct {
	store *storeExtras
	name  string // the store's name
	held  int
	again chan struct{} // signals that a place may be free

	refused bool // the run's last call of take was refused; only the run uses this field
}

// poor are the batches that were refused a place and hold less than their equal share.
type poor map[*share]struct{}

func newExtras(n int) *extras {
	return &extras{all: n, most: max(min(n, leastOfStore), n/4), free: n, poor: poor{}, stores: map[string]*storeExtras{}}
}

// join adds a batch to those that share the extras, until it calls leave.
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

// leave removes the batch from those that share the extras, and returns its places.
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

// take takes one place, and reports whether it got one. If not, share.again signals when a place may
// be free.
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

// give returns n places, or all that the batch holds if these are fewer.
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

// put returns n of the batch's places. If n is negative, it takes -n places. mu is held.
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

// wake signals one of the batches.
func (p poor) wake() {
	for s := range p {
		select {
		case s.again <- struct{}{}:
		default:
		}
		return
	}
}
