package integration

import (
	"fmt"
	"testing"
	"time"
)

// grace is how long after a node was let go on a request can arrive that it was about
// to write when it was stopped.
const grace = 5 * time.Second

// storeTurns follows who runs a store, from the arrivals of its requests.
type storeTurns struct {
	f     *fleet
	store string

	last    Arrival // of the node that runs the store
	batch   int     // last's
	waited  bool    // in this batch, since the node runs it: a request was refused, or broke off
	ends    map[string]time.Time
	changes int
	late    []Arrival // that a stopped node had been about to write
}

// auditOwnership checks that no store was ever run by two nodes: requests of different
// nodes are never under way together, and the node changes in the middle of a batch only
// where it can have given the store up (between two attempts, or at its end) or
// was hit by a fault. It returns the arrivals that came late from a node that was
// stopped between its last check and the system call, which can't be called back.
func (f *fleet) auditOwnership(l *load) (late []int) {
	f.t.Helper()
	stores := map[string]*storeTurns{}
	changes := 0
	for _, a := range f.ledger.Arrivals() {
		store := storeOf(a)
		s := stores[store]
		if s == nil {
			s = &storeTurns{f: f, store: store, ends: map[string]time.Time{}, batch: -1}
			stores[store] = s
		}
		s.next(a)
	}
	for _, s := range stores {
		changes += s.changes
		for _, a := range s.late {
			late = append(late, a.Seq)
		}
		s.limit(l)
	}
	f.t.Logf("%d stores changed nodes %d times; requests that a stopped node still wrote after it was let go on: %d",
		len(stores), changes, len(late))
	return late
}

// place returns the batch of an arrival, and its index there.
func place(t *testing.T, a Arrival) (batch, index int) {
	t.Helper()
	if _, err := fmt.Sscanf(a.Path, "/api/"+storeOf(a)+"/items/%d/%d", &batch, &index); err != nil {
		t.Fatalf("%s: %v", a.Path, err)
	}
	return batch, index
}

// next takes one arrival into account.
func (s *storeTurns) next(a Arrival) {
	s.f.t.Helper()
	batch, _ := place(s.f.t, a)
	if s.last.Seq != 0 && a.Node != s.last.Node {
		if !s.given(a, batch) {
			if s.stoppedBefore(a) != nil {
				s.late = append(s.late, a)
				return
			}
			s.f.t.Errorf("%s was run by two nodes: after %+v, without a reason to give it up, came %+v", s.store, s.last, a)
		}
		s.changes++
		s.waited = false
		for other, end := range s.ends {
			if other != a.Node && end.After(a.At) {
				s.f.t.Errorf("%s was run by two nodes: a request of node %s was under way until %v after %+v", s.store, other, end.Sub(a.At), a)
			}
		}
	}
	if batch != s.batch {
		s.waited = false
	}
	s.last, s.batch = a, batch
	s.waited = s.waited || !a.Answered || a.Status >= 400
	if a.End.IsZero() {
		a.End = time.Now()
	}
	if a.End.After(s.ends[a.Node]) {
		s.ends[a.Node] = a.End
	}
}

// given reports whether the store's node can have given it up since its last request.
func (s *storeTurns) given(a Arrival, batch int) bool {
	if batch > s.batch || batch == s.batch && s.waited {
		return true
	}
	for _, hit := range s.f.faults {
		ours := hit.node == "" || hit.node == s.last.Node
		if ours && hit.at.Before(a.At) && (hit.healed.IsZero() || hit.healed.After(s.last.At)) {
			return true
		}
	}
	return false
}

// stoppedBefore returns the stop of an arrival's node that has just ended, if any.
func (s *storeTurns) stoppedBefore(a Arrival) *fault {
	for _, hit := range s.f.faults {
		if hit.node == a.Node && hit.kind == stopped && a.At.After(hit.at) && a.At.Sub(hit.healed) < grace {
			return hit
		}
	}
	return nil
}

// limit checks that no more requests came late than a stopped node can have been about
// to write: one on each of its connections, of which a batch in order has one.
func (s *storeTurns) limit(l *load) {
	s.f.t.Helper()
	type stint struct {
		hit   *fault
		batch int
	}
	count := map[stint]int{}
	for _, a := range s.late {
		batch, _ := place(s.f.t, a)
		count[stint{s.stoppedBefore(a), batch}]++
	}
	for at, n := range count {
		if n > 1 && !l.batch(s.store, at.batch).parallel {
			s.f.t.Errorf("%s: %d requests of batch %d came late, which has one connection: %+v", s.store, n, at.batch, s.late)
		}
	}
}
