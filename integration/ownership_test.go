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

// lateness limits how long after a stopped node continues a request may arrive that the node was
// about to write when it was stopped.
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
	// late is a request that a node was about to write when it was stopped. It counts as sent at
	// some moment between the stop and its arrival.
	late
)

// turn is the state of a store, as the upstream sees it.
type turn struct {
	node         string // the node that runs the store
	batch, index int    // the latest
	inFlight     int    // requests
	waited       bool   // a request of the batch was refused or cut off: it may wait
	throttled    bool   // a request of the store was answered 429: from then on, any request may have to wait
	late         bool   // a request of this turn and batch arrived late
	at           time.Time
}

// begin returns the turn after a request has been sent. It reports false if the request must not
// be sent then.
func (s turn) begin(m move, faults []*fault) (bool, turn) {
	other, sameBatch := s.node != m.Node, s.batch == m.batch
	free := s.node == "" || m.batch > s.batch || s.waited || s.throttled || canHaveLostStores(faults, s.node, s.at, m.At)
	switch alone := s.inFlight == 0; {
	case m.batch < s.batch && s.node != "",
		other && !(free && alone),
		!(sameBatch && m.parallel) && !alone,
		sameBatch && !m.parallel && m.index < s.index && (m.Nth == 1 || !isSafe(m.Method)):
		return false, s
	}
	if other || !sameBatch {
		// In a batch in order, the request that waited comes first, and then none waits. In a
		// parallel batch, the requests that wait come when they are due.
		s.inFlight, s.waited, s.late = 0, s.waited && sameBatch && m.parallel, false
	}
	if !sameBatch {
		s.index = m.index
	}
	s.node, s.batch, s.index, s.at = m.Node, m.batch, max(s.index, m.index), m.At
	s.inFlight++
	return true, s
}

// String returns a short description for failure messages.
func (m move) String() string {
	return fmt.Sprintf("[%d.%d of %s: %s %d/%d %d %s]", m.Seq, m.Nth, m.Node, m.Method, m.batch, m.index, m.Status, m.At.Format("05.000"))
}

// next returns the turn after a move. It reports false if the move must not happen then.
func (s turn) next(m move, faults []*fault) (bool, turn) {
	switch m.kind {
	case begins:
		return s.begin(m, faults)
	case ends:
		s.inFlight--
		s.waited = s.waited || !m.Answered || m.Status >= 400
		s.throttled = s.throttled || m.Status == http.StatusTooManyRequests
		return s.node == m.Node && s.inFlight >= 0, s
	default:
		// Each connection can have one late request, and a batch in order has one connection.
		once := m.parallel || s.batch != m.batch || !s.late
		ok, after := s.begin(m, faults)
		after.inFlight, after.late, after.at = s.inFlight, true, s.at
		return ok && once && s.node == m.Node, after
	}
}

// canHaveLostStores reports whether a fault between two times can have taken a node's stores away.
func canHaveLostStores(faults []*fault, node string, from, to time.Time) bool {
	return slices.ContainsFunc(faults, func(hit *fault) bool {
		return (hit.node == "" || hit.node == node) && hit.at.Before(to) && (hit.healed.IsZero() || hit.healed.After(from))
	})
}

// recentStop returns the SIGSTOP after which the request's node has just continued, if any.
func recentStop(faults []*fault, a Arrival) *fault {
	i := slices.IndexFunc(faults, func(hit *fault) bool {
		return hit.node == a.Node && hit.kind == stopped && a.At.After(hit.at) && !hit.healed.IsZero() && a.At.Sub(hit.healed) < lateness
	})
	if i < 0 {
		return nil
	}
	return faults[i]
}

// checkOwnership checks with porcupine that only one node at a time ran a store, according to the
// store's arrivals. Requests of two nodes are never in flight together. Batches, and the requests of
// a sequential batch, arrive in order. The node changes in the middle of a batch only if the node
// can have given up the store (a request waits for its next attempt) or was hit by a fault.
// checkOwnership returns the number of changes, and the Seq of late arrivals.
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

	// If a request must not be sent when it arrives, the node was about to write it when it was
	// stopped.
	var history []porcupine.Operation
	var state turn
	var breach error
	add := func(m move, from, to time.Time) {
		begin := arrivals[0].At
		history = append(history, porcupine.Operation{Input: m, Call: int64(from.Sub(begin)), Return: int64(to.Sub(begin))})
	}
	for _, m := range moves {
		if slices.Contains(tardy, m.Seq) {
			continue // the end of a late request
		}
		ok, after := state.next(m, faults)
		if hit := recentStop(faults, m.Arrival); !ok && m.kind == begins && hit != nil {
			tardy = append(tardy, m.Seq)
			m.kind = late
			add(m, hit.at, m.At)
			continue
		}
		if !ok && breach == nil {
			breach = fmt.Errorf("after node %s, batch %d, request %d, %d in flight, %+v arrived; all of that batch: %+v", state.node, state.batch, state.index,
				state.inFlight, m.Arrival, slices.DeleteFunc(slices.Clone(moves), func(o move) bool { return o.batch != m.batch || o.kind != begins }))
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
		return changes, tardy, fmt.Errorf("%d moves show more than one owner at a time (%s): %w", len(history), result,
			cmp.Or(breach, fmt.Errorf("too many late arrivals: %v", tardy)))
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

// auditOwnership checks every store of a load. It returns the Seq of late arrivals: a node that is
// stopped between its last check and the system call still sends that request when it continues.
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
	f.t.Logf("%d stores changed nodes %d times; requests that a stopped node still wrote when it continued: %d",
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
		history string // node batch/index from-to, with ! after a 503 and ? after a 429; batches from 5 on are parallel
		faults  []*fault
		late    int
		bad     bool
	}{
		{name: "one node", history: "A 0/0 0-5, A 0/1 5-9, A 1/0 10-15"},
		{name: "another node for the next batch", history: "A 0/0 0-5, B 1/0 10-15, A 2/0 20-25"},
		{name: "another node after a refusal", history: "A 0/0 0-5!, B 0/0 10-15, B 0/1 20-25"},
		{name: "another node after a death", history: "A 0/0 0-5, A 0/1 20-24, B 0/2 30-35", faults: []*fault{kill}},
		{name: "another node for a waiting request of a parallel batch", history: "A 5/0 0-5!, B 5/1 10-15, C 5/0 20-25"},
		{name: "a parallel batch", history: "A 5/0 0-9, A 5/2 1-5, A 5/1 2-8"},
		{name: "one late write", history: "A 0/0 0-5, B 0/1 40-45, A 0/1 61-65, B 0/2 62-66", faults: []*fault{pause}, late: 1},
		{name: "a late write of the next batch", history: "A 0/0 0-5, B 1/0 40-45, A 1/0 61-65, B 1/1 62-66", faults: []*fault{pause}, late: 1},
		{name: "some late writes of a parallel batch", history: "A 5/0 0-5, B 5/1 40-45, A 5/2 61-65, A 5/3 61-66, B 5/4 62-66", faults: []*fault{pause}, late: 2},
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
		{name: "two late writes of a batch in order", history: "A 0/0 0-5, B 0/1 40-45, A 0/1 61-65, A 0/2 65-67, B 0/3 70-72", faults: []*fault{pause}, bad: true},
		{name: "a write that is too late", history: "A 0/0 0-5, B 0/1 40-45, A 0/1 9000-9001, B 0/2 9002-9003", faults: []*fault{pause}, bad: true},
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
