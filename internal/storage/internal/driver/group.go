package driver

import (
	"context"
	"sync/atomic"
)

// Pending is the part of a queued operation that its caller and a writer share. The caller may give
// up until a writer takes the operation. Embed it by value.
type Pending struct {
	taken atomic.Bool
	done  chan struct{}
}

func (p *Pending) pending() *Pending { return p }

// Take returns true to its first caller only: the writer that will run the operation, or the
// operation's caller, who withdraws it.
func (p *Pending) Take() bool { return p.taken.CompareAndSwap(false, true) }

// End ends the wait of the operation's caller.
func (p *Pending) End() { close(p.done) }

// queued is a pointer to a struct that embeds Pending.
type queued interface{ pending() *Pending }

// Wait queues an operation and returns nil after its End. If ctx ends before a writer has taken the
// operation, Wait returns ctx's error, and the operation never runs.
func Wait[T queued](ctx context.Context, queue chan<- T, op T) error {
	p := op.pending()
	p.done = make(chan struct{})
	select {
	case queue <- op:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		if p.Take() {
			return ctx.Err()
		}
		<-p.done // after Wait, the caller may reuse the operation's arguments
	}
	return nil
}

// Collect adds op and the operations queued behind it to the group, except those whose callers have
// given up. It returns when the queue is empty or closed, or when isFull returns true. It calls
// isFull after each addition.
func Collect[T queued](group []T, op T, queue <-chan T, isFull func(group []T) bool) []T {
	for {
		if op.pending().Take() {
			if group = append(group, op); isFull(group) {
				return group
			}
		}
		select {
		case next, ok := <-queue:
			if !ok {
				return group
			}
			op = next
		default:
			return group
		}
	}
}
