package engine

import "sync"

// extras are the places for a parallel batch's second and further attempts: a part of the
// outbound places, so that everybody's first finds one. Batches share them: one that has
// its even part or more takes no further place while another waits that has less.
type extras struct {
	mu     sync.Mutex
	free   int
	shares map[*share]struct{} // of the parallel batches that run
	poor   map[*share]struct{} // of these, who was refused a place, and has less than its part
	all    int
}

// share is what one batch has of the extras.
type share struct {
	held  int
	again chan struct{} // a place may be free now
}

func newExtras(n int) *extras {
	return &extras{free: n, all: n, shares: map[*share]struct{}{}, poor: map[*share]struct{}{}}
}

// join lets a batch take part until it leaves.
func (x *extras) join() *share {
	x.mu.Lock()
	defer x.mu.Unlock()
	s := &share{again: make(chan struct{}, 1)}
	x.shares[s] = struct{}{}
	return s
}

// leave gives back what the batch still has.
func (x *extras) leave(s *share) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.free += s.held
	s.held = 0
	delete(x.shares, s)
	delete(x.poor, s)
	x.wake()
}

// take takes one place. Refused, the batch is told by again when it may have one.
func (x *extras) take(s *share) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	even := max(1, x.all/len(x.shares))
	if s.held < even {
		if x.free == 0 {
			x.poor[s] = struct{}{}
			return false
		}
	} else if x.free == 0 || len(x.poor) > 0 {
		x.wake()
		return false
	}
	x.free--
	s.held++
	delete(x.poor, s)
	return true
}

// give gives up to n places back.
func (x *extras) give(s *share, n int) {
	if n = min(n, s.held); n == 0 {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	s.held -= n
	x.free += n
	x.wake()
}

// content tells that the batch needs no more places than it has.
func (x *extras) content(s *share) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.poor, s)
	x.wake()
}

// wake tells one of the poor that a place is free. mu is held.
func (x *extras) wake() {
	if x.free == 0 {
		return
	}
	for s := range x.poor {
		select {
		case s.again <- struct{}{}:
		default:
		}
		return
	}
}
