package main

// moment is virtual time: nanoseconds since the day began.
type moment int64

// kind says what happens at an event.
type kind uint8

const (
	arrives  kind = iota // the next create of the day reaches a node
	repeated             // a create that got no answer is sent again; id: its batch
	commits              // a transaction is durable; id: its place in sim.transactions
	leaves               // a call that the store's limit held back leaves; id: its store
	answered             // a call's answer is there; id: its store
	offered              // the other nodes hear of a store with work; id: the store
	lost                 // a node is lost
	expires              // the lost node's stores are free to be taken over
)

// event is something that happens at a moment.
type event struct {
	at    moment
	seq   uint64 // of events at one moment the earlier scheduled comes first
	id    int32
	epoch int32 // leaves, answered: of the store's claim; a later one makes it void
	node  int16
	kind  kind
}

func (e *event) before(f *event) bool {
	return e.at < f.at || e.at == f.at && e.seq < f.seq
}

// agenda is a heap of events with four children a node, which is quicker than two.
type agenda struct {
	heap []event
	seq  uint64
}

func (a *agenda) add(e event) {
	a.seq++
	e.seq = a.seq
	a.heap = append(a.heap, e)
	h, i := a.heap, len(a.heap)-1
	for i > 0 {
		parent := (i - 1) / 4
		if !e.before(&h[parent]) {
			break
		}
		h[i] = h[parent]
		i = parent
	}
	h[i] = e
}

// next removes the earliest event. It reports false when there is none.
func (a *agenda) next() (event, bool) {
	h := a.heap
	if len(h) == 0 {
		return event{}, false
	}
	first, last := h[0], h[len(h)-1]
	h = h[:len(h)-1]
	a.heap = h
	i := 0
	for {
		least := 4*i + 1
		if least >= len(h) {
			break
		}
		for c := least + 1; c < min(4*i+5, len(h)); c++ {
			if h[c].before(&h[least]) {
				least = c
			}
		}
		if !h[least].before(&last) {
			break
		}
		h[i] = h[least]
		i = least
	}
	if len(h) > 0 {
		h[i] = last
	}
	return first, true
}
