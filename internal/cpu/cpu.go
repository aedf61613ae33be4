// Package cpu shares the processors among stores.
//
// Some work on behalf of a caller takes long because the caller's data is large: a body is
// decoded, the values of references are taken from an answer. Go runs all goroutines in turns
// of about 10 ms, so a store with a hundred such goroutines would slow everybody else down a
// hundred times. Work that enters here first is bounded:
//
//   - As many pieces of work run at once as there are processors. Half of them are for large
//     pieces, so that small ones don't wait for these.
//   - One name has half of each half, and never more than remains free for others.
//   - What waits is served in turns, one first name after the other.
//
// A piece of work is not interrupted. So it must not wait for anything but the processor.
package cpu

import (
	"context"

	"github.com/sheafapi/sheaf/internal/gate"
)

// Large is from which size of its data on a piece of work counts as large. It takes
// between 1 and 5 ms.
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

// Enter waits until a piece of work on so many bytes may run. The caller calls leave when it is
// done. names are those of the caller, the first one its store. The error is the context's.
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
