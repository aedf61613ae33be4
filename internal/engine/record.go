package engine

import (
	"context"

	"github.com/sheafapi/sheaf/internal/budget"
	"github.com/sheafapi/sheaf/internal/storage"
)

// portionBytes bounds what one call records, in bytes of marks, where it has more than one
// answer.
const portionBytes = 2 << 20

// note adds a mark to those that are to be recorded, with the memory of its answer.
func (r *run) note(m storage.Mark, memory *budget.Share) {
	r.pending, r.held = append(r.pending, m), append(r.held, memory)
}

// record makes marks durable, which may be r.pending with more behind, and heeds
// what the creator wants meanwhile.
func (r *run) record(marks []storage.Mark) error {
	if len(marks) == 0 {
		return nil
	}
	return r.recordAndAsk(marks)
}

// recordAndAsk is record that asks also where there is no mark.
func (r *run) recordAndAsk(marks []storage.Mark) error { return r.recordUnder(r.e.work, marks) }

// recordUnder is recordAndAsk under a context. It records the marks in their order, a portion
// in each call, so that no call is larger than storage can carry out in its time: one that
// fails is followed by smaller ones, down to a single mark.
func (r *run) recordUnder(ctx context.Context, marks []storage.Mark) error {
	most := portionBytes
	for rest := marks; ; {
		var n int
		err := r.e.persist(ctx, "record results", "ticket", r.c.Ticket, func(ctx context.Context) error {
			n = storage.Portion(rest, most)
			s, err := r.e.Storage.Record(ctx, r.c, rest[:n])
			if err == nil {
				r.heed(s)
			} else {
				most = max(1, min(most, storage.Size(rest[:n]))/2)
			}
			return err
		})
		if err != nil {
			return err
		}
		r.take(rest[:n])
		recorded := min(n, len(r.pending))
		r.forget(recorded)
		r.pending, r.held = r.pending[recorded:], r.held[recorded:]
		if rest = rest[n:]; len(rest) == 0 {
			break
		}
	}
	clear(marks) // the answers' bodies are storage's now
	r.pending, r.held = marks[:0], r.held[:0]
	r.progress()
	return nil
}

// forget releases the memory of the first n answers that are pending.
func (r *run) forget(n int) {
	for i, memory := range r.held[:n] {
		memory.Release()
		r.held[i] = nil
	}
}

// recordMost records what is pending, if that is more than the call should carry that ends the
// batch or gives it back.
func (r *run) recordMost(ctx context.Context) error {
	if storage.Size(r.pending) <= portionBytes {
		return nil
	}
	return r.recordUnder(ctx, r.pending)
}
