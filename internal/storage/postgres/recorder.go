package postgres

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/sheafapi/sheaf/internal/storage"
	"github.com/sheafapi/sheaf/internal/storage/internal/driver"
)

// The limits of a transaction that records results.
const (
	groupLimit = 256
	groupBytes = 1 << 20
	// largeRecord is the size in bytes from which a call gets its own transaction and connection,
	// so that small results don't wait for it.
	largeRecord = 256 << 10
	largeAtOnce = 2
	// writers is how many connections write results in turn: while one waits for the disk, the
	// other one collects and sends. By measurement, two are a quarter faster than one or three.
	writers = 2
)

// recorder writes the marks of all running batches. Each transaction takes whatever is queued;
// there is no timer.
type recorder struct {
	db    *DB
	queue chan *recordCall
	large chan struct{} // has an element for each large call in flight
	ended sync.WaitGroup
}

// recordCall is one call of Record.
type recordCall struct {
	claim storage.Claim // as it was when the call was made
	marks []storage.Mark

	driver.Pending
	owned   bool // owned, signals and err are set before End
	signals storage.Signals
	err     error
}

func startRecorder(db *DB) *recorder {
	r := &recorder{db: db, queue: make(chan *recordCall, groupLimit), large: make(chan struct{}, largeAtOnce)}
	for range writers {
		r.ended.Go(r.write)
	}
	return r
}

// close waits until the writers have written what is queued.
func (r *recorder) close() {
	close(r.queue)
	r.ended.Wait()
}

// record writes marks and returns after their commit. If ctx ends first, they may still be written.
func (r *recorder) record(ctx context.Context, c *storage.Claim, marks []storage.Mark) (storage.Signals, error) {
	op := &recordCall{claim: *c, marks: marks}
	if storage.Size(marks) >= largeRecord {
		return r.recordAlone(ctx, op)
	}
	if err := driver.Wait(ctx, r.queue, op); err != nil {
		return storage.Signals{}, err
	}
	if op.err == nil && !op.owned {
		op.err = storage.ErrNotOwner
	}
	return op.signals, op.err
}

// recordAlone writes a large call's marks.
func (r *recorder) recordAlone(ctx context.Context, op *recordCall) (storage.Signals, error) {
	select {
	case r.large <- struct{}{}:
	case <-ctx.Done():
		return storage.Signals{}, ctx.Err()
	}
	defer func() { <-r.large }()
	err := r.commit(ctx, []*recordCall{op})
	if err == nil && !op.owned {
		err = storage.ErrNotOwner
	}
	return op.signals, err
}

func (r *recorder) write() {
	for op := range r.queue {
		bytes := 0
		group := driver.Collect(nil, op, r.queue, func(group []*recordCall) bool {
			bytes += storage.Size(group[len(group)-1].marks)
			return len(group) == groupLimit || bytes > groupBytes
		})
		if len(group) == 0 {
			continue
		}
		err := r.commit(context.Background(), group)
		if refused(err) && len(group) > 1 {
			for _, op := range group { // so that one bad call doesn't fail the others
				op.err = r.commit(context.Background(), []*recordCall{op})
			}
		} else {
			for _, op := range group {
				op.err = err
			}
		}
		for _, op := range group {
			op.End()
		}
	}
}

// refused reports whether the server has certainly rejected the call.
func refused(err error) bool {
	_, answered := errors.AsType[*pgconn.PgError](err)
	return answered && !unknown(err)
}

// commit writes a group in one transaction.
func (r *recorder) commit(ctx context.Context, group []*recordCall) error {
	ctx, cancel := context.WithTimeoutCause(ctx, callTimeout, errSlow)
	defer cancel()
	w := &recordArgs{clock: &r.db.clock}
	for _, op := range group {
		op.owned = false
		w.add(&op.claim, op.marks)
	}
	return r.db.send(ctx, []step{do("sync_commit"), w.step(func(nth int, s storage.Signals) {
		group[nth].owned, group[nth].signals = true, s
	})})
}

// recordArgs holds the arguments of the statement "record", one slice per column.
type recordArgs struct {
	clock *clock

	batches, queues, epochs []int64

	claim, batch, notBefore    []int64 // claim: the mark's claim, as a position in batches, from 1
	index, state, status, kind []int16
	code                       []int32
	tries, line, body, headers [][]byte
	inDoubt                    []bool
}

// add adds a claim and the marks that are recorded under it.
func (w *recordArgs) add(c *storage.Claim, marks []storage.Mark) {
	w.batches, w.queues, w.epochs = append(w.batches, int64(c.ID)), append(w.queues, int64(c.Queue)), append(w.epochs, c.Epoch)
	marks = storage.Newest(marks)
	for i := range marks {
		m := &marks[i]
		r := &m.Result
		w.claim, w.batch, w.index = append(w.claim, int64(len(w.batches))), append(w.batch, int64(c.ID)), append(w.index, int16(m.Index))
		w.state, w.status = append(w.state, int16(m.State)), append(w.status, int16(r.Status))
		w.kind, w.code = append(w.kind, int16(r.Kind)), append(w.code, int32(r.Code))
		w.notBefore = append(w.notBefore, w.clock.out(m.NotBefore))
		w.inDoubt = append(w.inDoubt, m.Tries.InDoubt)
		w.tries, w.line = append(w.tries, packTries(&m.Tries, w.clock)), append(w.line, []byte(r.Line))
		body := r.Body
		if len(body) == 0 {
			body = nil
		}
		w.body, w.headers = append(w.body, body), append(w.headers, storage.PackHeaders(r.Headers))
	}
}

// step returns the statement. owned is called with the position, from 0, of each claim that is
// still its queue's newest.
func (w *recordArgs) step(owned func(nth int, s storage.Signals)) step {
	return get("record", func(r pgx.Rows) error {
		var nth int
		var s storage.Signals
		if err := r.Scan(&nth, &s.Stopped, &s.Deleted, &s.Paused); err != nil {
			return err
		}
		owned(nth-1, s)
		return nil
	}, w.batches, w.queues, w.epochs,
		w.claim, w.batch, w.index, w.state, w.tries, w.notBefore, w.status, w.code, w.kind, w.line, w.body, w.headers, w.inDoubt)
}

// packTries encodes Tries except InDoubt, which has its own column. Numbers are varints, and times
// are milliseconds by the database's clock.
func packTries(t *storage.Tries, c *clock) []byte {
	maybe := int64(0)
	if t.MaybeDone {
		maybe = 1
	}
	b := make([]byte, 0, 32)
	for _, n := range []int64{
		int64(t.Attempts), int64(t.Retries), int64(t.Throttles), maybe,
		c.out(t.ThrottledSince), c.out(t.StartedAt), c.out(t.EndedAt),
	} {
		b = binary.AppendVarint(b, n)
	}
	return b
}

// unpackTries is the inverse of packTries.
func unpackTries(b []byte, c *clock) (t storage.Tries, err error) {
	var numbers [7]int64
	for i := range numbers {
		n, length := binary.Varint(b)
		if length <= 0 {
			return t, fmt.Errorf("%w: a mark's tries at number %d", storage.ErrDamaged, i)
		}
		numbers[i], b = n, b[length:]
	}
	return storage.Tries{
		Attempts: int(numbers[0]), Retries: int(numbers[1]), Throttles: int(numbers[2]), MaybeDone: numbers[3] != 0,
		ThrottledSince: c.in(numbers[4]), StartedAt: c.in(numbers[5]), EndedAt: c.in(numbers[6]),
	}, nil
}
