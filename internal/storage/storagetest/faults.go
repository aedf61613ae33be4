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

// The ways in which a call can fail. Its caller sees ErrInjected in both cases and can't tell them
// apart.
const (
	None            Fault = iota // the call doesn't fail
	FailedNotStored              // nothing happened
	FailedButStored              // the call was carried out, but its answer was lost
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

// hooks change how a database's calls end.
type hooks struct {
	mu    sync.Mutex
	fault func(op string) Fault
	gate  func(ctx context.Context, op string) error
}

// SetFault sets the function that decides, before each call, whether and how the call fails; nil:
// no call fails. op is the method's name, such as "Create". The function may be called
// concurrently. Close never fails.
func (h *hooks) SetFault(f func(op string) Fault) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fault = f
}

// SetGate sets a function that every call except Close makes first; nil: none. It may block, as a
// slow database does. If it returns an error, so does the call, with nothing stored.
func (h *hooks) SetGate(g func(ctx context.Context, op string) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.gate = g
}

// before waits for the gate and returns the call's fault. If it returns an error, the call must not
// be carried out.
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
