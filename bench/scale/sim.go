package main

import (
	"math"
	"time"
)

const (
	none = -1
	// turn is how long a store may run while others wait for a place.
	turn = moment(2 * time.Second)
	// offerDelay is how long it takes until other nodes hear of a store with work.
	offerDelay = moment(5 * time.Millisecond)
	// scanDelay is when the other nodes find a store of whose work they did not hear.
	scanDelay = moment(time.Second)
	// repeatDelay is when a client repeats a create that got no answer.
	repeatDelay = moment(time.Second)
	// noticeDelay is how long the balancer still sends creates to a node that is lost.
	noticeDelay = moment(2 * time.Second)
)

// sim is one day of one service.
type sim struct {
	o            *options
	agenda       agenda
	now          moment
	batches      []batch
	stores       []store
	nodes        []node
	transactions []transaction
	spare        []int32 // transactions that are over
	database     server
	perCommit    time.Duration
	perRow       time.Duration
	perCall      time.Duration
	perLimit     moment // between two calls of a store; 0: no limit
	latency      distribution
	arrived      int // batches whose create has reached a node
	turnOf       int // the node of the next create
	offers       int // so that offers go to the nodes in turn
	open         int // batches that are neither ended nor refused
	commitCount  int
	outcome      outcome // of a node's loss
}

// store is one store: a queue.
type store struct {
	head, tail int32 // its unfinished batches
	queued     int
	owner      int16
	epoch      int32
	lines      uint64 // the nodes in whose line it stands
	slot       moment // with a limit: before it no call leaves
	run        progress
}

// server does one thing after the other. Whatever reaches it has to come in the order
// of time.
type server struct {
	free moment // when it has done all that it was given
	busy []time.Duration
}

// serve gives it work and returns when that is done.
func (s *server) serve(at moment, work time.Duration) moment {
	start := max(at, s.free)
	s.free = start + moment(work)
	minute := int(start / moment(time.Minute))
	for minute >= len(s.busy) {
		s.busy = append(s.busy, 0)
	}
	s.busy[minute] += work
	return s.free
}

// newSim returns a simulation of the batches, which it takes over.
func newSim(o *options, nodes int, batches []batch) *sim {
	s := &sim{
		o: o, batches: batches, stores: make([]store, o.Stores), nodes: make([]node, nodes), open: len(batches),
		perCommit: perSecond(o.DatabaseCommits), perRow: perSecond(o.DatabaseRows), perCall: perSecond(o.NodeCalls),
		perLimit: moment(perSecond(o.Limit)), latency: o.latency(),
	}
	for i := range s.stores {
		s.stores[i] = store{head: none, tail: none, owner: none, run: progress{batch: none}}
	}
	for i := range s.nodes {
		s.nodes[i] = node{
			places: o.StoresAtOnce, outbound: o.MaxOutbound, extra: o.MaxOutbound * 3 / 4,
			connections: o.Connections - 1, // one is the node's session
			recorders:   recorders,
		}
	}
	return s
}

// perSecond returns how long each of n things a second takes; nothing if n is 0.
func perSecond(n float64) time.Duration {
	if n == 0 {
		return 0
	}
	return time.Duration(math.Round(float64(time.Second) / n))
}

// run simulates until every batch has ended.
func (s *sim) run() {
	s.scheduleArrival()
	for s.open > 0 {
		e, ok := s.agenda.next()
		if !ok {
			return
		}
		s.now = e.at
		s.happen(e)
	}
}

func (s *sim) happen(e event) {
	switch e.kind {
	case arrives:
		id := int32(s.arrived)
		s.arrived++
		s.scheduleArrival()
		s.create(id)
	case repeated:
		s.create(e.id)
	case commits:
		s.committed(e.id)
	case leaves:
		if s.stores[e.id].epoch == e.epoch {
			s.call(e.id)
		}
	case answered:
		s.settle(e)
	case offered:
		s.take(e.id)
	case lost:
		s.lose(e.node)
	case expires:
		s.takeOver(e.node)
	}
}

func (s *sim) scheduleArrival() {
	if s.arrived < len(s.batches) {
		s.agenda.add(event{at: s.batches[s.arrived].created, kind: arrives})
	}
}

// create brings a batch to the next node in turn. A create at a lost node is repeated.
func (s *sim) create(id int32) {
	n := s.nextNode()
	if s.nodes[n].lost {
		s.agenda.add(event{at: s.now + repeatDelay, kind: repeated, id: id})
		return
	}
	s.write(n, item{what: creation, id: id})
}

// nextNode returns the node that the balancer sends a create to.
func (s *sim) nextNode() int16 {
	for range s.nodes {
		n := s.turnOf
		s.turnOf = (s.turnOf + 1) % len(s.nodes)
		if !s.nodes[n].lost || s.now < s.nodes[n].noticed {
			return int16(n)
		}
	}
	return int16(s.turnOf)
}

// created puts a batch whose create is durable at the end of its store's queue.
func (s *sim) created(n int16, id int32) {
	b := &s.batches[id]
	st := &s.stores[b.store]
	if s.o.MaxQueued > 0 && st.queued >= s.o.MaxQueued {
		b.refused = true
		s.open--
		return
	}
	if st.queued++; st.head == none {
		st.head = id
		b.head = s.now
	} else {
		s.batches[st.tail].next = id
	}
	st.tail = id
	if st.owner == none {
		s.enqueue(n, b.store)
	}
}
