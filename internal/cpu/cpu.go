// Package cpu shares the processors fairly among stores.
//
// Some work takes a long time if a caller's data is large, such as decoding a body or extracting the
// values of references from an answer. Go schedules goroutines in time slices of about 10 ms, so a
// store with a hundred such goroutines would slow down all others a hundredfold. This package limits
// such work:
//
//   - At most one task runs per processor. Half of the processors are for large tasks, so that small
//     tasks don't wait for these.
//   - A name gets at most half of each half, and never more than remains free for others.
//   - Waiting tasks are served round-robin by their first names.
//
// Tasks are not interrupted, so a task must not wait for anything except the processor.
package cpu

import (
	"context"

	"github.com/sheafapi/sheaf/internal/gate"
)

// Large is the size in bytes at which a task counts as large. A task of this size takes 1 to 5 ms.
const Large = 64 << 10

// Shares limits tasks. Use New to create it. It is safe for concurrent use. A nil *Shares limits
// nothing.
type Shares struct {
	small, large *gate.Gate[string]
}

// New returns Shares for n processors. Each half has at least one.
func New(n int) *Shares {
	half := func(n int) *gate.Gate[string] { return gate.New[string](int64(n), int64(n+1)/2) }
	return &Shares{small: half(max(1, (n+1)/2)), large: half(max(1, n/2))}
}

// Enter waits until a task on this many bytes may run. The caller must call leave when the task is done.
// names are the caller's names; the first is its store. The error is that of ctx.
func (s *Shares) Enter(ctx context.Context, bytes int64, names ...string) (leave func(), err error) {
	if s == nil {
		return func() {}, nil
	}
	of := s.small
	if bytes >= Large {
		of = s.large
	}
	if err := of.Enter(ctx, 1, names...); err != nil {
		return nil, err
	}
	return func() { of.Leave(1, names...) }, nil
}
