package main

// node is one process of the service.
type node struct {
	places      int     // stores that it may run at once
	running     int     // stores that it runs
	line        []int32 // stores in the order in which they get a place
	outbound    int     // calls that it may have under way, of which
	extra       int     // are for a batch's second and further ones
	waiters     []int32 // stores that wait for a first call's place
	connections int     // transactions that it may have under way, of which
	recorders   int     // may hold results
	records     []item  // results that wait for a recorder
	unsent      []int32 // transactions that wait for a connection
	sender      server  // its processor
	peak        int     // most calls under way
	lost        bool
	noticed     moment // lost: when the balancer has noticed
}

// enqueue puts a store at the end of a node's line. If the node has no place free the
// others are told.
func (s *sim) enqueue(n int16, id int32) {
	if !s.join(n, id) && len(s.nodes) > 1 {
		s.agenda.add(event{at: s.now + offerDelay, kind: offered, id: id})
	}
}

// join puts a store at the end of a node's line unless it stands there. It reports
// whether somebody runs the store now.
func (s *sim) join(n int16, id int32) bool {
	st := &s.stores[id]
	if bit := uint64(1) << n; st.lines&bit == 0 {
		st.lines |= bit
		s.nodes[n].line = append(s.nodes[n].line, id)
		s.fill(n)
	}
	return st.owner != none
}

// take puts a store with work into every node's line: the first with a free place runs
// it.
func (s *sim) take(id int32) {
	s.offers++
	for i := range s.nodes {
		n := (s.offers + i) % len(s.nodes)
		if !s.nodes[n].lost && !s.gone(id) {
			s.join(int16(n), id)
		}
	}
}

// gone reports whether a store in a line needs no place any more: another node runs it,
// or did.
func (s *sim) gone(id int32) bool {
	return s.stores[id].owner != none || s.stores[id].head == none
}

// contested reports whether stores wait for a place on the node.
func (s *sim) contested(n int16) bool {
	nd := &s.nodes[n]
	for len(nd.line) > 0 && s.gone(nd.line[0]) {
		s.leaveLine(n)
	}
	return len(nd.line) > 0
}

// leaveLine takes the first store out of a node's line.
func (s *sim) leaveLine(n int16) int32 {
	nd := &s.nodes[n]
	id := nd.line[0]
	nd.line = nd.line[1:]
	s.stores[id].lines &^= 1 << n
	return id
}

// fill gives free places to the stores at the head of the line.
func (s *sim) fill(n int16) {
	nd := &s.nodes[n]
	for nd.running < nd.places && s.contested(n) {
		id := s.leaveLine(n)
		st := &s.stores[id]
		st.owner = n
		st.epoch++
		st.run = progress{batch: none, began: s.now}
		nd.running++
		s.write(n, item{what: claim, id: id})
	}
}

// place takes an outbound place for a batch's first call. Without one the store waits.
func (s *sim) place(n int16, id int32) bool {
	nd := &s.nodes[n]
	if nd.outbound == 0 || len(nd.waiters) > 0 {
		nd.waiters = append(nd.waiters, id)
		s.stores[id].run.starved = true
		return false
	}
	s.occupy(nd)
	return true
}

// extraPlace takes a place for a second or further call, of which there are fewer.
func (s *sim) extraPlace(n int16) bool {
	nd := &s.nodes[n]
	if nd.extra == 0 || nd.outbound == 0 || len(nd.waiters) > 0 {
		return false
	}
	nd.extra--
	s.occupy(nd)
	return true
}

func (s *sim) occupy(nd *node) {
	nd.outbound--
	nd.peak = max(nd.peak, s.o.MaxOutbound-nd.outbound)
}

// vacate gives an outbound place back, to who waits for one.
func (s *sim) vacate(n int16) {
	nd := &s.nodes[n]
	nd.outbound++
	if len(nd.waiters) > 0 {
		id := nd.waiters[0]
		nd.waiters = nd.waiters[1:]
		s.occupy(nd)
		s.stores[id].run.starved = false
		s.start(id, 1)
	}
}
