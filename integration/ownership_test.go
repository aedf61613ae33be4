package integration

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// lateness is the longest time after a node continues until a request arrives that it was about to
// write when it was stopped.
const lateness = 5 * time.Second

// move is an event at the upstream that shows which node runs a store. A request is two moves, and
// no other node's move may come between them.
type move struct {
	Arrival
	kind         moveKind
	batch, index int
	parallel     bool // the batch
}

type moveKind int

const (
	begins moveKind = iota
	ends
	// late is a request that a node had been about to write when it was stopped. It counts
	// as sent at some moment between then and its arrival.
	late
)

// turn is the state of a store, as the upstream sees it.
type turn struct {
	node         string // that runs the store
	batch, index int    // the latest
	underWay     int    // requests
	waited       bool   // a request of the batch was refused or cut off: it may wait
	throttled    bool   // a request of the store was answered 429: from then on any may have to wait
	late         bool   // a request of this turn and batch arrived late
	at           time.Time
}

// begin returns the turn after a request was sent, if it may be.
func (s turn) begin(m move, faults []*fault) (bool, turn) {
	other, sameBatch := s.node != m.Node, s.batch == m.batch
	free := s.node == "" || m.batch > s.batch || s.waited || s.throttled || freed(faults, s.node, s.at, m.At)
	switch alone := s.underWay == 0; {
	case m.batch < s.batch && s.node != "",
		other && !(free && alone),
		!(sameBatch && m.parallel) && !alone,
		sameBatch && !m.parallel && m.index < s.index && (m.Nth == 1 || !safe(m.Method)):
		return false, s
	}
	if other || !sameBatch {
		// What others left waiting comes first in order, and whenever it is due otherwise.
		s.underWay, s.waited, s.late = 0, s.waited && sameBatch && m.parallel, false
	}
	if !sameBatch {
		s.index = m.index
	}
	s.node, s.batch, s.index, s.at = m.Node, m.batch, max(s.index, m.index), m.At
	s.underWay++
	return true, s
}

// String is short.
func (m move) String() string {
	return fmt.Sprintf("[%d.%d of %s: %s %d/%d %d %s]", m.Seq, m.Nth, m.Node, m.Method, m.batch, m.index, m.Status, m.At.Format("05.000"))
}

// next returns the turn after a move, if that may be.
func (s turn) next(m move, faults []*fault) (bool, turn) {
	switch m.kind {
	case begins:
		return s.begin(m, faults)
	case ends:
		s.underWay--
		s.waited = s.waited || !m.Answered || m.Status >= 400
		s.throttled = s.throttled || m.Status == http.StatusTooManyRequests
		return s.node == m.Node && s.underWay >= 0, s
	default:
		// One for each connection, of which a batch in order has one.
		once := m.parallel || s.batch != m.batch || !s.late
		ok, after := s.begin(m, faults)
		after.underWay, after.late, after.at = s.underWay, true, s.at
		return ok && once && s.node == m.Node, after
	}
}

// freed reports whether a fault between two times can have taken a node's stores away.
func freed(faults []*fault, node string, from, to time.Time) bool {
	return slices.ContainsFunc(faults, func(hit *fault) bool {
		return (hit.node == "" || hit.node == node) && hit.at.Before(to) && (hit.healed.IsZero() || hit.healed.After(from))
	})
}

// stop returns the SIGSTOP from which the request's node has just been released, if any.
func stop(faults []*fault, a Arrival) *fault {
	i := slices.IndexFunc(faults, func(hit *fault) bool {
		return hit.node == a.Node && hit.kind == stopped && a.At.After(hit.at) && !hit.healed.IsZero() && a.At.Sub(hit.healed) < lateness
	})
	if i < 0 {
		return nil
	}
	return faults[i]
}

// checkOwnership checks with porcupine that the arrivals of one store are those of a
// store that one node runs at a time. No two nodes' requests are in flight together. Batches, and
// the requests of a sequential batch, arrive in order. The node changes in the middle of a batch
// only if it can have given up the store (a request waits for its next attempt) or was hit by a
// fault. It returns the number of changes, and the Seq of arrivals that came late.
func checkOwnership(arrivals []Arrival, faults []*fault, parallel func(batch int) bool) (changes int, tardy []int, err error) {
	if len(arrivals) == 0 {
		return 0, nil, nil
	}
	var moves []move
	for _, a := range arrivals {
		m := move{Arrival: a}
		if _, err := fmt.Sscanf(a.Path, "/api/"+storeOf(a)+"/items/%d/%d", &m.batch, &m.index); err != nil {
			return 0, nil, fmt.Errorf("%s: %w", a.Path, err)
		}
		m.parallel = parallel(m.batch)
		end := m
		end.kind = ends
		if end.End.IsZero() {
			end.End = arrivals[len(arrivals)-1].At.Add(time.Hour)
		}
		moves = append(moves, m, end)
	}
	slices.SortStableFunc(moves, func(a, b move) int { return a.moment().Compare(b.moment()) })

	// A request that can't have been sent at its arrival was sent before the node was stopped.
	var history []porcupine.Operation
	var state turn
	var breach error
	add := func(m move, from, to time.Time) {
		begin := arrivals[0].At
		history = append(history, porcupine.Operation{Input: m, Call: int64(from.Sub(begin)), Return: int64(to.Sub(begin))})
	}
	for _, m := range moves {
		if slices.Contains(tardy, m.Seq) {
			continue // its end
		}
		ok, after := state.next(m, faults)
		if hit := stop(faults, m.Arrival); !ok && m.kind == begins && hit != nil {
			tardy = append(tardy, m.Seq)
			m.kind = late
			add(m, hit.at, m.At)
			continue
		}
		if !ok && breach == nil {
			breach = fmt.Errorf("after node %s, batch %d, request %d, %d under way, came %+v; all of that batch: %+v", state.node, state.batch, state.index,
				state.underWay, m.Arrival, slices.DeleteFunc(slices.Clone(moves), func(o move) bool { return o.batch != m.batch || o.kind != begins }))
		}
		if ok && state.node != "" && after.node != state.node {
			changes++
		}
		if ok {
			state = after
		}
		add(m, m.moment(), m.moment())
	}
	model := porcupine.Model{
		Init:              func() any { return turn{} },
		Step:              func(s, m, _ any) (bool, any) { return s.(turn).next(m.(move), faults) },
		DescribeOperation: func(m, _ any) string { return fmt.Sprintf("%+v", m) },
	}
	if result := porcupine.CheckOperationsTimeout(model, history, time.Minute); result != porcupine.Ok {
		return changes, tardy, fmt.Errorf("%d moves are those of more than one owner (%s): %w", len(history), result,
			cmp.Or(breach, fmt.Errorf("too much came late: %v", tardy)))
	}
	return changes, tardy, nil
}

// moment returns when the upstream saw the move.
func (m move) moment() time.Time {
	if m.kind == ends {
		return m.End
	}
	return m.At
}

// auditOwnership checks every store of a load. It returns the late arrivals from a node that was
// stopped between its last check and the system call. Those can't be recalled.
func (f *fleet) auditOwnership(l *load) (tardy []int) {
	f.t.Helper()
	stores := map[string][]Arrival{}
	for _, a := range f.ledger.Arrivals() {
		stores[storeOf(a)] = append(stores[storeOf(a)], a)
	}
	changes := 0
	for store, arrivals := range stores {
		n, came, err := checkOwnership(arrivals, f.faults, func(batch int) bool { return l.batch(store, batch).parallel })
		if err != nil {
			f.t.Errorf("%s was run by two nodes: %v", store, err)
		}
		changes += n
		tardy = append(tardy, came...)
	}
	f.t.Logf("%d stores changed nodes %d times; requests that a stopped node still wrote after it was let go on: %d",
		len(stores), changes, len(tardy))
	return tardy
}

// TestOwnershipCheck: the check detects violations.
func TestOwnershipCheck(t *testing.T) {
	start := time.Now()
	at := func(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }
	kill := &fault{node: "A", kind: killed, at: at(25)}
	pause := &fault{node: "A", kind: stopped, at: at(25), healed: at(60)}
	for _, test := range []struct {
		name    string
		history string // node batch/index from-to, and a ! where it was refused; batches from 5 on are parallel
		faults  []*fault
		late    int
		bad     bool
	}{
		{name: "one node", history: "A 0/0 0-5, A 0/1 5-9, A 1/0 10-15"},
		{name: "another node for the next batch", history: "A 0/0 0-5, B 1/0 10-15, A 2/0 20-25"},
		{name: "another node after a refusal", history: "A 0/0 0-5!, B 0/0 10-15, B 0/1 20-25"},
		{name: "another node after a death", history: "A 0/0 0-5, A 0/1 20-24, B 0/2 30-35", faults: []*fault{kill}},
		{name: "another node for what waits in a parallel batch", history: "A 5/0 0-5!, B 5/1 10-15, C 5/0 20-25"},
		{name: "a parallel batch", history: "A 5/0 0-9, A 5/2 1-5, A 5/1 2-8"},
		{name: "one write that slipped", history: "A 0/0 0-5, B 0/1 40-45, A 0/1 61-65, B 0/2 62-66", faults: []*fault{pause}, late: 1},
		{name: "a write of the next batch that slipped", history: "A 0/0 0-5, B 1/0 40-45, A 1/0 61-65, B 1/1 62-66", faults: []*fault{pause}, late: 1},
		{name: "some of a parallel batch that slipped", history: "A 5/0 0-5, B 5/1 40-45, A 5/2 61-65, A 5/3 61-66, B 5/4 62-66", faults: []*fault{pause}, late: 2},
		{name: "owned again", history: "A 0/0 0-5, B 0/1 40-45, A 1/0 61-65", faults: []*fault{pause}},

		{name: "in one batch, of a store that was throttled", history: "A 0/0 0-5?, B 0/0 10-15, C 0/1 20-25, A 0/2 30-35"},
		{name: "two nodes at once, of a store that was throttled", history: "A 0/0 0-5?, B 0/0 10-25, C 0/1 20-25", bad: true},
		{name: "two nodes at once", history: "A 0/0 0-15, B 1/0 10-12", bad: true},
		{name: "two nodes at once after a death", history: "A 0/0 0-45, B 0/1 40-42", faults: []*fault{kill}, bad: true},
		{name: "another node after another's refusal", history: "A 0/0 0-5!, B 0/0 10-15, C 0/1 20-25", bad: true},
		{name: "two nodes in one batch", history: "A 0/0 0-5, B 0/1 10-15", bad: true},
		{name: "two nodes in one batch before the fault", history: "A 0/0 0-5, B 0/1 10-15", faults: []*fault{kill}, bad: true},
		{name: "the dead node's work", history: "A 0/0 0-5, B 0/1 30-35, A 0/2 40-45", faults: []*fault{kill}, bad: true},
		{name: "an earlier batch", history: "A 1/0 0-5, A 0/0 10-15", bad: true},
		{name: "an earlier batch by another node", history: "A 1/0 0-5, B 0/0 30-35", faults: []*fault{kill}, bad: true},
		{name: "an earlier request", history: "A 0/1 0-5, A 0/0 10-15", bad: true},
		{name: "two requests at once in order", history: "A 0/0 0-5, A 0/1 3-8", bad: true},
		{name: "two batches at once", history: "A 0/0 0-5, A 1/0 3-8", bad: true},
		{name: "two writes that slipped in order", history: "A 0/0 0-5, B 0/1 40-45, A 0/1 61-65, A 0/2 65-67, B 0/3 70-72", faults: []*fault{pause}, bad: true},
		{name: "a write that slipped long ago", history: "A 0/0 0-5, B 0/1 40-45, A 0/1 9000-9001, B 0/2 9002-9003", faults: []*fault{pause}, bad: true},
		{name: "a late write by a node that was not stopped", history: "A 0/0 0-5, B 0/1 40-45, A 0/1 61-65, B 0/2 66-67", bad: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			var arrivals []Arrival
			for i, call := range strings.Split(test.history, ", ") {
				a := Arrival{Seq: i + 1, Nth: 1, Method: "POST", Status: 200, Answered: true}
				var batch, index, from, to int
				if _, err := fmt.Sscanf(call, "%s %d/%d %d-%d", &a.Node, &batch, &index, &from, &to); err != nil {
					t.Fatal(err)
				}
				if strings.HasSuffix(call, "!") {
					a.Status = http.StatusServiceUnavailable
				}
				if strings.HasSuffix(call, "?") {
					a.Status = http.StatusTooManyRequests
				}
				a.Path, a.At, a.End = fmt.Sprintf("/api/s/items/%d/%d-of-9", batch, index), at(from), at(to)
				arrivals = append(arrivals, a)
			}
			_, tardy, err := checkOwnership(arrivals, test.faults, func(batch int) bool { return batch >= 5 })
			if (err != nil) != test.bad || !test.bad && len(tardy) != test.late {
				t.Errorf("late: %v, error: %v; want %d, bad: %v", tardy, err, test.late, test.bad)
			}
		})
	}
}
