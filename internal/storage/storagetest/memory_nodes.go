package storagetest

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/sheafapi/sheaf/internal/storage"
)

// lookAgain is how often a Watch looks for stops whose hints were lost.
const lookAgain = time.Second

// Node is one node's access to a Memory. Make it with Memory.Node.
type Node struct {
	m *Memory
	hooks

	// Guarded by m.mu:
	state     nodeState
	lease     int64         // the number of its newest registration
	uncertain bool          // the node can't tell whether it is still considered alive
	changed   chan struct{} // closed and replaced when one of these changes
	watches   []*watch      // the running calls of Watch
}

var _ storage.Storage = (*Node)(nil)

type nodeState uint8

const (
	live nodeState = iota
	expired
	killed
	closed
)

// Node returns a new live node of the database.
func (m *Memory) Node() *Node {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lastLease++
	n := &Node{m: m, lease: m.lastLease, changed: make(chan struct{})}
	m.nodes = append(m.nodes, n)
	return n
}

// Kill makes the node die as a process does. From now on, none of its calls stores anything, it may
// not send, and its queues are free.
func (m *Memory) Kill(n *Node) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n.setState(killed)
}

// Expire makes the database consider the node dead: others may claim its queues, and the node may
// no longer send for them. The node lives on. Its calls still reach the database, and its next
// Claim makes it a live node again.
func (m *Memory) Expire(n *Node) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n.state == live {
		n.setState(expired)
	}
}

// DropHints sets whether the nodes' hints to each other are lost from now on.
func (m *Memory) DropHints(drop bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.deaf = drop
}

// Owner returns the live node that owns the named queue; nil: none.
func (m *Memory) Owner(name string) *Node {
	m.mu.Lock()
	defer m.mu.Unlock()
	if q := m.byName[name]; q != nil && q.owned() {
		return q.owner
	}
	return nil
}

// SetCertain sets whether the node knows that it is considered alive. While it doesn't, for example
// because the database doesn't answer, Authorized returns false and Authorize waits.
func (n *Node) SetCertain(certain bool) {
	n.m.mu.Lock()
	defer n.m.mu.Unlock()
	n.uncertain = !certain
	n.change()
}

// The caller of setState, change and register holds m.mu.
func (n *Node) setState(s nodeState) {
	n.state = s
	n.change()
}

// change makes every waiting Authorize check again.
func (n *Node) change() {
	close(n.changed)
	n.changed = make(chan struct{})
}

// register makes a node that was considered dead a live one again, under another lease.
func (n *Node) register() {
	if n.state == expired {
		n.m.lastLease++
		n.lease = n.m.lastLease
		n.setState(live)
	}
}

// Authorize implements storage.Storage.
func (n *Node) Authorize(ctx context.Context, c *storage.Claim) error {
	fault, err := n.hooks.before(ctx, "Authorize")
	if err != nil {
		return err
	}
	for {
		var changed <-chan struct{}
		_, err := n.locked(ctx, func() (any, error) {
			switch {
			case n.uncertain:
				changed = n.changed
			case !n.authorized(c):
				return nil, storage.ErrNotOwner
			}
			return nil, nil
		})
		switch {
		case changed == nil && fault == FailedButStored:
			return ErrInjected
		case changed == nil:
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Authorized implements storage.Storage.
func (n *Node) Authorized(c *storage.Claim) bool {
	n.m.mu.Lock()
	defer n.m.mu.Unlock()
	return !n.uncertain && n.authorized(c)
}

// authorized reports whether the node has not been considered dead since it made the claim. The
// caller holds m.mu.
func (n *Node) authorized(c *storage.Claim) bool { return n.state == live && n.lease == c.Lease }

// watch is a running call of Watch.
type watch struct {
	hints []hint        // guarded by Memory.mu
	news  chan struct{} // there are hints
}

// hint is a notification from one node to another about a queue.
type hint struct {
	queue storage.QueueID
	stop  bool // a batch was stopped; otherwise the queue has work
}

// tell sends a hint to the node, unless hints are lost. The caller holds m.mu.
func (n *Node) tell(h hint) {
	if n.m.deaf || n.state == killed || n.state == closed {
		return
	}
	for _, w := range n.watches {
		w.hints = append(w.hints, h)
		select {
		case w.news <- struct{}{}:
		default:
		}
	}
}

// tellOwner notifies the queue's owner, if that is another live node, that a batch was stopped. The
// caller holds m.mu.
func (n *Node) tellOwner(q *queue) {
	if q.owned() && q.owner != n {
		q.owner.tell(hint{q.id, true})
	}
}

// Offer implements storage.Storage.
func (n *Node) Offer(q storage.QueueID) {
	n.m.mu.Lock()
	defer n.m.mu.Unlock()
	if n.state == killed || n.state == closed {
		return
	}
	for _, other := range n.m.nodes {
		if other != n {
			other.tell(hint{q, false})
		}
	}
}

// Watch implements storage.Storage.
func (n *Node) Watch(ctx context.Context, wake, notify func(storage.QueueID)) {
	w := &watch{news: make(chan struct{}, 1)}
	n.m.mu.Lock()
	n.watches = append(n.watches, w)
	n.m.mu.Unlock()
	defer func() {
		n.m.mu.Lock()
		defer n.m.mu.Unlock()
		n.watches = slices.DeleteFunc(n.watches, func(o *watch) bool { return o == w })
	}()
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	for {
		var hints []hint
		select {
		case <-ctx.Done():
			return
		case <-w.news:
			n.m.mu.Lock()
			hints, w.hints = w.hints, nil
			n.m.mu.Unlock()
		case <-tick.C:
			hints = n.stopped()
		}
		for _, h := range hints {
			if h.stop {
				notify(h.queue)
			} else {
				wake(h.queue)
			}
		}
	}
}

// stopped returns the node's queues whose batch must end.
func (n *Node) stopped() []hint {
	n.m.mu.Lock()
	defer n.m.mu.Unlock()
	var out []hint
	for _, id := range slices.Sorted(maps.Keys(n.m.queues)) {
		q := n.m.queues[id]
		if q.owned() && q.owner == n && len(q.open) > 0 && (q.open[0].signals.Stopped || q.open[0].wishes().Paused) {
			out = append(out, hint{id, true})
		}
	}
	return out
}
