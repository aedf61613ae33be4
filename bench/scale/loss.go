package main

// loss is the loss of a node at a moment, and when others may take its stores over.
type loss struct {
	at    moment
	after moment
}

// outcome is what the loss of a node hit.
type outcome struct {
	owned   map[int32]bool // stores that it ran
	doubt   int            // requests that were under way, and are told as in doubt
	repeats int            // creates that were under way, and are repeated
}

// plan has a node be lost.
func (s *sim) plan(n int16, l loss) {
	s.agenda.add(event{at: l.at, kind: lost, node: n})
	s.agenda.add(event{at: l.at + l.after, kind: expires, node: n})
}

// lose ends a node. What it had not committed is rolled back, its creates are repeated,
// and what stood in its line is found by the others' scans. The stores that it ran stay
// its own until others may take them over.
func (s *sim) lose(n int16) {
	nd := &s.nodes[n]
	nd.lost, nd.noticed = true, s.now+noticeDelay
	s.outcome.owned = map[int32]bool{}
	for id := range s.stores {
		if s.stores[id].owner == n {
			s.stores[id].epoch++ // answers of its calls reach nobody
			s.outcome.owned[int32(id)] = true
		}
	}
	for _, t := range s.transactions {
		if t.node == n {
			s.repeatCreates(t.items)
		}
	}
	for _, id := range nd.line {
		s.stores[id].lines &^= 1 << n
		s.agenda.add(event{at: s.now + scanDelay, kind: offered, id: id})
	}
	nd.records, nd.unsent, nd.line, nd.waiters = nil, nil, nil, nil
}

// repeatCreates has clients repeat the creates among a lost node's operations.
func (s *sim) repeatCreates(items []item) {
	for _, i := range items {
		if i.what == creation {
			s.outcome.repeats++
			s.agenda.add(event{at: s.now + repeatDelay, kind: repeated, id: i.id})
		}
	}
}

// takeOver lets other nodes have the lost node's stores.
func (s *sim) takeOver(n int16) {
	for id := range s.stores {
		st := &s.stores[id]
		if st.owner != n {
			continue
		}
		b := &s.batches[st.head]
		s.outcome.doubt += int(b.begun - b.done)
		st.owner = none
		s.take(int32(id))
	}
}
