package engine

import (
	"slices"
	"time"

	"github.com/sheafapi/sheaf/internal/storage"
)

// A queue that has work waits in a line until it gets one of the node's places. It returns the place
// at the end of its turn. Then it waits again, or the engine forgets it.

const (
	// turn is how long a queue may run while others wait for a place. shortTurn applies while one of
	// them was idle until now, and firstTurn if the queue itself was idle before.
	turn      = 2 * time.Second
	shortTurn = time.Second
	firstTurn = 250 * time.Millisecond
	// mostAhead is how many queues that were idle get a place before one that was busy gets one.
	mostAhead = 8
	// maxKnown limits how many queues the engine keeps in memory. Later scans find the others.
	maxKnown = 100_000
)

// queue is what the engine knows about one queue. Guarded by Engine.mu.
type queue struct {
	state    queueState
	store    string        // ready, running: the store whose limit it counts toward; empty: none
	fresh    bool          // ready: it was idle before
	found    bool          // ready, waiting: a scan has found it
	again    bool          // woken while it was running
	stranger bool          // running: it counts toward the strangers' limit
	lost     bool          // its last claim was lost before an attempt ended
	news     chan struct{} // running: the batch's creator may have stopped, paused or deleted it
	timer    *time.Timer   // waiting
	until    time.Time     // waiting: the end of the wait
	stored   time.Time     // waiting, found: the same according to storage
}

type queueState uint8

const (
	ready queueState = iota
	running
	waiting
	parked // it waits for the end of an outage
)

// unlock unlocks e.mu and offers the queues in e.offers to other nodes.
func (e *Engine) unlock() {
	offers := e.offers
	e.offers = nil
	e.mu.Unlock()
	for _, id := range offers {
		e.Storage.Offer(id)
	}
}

// Wake reports that a batch was created in the queue.
func (e *Engine) Wake(id storage.QueueID) {
	e.mu.Lock()
	defer e.unlock()
	switch q := e.queues[id]; {
	case q == nil:
		e.enqueue(id, &queue{fresh: true})
	case q.state == running:
		q.again = true
	case q.state == ready:
		if q.found { // a scan has found the new batch before this call
			q.found, q.fresh = false, true
			if i := slices.Index(e.ready, id); i >= 0 {
				e.ready = slices.Delete(e.ready, i, i+1)
				e.line(id, q)
			}
		}
		e.offers = append(e.offers, id)
	}
}

// Notify reports that a batch of the queue was stopped, paused, resumed or deleted.
func (e *Engine) Notify(id storage.QueueID) {
	e.mu.Lock()
	defer e.unlock()
	q := e.queues[id]
	if q == nil {
		e.enqueue(id, &queue{})
		return
	}
	switch q.state {
	case running:
		q.again = true
		select {
		case q.news <- struct{}{}:
		default:
		}
	case waiting:
		q.timer.Stop()
		e.enqueue(id, q)
	case parked:
		e.enqueue(id, q)
	case ready:
	}
}

// hint reports that another node has work in the queue and doesn't run it now. If no place is free
// here, the hint is dropped: either the other node runs the queue, or a scan finds it.
func (e *Engine) hint(id storage.QueueID) {
	e.mu.Lock()
	defer e.unlock()
	q := e.queues[id]
	switch {
	case q != nil && q.state == running:
		q.again = true
	case q != nil && (q.state == ready || q.state == parked), e.stopping(), e.running >= e.QueuesAtOnce:
	case q != nil: // the end of its wait may have changed
		q.timer.Stop()
		e.enqueue(id, q)
	default:
		e.enqueue(id, &queue{})
	}
}

// enqueue puts a queue at the end of its line. If the queue doesn't get a place at once, it is
// offered to other nodes when unlock is called. e.mu is held.
func (e *Engine) enqueue(id storage.QueueID, q *queue) {
	q.found = false
	e.line(id, q)
	if q.state == ready {
		e.offers = append(e.offers, id)
	}
}

// line is enqueue without an offer. e.mu is held.
func (e *Engine) line(id storage.QueueID, q *queue) {
	q.state, q.timer = ready, nil
	e.queues[id] = q
	if !e.admit(id, q) {
		return
	}
	if store, is := e.stranger(id); is {
		e.strangers.line.push(store, id)
	} else if q.fresh {
		e.fresh = append(e.fresh, id)
	} else {
		e.ready = append(e.ready, id)
	}
	e.fill()
}

// stopping reports whether no queue can get a place, because Run hasn't begun or its context has ended.
// e.mu is held.
func (e *Engine) stopping() bool { return !e.open || e.drain.Err() != nil }

// fill gives free places to the queues at the heads of the lines. A queue that was idle doesn't wait
// behind all busy queues (like a new flow in FQ-CoDel, RFC 8290). But busy queues also get places
// while many queues that were idle wait. e.mu is held.
func (e *Engine) fill() {
	for !e.stopping() && e.running < e.QueuesAtOnce {
		id, stranger, found := e.pop()
		if !found {
			return
		}
		q := e.queues[id]
		t := &term{queue: id, began: time.Now(), first: q.fresh}
		*q = queue{state: running, store: q.store, stranger: stranger, lost: q.lost, news: make(chan struct{}, 1)}
		e.running++
		go func() { e.leave(id, e.runQueue(id, q.news, t)) }()
	}
}

// pop chooses the queue that gets the next place and removes it from its line. e.mu is held.
func (e *Engine) pop() (id storage.QueueID, stranger, found bool) {
	others := len(e.ready)+len(e.fresh) > 0
	if e.strangerWaits() && (!others || e.strangers.behind) {
		e.strangers.behind = false
		e.strangers.running++
		return e.strangers.line.pop(), true, true
	}
	if !others {
		return 0, false, false
	}
	e.strangers.behind = true
	line := &e.fresh
	if len(e.fresh) == 0 || len(e.ready) > 0 && e.ahead >= mostAhead {
		line, e.ahead = &e.ready, 0
	} else {
		e.ahead++
	}
	id = (*line)[0]
	*line = (*line)[1:]
	return id, false, true
}

// term is the time for which a queue holds its place.
type term struct {
	queue storage.QueueID
	began time.Time
	first bool // the queue was idle before
}

// over reports whether the queue must return its place.
func (e *Engine) over(t *term) bool {
	since := time.Since(t.began)
	if since <= firstTurn {
		return false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	fresh := len(e.fresh) > 0 || e.strangerWaits()
	switch {
	case fresh && t.first:
		return true
	case fresh:
		return since > shortTurn
	}
	return since > turn && (len(e.ready) > 0 || e.hungry > 0 || e.crowded(t.queue))
}

// contested reports whether queues wait for a place or for memory.
func (e *Engine) contested() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.ready)+len(e.fresh) > 0 || e.strangerWaits() || e.hungry > 0
}

// count changes a counter of the engine.
func (e *Engine) count(counter *int, by int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	*counter += by
}

// followUp is what a queue does after it has returned its place.
type followUp struct {
	again     bool      // the queue may have more to run
	notBefore time.Time // with again: when it may run; zero: in its next turn
	lost      bool      // its claim was lost before an attempt ended
	outage    bool      // with again: it waits for the end of an outage
}

// leave returns a queue's place. When the node shuts down, the queue is offered to other nodes.
func (e *Engine) leave(id storage.QueueID, n followUp) {
	e.mu.Lock()
	defer e.unlock()
	q := e.queues[id]
	e.running--
	if q.stranger {
		q.stranger = false
		e.strangers.running--
	}
	e.dismiss(q)
	if n.lost && q.lost { // the next claim may be lost as quickly as the last two
		n.notBefore = time.Now().Add(scanInterval)
	}
	q.lost = n.lost
	wait, again := min(time.Until(n.notBefore), e.Policy.longest()), n.again || q.again
	switch {
	case again && e.stopping():
		delete(e.queues, id)
		e.offers = append(e.offers, id)
	case again && !q.again && n.outage && e.park(id, q):
	case again && !q.again && wait > 0 && !n.outage:
		e.wait(id, q, wait)
	case again:
		e.enqueue(id, q)
	default:
		delete(e.queues, id)
	}
	e.fill()
	if !e.open && e.running == 0 {
		close(e.idle)
	}
}

// wait puts a queue back into the line after a pause. e.mu is held.
func (e *Engine) wait(id storage.QueueID, q *queue, pause time.Duration) {
	q.state, q.until = waiting, time.Now().Add(pause)
	e.queues[id] = q
	q.timer = time.AfterFunc(pause, func() {
		e.mu.Lock()
		defer e.unlock()
		if q.state == waiting && e.queues[id] == q {
			e.enqueue(id, q)
		}
	})
}
