package api

import (
	"context"
	"time"

	"github.com/sheafapi/sheaf/internal/budget"
	"github.com/sheafapi/sheaf/internal/gate"
)

const (
	// readShare is how many bytes calls may hold together while they read from storage, beside
	// the most that one may need; decodeShare likewise of create bodies while they are decoded.
	readShare   = 32 << 20
	decodeShare = 16 << 20
	// decodedTimes is by how much a create body may be larger while it is decoded: a body of
	// many short names takes most.
	decodedTimes = 10
	// storedTimes likewise while it is stored: with its stored form beside it.
	storedTimes = 3
	// retryValues is how many bytes the values of references can add to a batch that is
	// repeated.
	retryValues = 8 << 20
	// memoryWait is how long a call may wait for memory. While a body is not read, a client that
	// has gone away is not noticed.
	memoryWait = 10 * time.Second
)

// memory limits what all calls together hold. What waits for a client is in the gates, in which
// a caller gets half of what is free at most. What waits for nobody but storage and the CPU is
// in the budgets, which owners get in turns.
type memory struct {
	small, large  *gate.Gate[name] // create bodies that arrive
	answers       *gate.Gate[name] // what was read and is being sent
	decodes       *budget.Budget   // create bodies that have arrived, and batches that are repeated
	reads         *budget.Budget   // what is being read
	largestAnswer int64            // bytes that reading one answer takes, at most
	largestBatch  int64            // bytes that reading one batch's requests takes, at most
}

func newMemory(o *Options) memory {
	m := memory{
		small: gate.New[name](smallShare, smallShare), large: gate.New[name](largeShare, largeShare),
		answers: gate.New[name](answersShare, answersShare),
		// As the database sends it, and as it is kept.
		largestAnswer: 2*o.MaxAnswer + pageBytes, largestBatch: 2 * (o.MaxBody + retryValues),
	}
	most := max(m.largestAnswer, m.largestBatch)
	m.reads = budget.New(most+readShare, most)
	most = max(decodedTimes*o.MaxBody, 2*m.largestBatch)
	m.decodes = budget.New(most+decodeShare, most)
	return m
}

// hold is the memory that a call has taken of a budget. The zero value of share is nothing.
type hold struct {
	c     *call
	of    *budget.Budget
	share *budget.Share
}

// hold returns what a call takes of a budget: nothing yet. To be released with free.
func (c *call) hold(of *budget.Budget) hold { return hold{c: c, of: of} }

// held returns how many bytes the call holds.
func (h *hold) held() int64 {
	if h.share == nil {
		return 0
	}
	return h.share.Held()
}

// need makes the call hold so many bytes, no more and no less. It may wait. An error is the
// answer to give.
func (h *hold) need(bytes int64) error {
	more := bytes - h.held()
	if more <= 0 {
		h.cut(bytes)
		return nil
	}
	if h.share == nil {
		h.share = h.of.Share(h.c.store + string(h.c.owner[:]))
	}
	if h.share.TryGrow(more) {
		return nil
	}
	ctx, cancel := context.WithTimeout(h.c.r.Context(), memoryWait)
	defer cancel()
	if h.share.Grow(ctx, more) != nil {
		return fail(unavailable, "Too many large batches are being created or read at the moment. Retry in a second.")
	}
	return nil
}

// cut gives back what the call holds beyond so many bytes.
func (h *hold) cut(bytes int64) {
	if h.share != nil {
		h.share.Shrink(h.share.Held() - max(bytes, 0))
	}
}

func (h *hold) free() { h.cut(0) }

// share is memory that one body has taken.
type share struct {
	names []name           // of its caller
	of    *gate.Gate[name] // nil: none
	n     int64
}

// free gives memory back.
func (s *share) free() {
	if s.of != nil {
		s.of.Leave(s.n, s.names...)
		s.of = nil
	}
}

// take takes memory for a body that may grow to size bytes, in exchange for what that body
// has already. A body that has to wait gives that back before, so that bodies can't wait for
// each other.
func (m *memory) take(ctx context.Context, had *share, size int64) error {
	next := share{names: had.names, of: m.small, n: size}
	if size > smallBody {
		next.of, next.n = m.large, min(size, largeShare)
	}
	if !next.of.Try(next.n, next.names...) {
		had.free()
		ctx, cancel := context.WithTimeout(ctx, memoryWait)
		defer cancel()
		if err := next.of.Enter(ctx, next.n, next.names...); err != nil {
			return fail(unavailable, "Too many large batches are being created at the moment. Create this one again in a second.")
		}
	}
	had.free()
	*had = next
	return nil
}
