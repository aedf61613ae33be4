package api

import (
	"bytes"
	"context"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/budget"
	"github.com/sheafapi/sheaf/internal/gate"
	"github.com/sheafapi/sheaf/internal/storage"
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

// requestsOf reads a batch's requests for an answer, which then holds only those from
// first to last whole: of the others it has ids, methods and paths. To be called before reserve.
func (a *answer) requestsOf(id storage.BatchID, first, last int) ([]batch.Request, batch.Options, error) {
	room := int64(batch.MaxRequests * (batch.MaxPath + batch.MaxID))
	if first <= last {
		room += a.s.memory.largestBatch / 2
	}
	if err := a.enter(room); err != nil {
		return nil, batch.Options{}, err
	}
	if err := a.reading.need(a.s.memory.largestBatch); err != nil {
		return nil, batch.Options{}, err
	}
	defer a.reading.free()
	all, options, err := a.s.Storage.Requests(a.c.ctx(), id)
	if err != nil {
		return nil, options, err
	}
	kept := 0
	for i := range all {
		r := &all[i]
		switch {
		case i < first || i > last:
			r.Body, r.Links = nil, nil
		case first > 0 || last < len(all)-1:
			r.Body = bytes.Clone(r.Body) // the bodies share one buffer
		}
		kept += len(r.ID) + len(r.Path) + len(r.Body)
	}
	if kept > flushBytes {
		a.base += int64(kept) // else the base has room for it
	}
	a.keep(a.base)
	return all, options, nil
}
