package storagetest

import (
	"context"
	"errors"
	"sync"
)

// ErrInjected is the error of a call that a fault was set for.
var ErrInjected = errors.New("injected failure")

// Fault is how a call fails.
type Fault uint8

// The ways in which a call can fail. Its caller sees ErrInjected in both and can't
// tell which it was.
const (
	None            Fault = iota // it doesn't
	FailedNotStored              // nothing happened
	FailedButStored              // it was carried out; the answer was lost
)

// String returns a name for test output.
func (f Fault) String() string {
	switch f {
	case None:
		return "no fault"
	case FailedNotStored:
		return "failed and not stored"
	case FailedButStored:
		return "failed but stored"
	}
	return "unknown fault"
}

// hooks are what a test does to a node's calls.
type hooks struct {
	mu    sync.Mutex
	fault func(op string) Fault
	gate  func(ctx context.Context, op string) error
}

// SetFault sets the function that decides, before each call, whether and how it
// fails; nil: none fails. op is the method's name, such as "Create". No lock is
// held meanwhile, so calls at once call it at once. Close never fails.
func (n *Node) SetFault(f func(op string) Fault) {
	n.hooks.mu.Lock()
	defer n.hooks.mu.Unlock()
	n.hooks.fault = f
}

// SetGate sets a function that every call but Close goes through first; nil: none.
// It may block, as a slow database does. If it returns an error, so does the call,
// with nothing stored.
func (n *Node) SetGate(g func(ctx context.Context, op string) error) {
	n.hooks.mu.Lock()
	defer n.hooks.mu.Unlock()
	n.hooks.gate = g
}

// before lets a call pass the gate and returns the fault that it gets. An error
// means that the call is not to be carried out.
func (h *hooks) before(ctx context.Context, op string) (Fault, error) {
	h.mu.Lock()
	gate, choose := h.gate, h.fault
	h.mu.Unlock()
	if gate != nil {
		if err := gate(ctx, op); err != nil {
			return None, err
		}
	}
	if err := ctx.Err(); err != nil || choose == nil {
		return None, err
	}
	f := choose(op)
	if f == FailedNotStored {
		return f, ErrInjected
	}
	return f, nil
}
