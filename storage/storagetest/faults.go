package storagetest

import (
	"context"
	"errors"
	"sync"

	"github.com/sheafapi/sheaf/storage"
)

// Node is one node's access to a Memory.
type Node struct {
	db             *Memory
	killed, closed bool // guarded by db.mu

	mu    sync.Mutex
	fault func(op string) Fault
}

var _ storage.Storage = (*Node)(nil)

// Fault is how an operation fails.
type Fault uint8

// The faults.
const (
	None            Fault = iota
	FailedNotStored       // an error, and nothing was changed
	FailedButStored       // an error, though the change was stored
)

// String names the fault.
func (f Fault) String() string {
	return [...]string{"none", "failed and not stored", "failed but stored"}[f]
}

// ErrInjected is what a faulty operation returns.
var ErrInjected = errors.New("injected storage failure")

// SetFault lets the node's operations fail as f says, which is called with the name
// of the method and may be called from many goroutines. Nil: none fails.
func (n *Node) SetFault(f func(op string) Fault) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.fault = f
}

// call runs one operation.
func (n *Node) call(ctx context.Context, op string, run func(m *Memory) error) error {
	n.mu.Lock()
	decide := n.fault
	n.mu.Unlock()
	fault := None
	if decide != nil {
		fault = decide(op)
	}
	n.db.mu.Lock()
	defer n.db.mu.Unlock()
	switch {
	case n.killed:
		return ErrKilled
	case n.closed:
		return errClosed
	case ctx.Err() != nil:
		return ctx.Err()
	case fault == FailedNotStored:
		return ErrInjected
	}
	err := run(n.db)
	if fault == FailedButStored {
		return ErrInjected
	}
	return err
}
