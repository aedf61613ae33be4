// Package cpu shares the processors among stores.
//
// Some work takes long because a caller's data is large, such as decoding a body or reading the
// values of references from an answer. Go runs all goroutines in turns of about 10 ms, so a store
// with a hundred such goroutines would slow everybody else down a hundredfold. This package limits
// such work:
//
//   - At most one piece of work runs per processor. Half of the processors are for large pieces,
//     so that small ones don't wait for these.
//   - One name gets at most half of each half, and never more than remains free for others.
//   - Waiting work is served in turns, one first name after the other.
//
// A piece of work is not interrupted. So it must not wait for anything but the processor.
package cpu

import (
	"context"

	"github.com/sheafapi/sheaf/internal/gate"
)

// Large is the size, in bytes of data, at which a piece of work counts as large. Work of this
// size takes between 1 and 5 ms.
const Large = 64 << 10

// Shares are the processors. Make them with New. They may be used by many goroutines. A nil
// *Shares limits nothing.
type Shares struct {
	small, large *gate.Gate[string]
}

// New returns the shares of n processors; each half is one at least.
func New(n int) *Shares {
	half := func(n int) *gate.Gate[string] { return gate.New[string](int64(n), int64(n+1)/2) }
	return &Shares{small: half(max(1, (n+1)/2)), large: half(max(1, n/2))}
}

// Enter waits until a piece of work on this many bytes may run. The caller calls leave when it is
// done. names are the caller's names; the first one is its store. The error is the context's.
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
