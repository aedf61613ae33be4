package engine

import "github.com/sheafapi/sheaf/internal/storage"

// If each token is a separate owner, a store has a queue for each token, and so any number of
// queues. Only a limited number of a store's queues are in the lines or hold places at the same
// time. The others wait in the store's crowd.

// crowds holds the queues that wait behind others of their store. Guarded by Engine.mu.
type crowds struct {
	admitted map[string]int    // by store: how many queues are in a line or hold a place; no zeros
	waiting  map[string]*crowd // by store
}

// crowd holds the waiting queues of one store, oldest first.
type crowd struct {
	known     []storage.QueueID // the upstream has accepted their token
	strangers []storage.QueueID
	ahead     int // how many of known were served since the last stranger
}

func newCrowds() crowds { return crowds{admitted: map[string]int{}, waiting: map[string]*crowd{}} }

// mostOfStore returns how many of a store's queues may be in the lines or hold places.
func (e *Engine) mostOfStore() int { return max(e.QueuesAtOnce/64, min(e.QueuesAtOnce, 64)) }

// admit reports whether a queue may join a line. If too many queues of its store are in the lines
// or hold places, it puts the queue into the store's crowd and returns false. mu is held.
func (e *Engine) admit(id storage.QueueID, q *queue) bool {
	a, met := e.strangers.met.Get(id)
	if !met {
		return true // the store of the queue is not known yet
	}
	if e.crowds.admitted[a.store] < e.mostOfStore() {
		q.store = a.store
		e.crowds.admitted[a.store]++
		return true
	}
	c := e.crowds.waiting[a.store]
	if c == nil {
		c = &crowd{}
		e.crowds.waiting[a.store] = c
	}
	if _, is := e.stranger(id); is {
		c.strangers = append(c.strangers, id)
	} else {
		c.known = append(c.known, id)
	}
	return false
}

// dismiss removes a queue that has returned its place from its store's count, and moves the next
// queue of the crowd into a line. mu is held.
func (e *Engine) dismiss(q *queue) {
	store := q.store
	if store == "" {
		return
	}
	q.store = ""
	if e.crowds.admitted[store]--; e.crowds.admitted[store] == 0 {
		delete(e.crowds.admitted, store)
	}
	c := e.crowds.waiting[store]
	if c == nil || e.stopping() {
		return
	}
	id := c.pop()
	if len(c.known)+len(c.strangers) == 0 {
		delete(e.crowds.waiting, store)
	}
	e.line(id, e.queues[id])
}

// pop removes and returns the next queue. The crowd must not be empty.
func (c *crowd) pop() (id storage.QueueID) {
	from := &c.known
	if len(c.known) == 0 || len(c.strangers) > 0 && c.ahead >= mostAhead {
		from, c.ahead = &c.strangers, 0
	} else {
		c.ahead++
	}
	id, *from = (*from)[0], (*from)[1:]
	return id
}

// crowded reports whether other queues of the same store wait for this queue's place. mu is held.
func (e *Engine) crowded(id storage.QueueID) bool {
	q := e.queues[id]
	return q != nil && q.store != "" && e.crowds.waiting[q.store] != nil
}
