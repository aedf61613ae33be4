package main

// mostParallel is how many requests of a parallel batch are under way at once.
const mostParallel = 100

// progress is the turn of a store that has a place: what the service keeps of it in memory.
type progress struct {
	batch     int32  // none: its claim is under way
	began     moment // when its turn began
	sent      int16  // requests of the batch that were started
	ended     int16
	inflight  int16
	extras    int16 // places that it holds beyond its first
	pending   int16 // answers that are not recorded
	arrived   int16 // answers that came while it recorded
	recording bool  // a transaction of its own is under way
	starved   bool  // it waits for an outbound place
}

// begin takes the store's first batch up.
func (s *sim) begin(id int32) {
	st := &s.stores[id]
	b := &s.batches[st.head]
	// What was under way when another node was lost is in doubt: a POST is not sent again.
	doubt := b.begun - b.done
	b.doubt += doubt
	st.run = progress{batch: st.head, began: st.run.began, sent: b.begun, ended: b.begun, pending: doubt}
	s.step(id)
}

// step takes the store's batch as far as it goes now.
func (s *sim) step(id int32) {
	st := &s.stores[id]
	r := &st.run
	b := &s.batches[r.batch]
	switch {
	case r.recording || r.starved:
	case r.inflight == 0 && r.ended == b.size:
		s.finish(id)
	case s.turnOver(st):
		if r.inflight == 0 {
			s.release(id)
		} else {
			s.record(id, 0)
		}
	case r.inflight > 0:
		s.start(id, 0)
	case s.place(st.owner, id):
		s.start(id, 1)
	}
}

// turnOver reports whether the store has to hand its place over.
func (s *sim) turnOver(st *store) bool {
	return s.now-st.run.began > turn && s.contested(st.owner)
}

// start starts as many of the batch's requests as may be under way; it holds places for
// the first of them already.
func (s *sim) start(id int32, begins int16) {
	st := &s.stores[id]
	r := &st.run
	b := &s.batches[r.batch]
	width := int16(1)
	if b.parallel {
		width = mostParallel
	}
	for r.inflight+begins < width && r.sent+begins < b.size && s.extraPlace(st.owner) {
		r.extras++
		begins++
	}
	s.record(id, begins)
}

// record makes the answers so far and the intents of the next requests durable, in one.
func (s *sim) record(id int32, begins int16) {
	r := &s.stores[id].run
	if begins == 0 && r.pending == 0 {
		return
	}
	r.sent += begins
	s.writeRun(id, record, begins)
}

// recorded goes on when the marks are durable: the requests leave.
func (s *sim) recorded(id int32, begins, results int16) {
	st := &s.stores[id]
	r := &st.run
	b := &s.batches[r.batch]
	b.done += results
	b.begun += begins
	r.inflight += begins
	r.recording = false
	for range begins {
		if at := s.slot(st); at > s.now {
			s.agenda.add(event{at: at, kind: leaves, id: id, epoch: st.epoch})
		} else {
			s.call(id)
		}
	}
	if r.arrived > 0 {
		s.absorb(st, r.arrived)
		r.arrived = 0
		s.step(id)
	}
}

// slot returns when the store's limit lets its next call leave.
func (s *sim) slot(st *store) moment {
	if s.perLimit == 0 {
		return s.now
	}
	at := max(s.now, st.slot)
	st.slot = at + s.perLimit
	return at
}

// call sends one request: the node's processor has to get to it, then the upstream
// takes its time.
func (s *sim) call(id int32) {
	st := &s.stores[id]
	b := &s.batches[st.run.batch]
	if b.calls == 0 {
		b.first = s.now
	}
	sent := s.nodes[st.owner].sender.serve(s.now, s.perCall)
	u := uniform(s.o.Seed, uint64(st.run.batch)<<9|uint64(b.calls))
	b.calls++
	s.agenda.add(event{at: sent + moment(s.latency(u)), kind: answered, id: id, epoch: st.epoch, node: st.owner})
}

// settle takes an answer.
func (s *sim) settle(e event) {
	st := &s.stores[e.id]
	if st.epoch != e.epoch {
		return // of a node that is lost
	}
	s.vacate(e.node)
	if r := &st.run; r.recording {
		r.arrived++
	} else {
		s.absorb(st, 1)
		s.step(e.id)
	}
}

// absorb counts answers, and gives the places back that they leave.
func (s *sim) absorb(st *store, n int16) {
	r := &st.run
	extras := min(n, r.extras)
	r.extras -= extras
	s.nodes[st.owner].extra += int(extras)
	r.inflight -= n
	r.ended += n
	r.pending += n
}

// finish ends the batch.
func (s *sim) finish(id int32) {
	what := finish
	if s.turnOver(&s.stores[id]) {
		what = finishTurn
	}
	s.writeRun(id, what, 0)
}

// finished goes on with the store's next batch, unless its turn is over.
func (s *sim) finished(id int32, results int16, over bool) {
	st := &s.stores[id]
	b := &s.batches[st.run.batch]
	b.done += results
	b.end = s.now
	s.open--
	st.queued--
	if st.head = b.next; st.head == none {
		st.tail = none
	} else {
		next := &s.batches[st.head]
		next.head = s.now
		if !over {
			s.begin(id)
			return
		}
	}
	s.leave(id)
}

// release gives the store's place back with its batch unfinished.
func (s *sim) release(id int32) { s.writeRun(id, release, 0) }

func (s *sim) released(id int32, results int16) {
	s.batches[s.stores[id].run.batch].done += results
	s.leave(id)
}

// leave gives a store's place back. If it has more to run it goes to the end of the
// line.
func (s *sim) leave(id int32) {
	st := &s.stores[id]
	n := st.owner
	st.owner = none
	st.epoch++
	s.nodes[n].running--
	if st.head != none {
		s.enqueue(n, id)
	}
	s.fill(n)
}
