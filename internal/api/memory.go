package api

import (
	"context"

	"github.com/sheafapi/sheaf/internal/api/reply"
	"github.com/sheafapi/sheaf/internal/budget"
	"github.com/sheafapi/sheaf/internal/gate"
)

// Limits on the create bodies that are in memory at once. Memory is taken as bytes arrive, never
// because of a Content-Length. Large bodies have a share of their own, so that a few slow uploads
// don't keep all others waiting. A caller gets at most half of what is free.
const (
	freeBody   = 16 << 10 // bytes that any body may take at once
	smallBody  = 1 << 20  // a larger body, in bytes, counts as large
	smallShare = 24 << 20 // bytes of all bodies that aren't large
	largeShare = 48 << 20 // bytes of all large bodies
)

// Limits on the memory for decoding and storing bodies that have arrived, which is counted
// separately.
const (
	// decodeShare is how many bytes all create bodies may take together while they are decoded, in
	// addition to what the largest one may need.
	decodeShare = 16 << 20
	// decodedTimes is the memory that a create body may take while it is decoded, as a multiple of
	// its size. The worst case is a body of many short names.
	decodedTimes = 10
	// storedTimes is the memory that a body may take while it is stored, including its stored form,
	// as a multiple of its size.
	storedTimes = 3
	// retryValues is how many bytes the values of references can add to a batch that is retried.
	retryValues = 8 << 20
)

// memory limits the memory that all create bodies take together. Gates count the bodies that wait
// for their client. A budget, which owners get in turns, counts those that wait only for storage
// and the CPU.
type memory struct {
	small, large *gate.Gate[reply.Name] // bodies that arrive
	decodes      *budget.Budget         // bodies that have arrived, and batches that are retried
}

func newMemory(maxBody int64) memory {
	most := max(decodedTimes*maxBody, 2*largestBatch(maxBody))
	return memory{
		small: gate.New[reply.Name](smallShare, smallShare), large: gate.New[reply.Name](largeShare, largeShare),
		decodes: budget.New(most+decodeShare, most),
	}
}

// largestBatch returns the maximum number of bytes that reading one batch's requests takes. They
// are in memory twice: as the database sends them, and as they are kept.
func largestBatch(maxBody int64) int64 { return 2 * (maxBody + retryValues) }

// share is the memory that one body has taken.
type share struct {
	names []reply.Name // of its caller
	of    *gate.Gate[reply.Name]
	n     int64 // 0: none
}

// free gives the memory back.
func (s *share) free() {
	if s.n > 0 {
		s.of.Leave(s.n, s.names...)
		s.n = 0
	}
}

// take takes memory for a body that may grow to size bytes, in exchange for what the body already
// has. A body that must wait gives its memory back first, so that bodies can't wait for each other.
func (m *memory) take(ctx context.Context, had *share, size int64) error {
	next := share{names: had.names, of: m.small, n: size}
	if size > smallBody {
		next.of, next.n = m.large, min(size, largeShare)
	}
	if !next.of.Try(next.n, next.names...) {
		had.free()
		ctx, cancel := context.WithTimeout(ctx, reply.MemoryWait)
		defer cancel()
		if err := next.of.Enter(ctx, next.n, next.names...); err != nil {
			return fail(unavailable, "Too many large batches are being created. Retry in a second.")
		}
	}
	had.free()
	*had = next
	return nil
}
