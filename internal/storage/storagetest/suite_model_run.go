package storagetest

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
	"pgregory.net/rapid"
)

// anyQueue draws a queue that was used before and that fits.
func (m *model) anyQueue(t *rapid.T, fits func(q *pair) bool) *pair {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(m.queues)) {
		if fits(m.queues[name]) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		redraw(t, "no such queue")
	}
	return m.queues[rapid.SampledFrom(names).Draw(t, "queue")]
}

// claim claims a queue, even if it is already claimed, which voids the earlier claim.
func (m *model) claim(t *rapid.T) {
	q := m.anyQueue(t, func(*pair) bool { return true })
	actual, memory, ok := both(t, m, "Claim", func(s storage.Storage, side int) (*storage.Claim, error) { return s.Claim(t.Context(), q.ids[side]) })
	if !ok {
		return
	}
	if last := q.last(); last != nil && last.actual.Queue == actual.Queue && actual.Epoch <= last.actual.Epoch {
		t.Fatalf("epoch %d comes after %d", actual.Epoch, last.actual.Epoch)
	}
	m.take(t, q, actual, memory)
}

// last returns the queue's most recent claim, if any.
func (q *pair) last() *claims {
	if q.claim != nil {
		return q.claim
	}
	if len(q.stale) > 0 {
		return q.stale[len(q.stale)-1]
	}
	return nil
}

// take makes a claim the queue's newest.
func (m *model) take(t *rapid.T, q *pair, actual, memory *storage.Claim) {
	if (actual == nil) != (memory == nil) {
		t.Fatalf("got claim %v, the model says %v", actual, memory)
	}
	if q.claim != nil {
		q.stale = append(q.stale, q.claim)
	}
	if q.claim = nil; actual == nil {
		return
	}
	if _, _, ok := both(t, m, "Load", func(s storage.Storage, side int) (struct{}, error) {
		return struct{}{}, s.Load(t.Context(), (&claims{actual, memory}).of(side))
	}); !ok {
		t.Fatal("the claim is the newest, and can't be loaded")
	}
	same(t, "claim", plainClaim(actual), plainClaim(memory))
	q.claim = &claims{actual, memory}
}

// plainClaim leaves out what differs between two databases: ids, epochs and times.
func plainClaim(c *storage.Claim) string {
	return fmt.Sprintf("%s %q %x %q %+v %d %+v %q %+v %+v", c.Ticket, c.Store, c.Owner, c.GroupID, c.Options, c.Total, c.Requests,
		c.Credential, plainMarks(c.Marks), c.Signals)
}

func isClaimed(q *pair) bool { return q.claim != nil }

// marks draws marks for requests that have not ended. A recorded answer is never followed by
// another mark.
func (m *model) marks(t *rapid.T, q *pair) (out []storage.Mark) {
	open, answered := map[int]bool{}, map[int]bool{}
	b := m.memory.m.byID(q.claim.memory.ID)
	for i := range q.claim.memory.Requests {
		_, ended := b.done(i)
		open[i], answered[i] = !ended, b.marks[i].Result.Status != 0
	}
	for range rapid.IntRange(0, 3).Draw(t, "marks") {
		i := rapid.IntRange(0, len(open)-1).Draw(t, "index")
		if !open[i] {
			continue
		}
		kinds := []storage.Mark{begun(i), waiting(i), postponed(i), done(i, ""), done(i, "0123456789"), failed(i), doubtful(i), skipped(i)}
		if answered[i] {
			kinds = append(kinds, storage.Mark{Index: i, State: storage.Done, Tries: tries(3)})
		}
		k := kinds[rapid.IntRange(0, len(kinds)-1).Draw(t, "mark")]
		open[i], answered[i] = k.State != storage.Done, answered[i] || k.Result.Status != 0
		out = append(out, k)
	}
	return out
}

func failed(i int) storage.Mark {
	m := done(i, odd)
	m.Result.Status, m.Result.Code = batch.Failed, 404
	return m
}

// twice repeats a call on the database, as does a caller whose answer was lost.
func twice[T any](t *rapid.T, call func(s storage.Storage, side int) (T, error)) func(s storage.Storage, side int) (T, error) {
	lost := rapid.IntRange(0, 2).Draw(t, "the answer is lost") == 0
	return func(s storage.Storage, side int) (T, error) {
		if side == 0 && lost {
			if out, err := call(s, side); err != nil {
				return out, err
			}
		}
		return call(s, side)
	}
}

func (m *model) record(t *rapid.T) {
	q := m.anyQueue(t, isClaimed)
	marks := m.marks(t, q)
	actual, memory, _ := both(t, m, "Record", twice(t, func(s storage.Storage, side int) (storage.Signals, error) {
		return s.Record(t.Context(), q.claim.of(side), marks)
	}))
	same(t, "signals", actual, memory)
}

func (c *claims) of(side int) *storage.Claim {
	if side == 0 {
		return c.actual
	}
	return c.memory
}

func (m *model) finish(t *rapid.T) {
	q := m.anyQueue(t, isClaimed)
	marks, release := m.marks(t, q), rapid.Bool().Draw(t, "release")
	actual, memory, ok := both(t, m, "Finish", twice(t, func(s storage.Storage, side int) (*storage.Claim, error) {
		return s.Finish(t.Context(), q.claim.of(side), marks, "why", release)
	}))
	if !ok {
		t.Fatal("the claim is the newest, and was not accepted")
	}
	if actual != nil {
		same(t, "epoch", actual.Epoch, q.claim.actual.Epoch)
	}
	former := q.claim
	q.claim = nil
	m.take(t, q, actual, memory)
	if actual == nil {
		q.stale = append(q.stale, former)
	}
}

func (m *model) release(t *rapid.T) {
	q := m.anyQueue(t, isClaimed)
	marks := m.marks(t, q)
	at := rapid.SampledFrom([]time.Time{{}, moment(5), moment(7)}).Draw(t, "not before")
	_, _, ok := both(t, m, "Release", twice(t, func(s storage.Storage, side int) (struct{}, error) {
		return struct{}{}, s.Release(t.Context(), q.claim.of(side), marks, at)
	}))
	if !ok {
		t.Fatal("the claim is the newest, and was not accepted")
	}
	m.take(t, q, nil, nil)
}

// useStale uses a claim that is no longer its queue's newest.
func (m *model) useStale(t *rapid.T) {
	q := m.anyQueue(t, func(q *pair) bool { return q.claim != nil && len(q.stale) > 0 })
	c := q.stale[rapid.IntRange(0, len(q.stale)-1).Draw(t, "claim")]
	if c.actual.Queue == q.claim.actual.Queue && c.actual.Epoch == q.claim.actual.Epoch {
		redraw(t, "a Finish went on under the same epoch")
	}
	how := rapid.IntRange(0, 2).Draw(t, "how")
	_, _, ok := both(t, m, "a stale call", func(s storage.Storage, side int) (_ struct{}, err error) {
		switch how {
		case 0:
			_, err = s.Record(t.Context(), c.of(side), []storage.Mark{done(0, "stale")})
		case 1:
			_, err = s.Finish(t.Context(), c.of(side), []storage.Mark{done(0, "stale")}, "stale", true)
		default:
			err = s.Release(t.Context(), c.of(side), []storage.Mark{done(0, "stale")}, moment(9))
		}
		return struct{}{}, err
	})
	if ok {
		t.Fatal("a stale claim was accepted")
	}
}
