package storagetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
	"pgregory.net/rapid"
)

// RunModel makes the same random calls on a database and on a Memory and compares all their
// answers. It calls open once. Every check has its own stores and leaves nothing unfinished. A
// failure is printed as the shortest sequence of calls that causes it, with its seed.
func RunModel(t *testing.T, open func(t *testing.T) storage.Storage) {
	s := open(t)
	rapid.Check(t, func(t *rapid.T) {
		m := &model{actual: s, memory: NewMemory().Node(), world: uuid.NewString(), queues: map[string]*pair{}}
		defer m.cleanUp(t)
		t.Repeat(map[string]func(*rapid.T){
			"create":         m.create,
			"create again":   m.createAgain,
			"stop":           m.stop,
			"delete":         m.delete,
			"claim":          m.claim,
			"record":         m.record,
			"finish":         m.finish,
			"release":        m.release,
			"use stale":      m.useStale,
			"purge":          m.purge,
			"abandon":        m.abandon,
			"page":           m.page,
			"put a setting":  m.putSetting,
			"first setting":  m.initSetting,
			"look at it all": m.look,
			"":               m.compareRunnable,
		})
	})
}

// model is one check: the two databases and the calls made on both.
type model struct {
	actual  storage.Storage
	memory  *Node
	world   string // prefix of every name, so that checks don't share stores
	batches []*storage.NewBatch
	queues  map[string]*pair // by name
}

// pair is one queue in both databases. IDs and epochs differ between them.
type pair struct {
	ids   [2]storage.QueueID // the database's, the Memory's
	claim *claims            // nil: not claimed
	stale []*claims
}

// claims is one claim in both databases.
type claims struct{ actual, memory *storage.Claim }

// both makes a call on both databases and compares the errors that have a meaning.
func both[T any](t *rapid.T, m *model, what string, call func(s storage.Storage, side int) (T, error)) (actual, memory T, ok bool) {
	t.Helper()
	actual, err := call(m.actual, 0)
	memory, want := call(m.memory, 1)
	if class(err) != class(want) {
		t.Fatalf("%s: got error %v, the model says %v", what, err, want)
	}
	return actual, memory, err == nil
}

// class returns the part of an error that the contract defines.
func class(err error) string {
	var full *storage.QuotaError
	switch {
	case err == nil:
		return ""
	case errors.As(err, &full):
		return fmt.Sprint("quota ", full.Limit, " ", full.Bytes)
	}
	for _, known := range []error{storage.ErrNotFound, storage.ErrNotOwner, storage.ErrNothing} {
		if errors.Is(err, known) {
			return known.Error()
		}
	}
	return "unknown: " + err.Error()
}

func same(t *rapid.T, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("%s: got %+v, the model says %+v", what, got, want)
	}
}

func (m *model) name(t *rapid.T, what string, n int) string {
	return fmt.Sprintf("%s-%s%d", m.world, what, rapid.IntRange(0, n-1).Draw(t, what))
}

func (m *model) create(t *rapid.T) {
	b := newBatch(m.name(t, "store", 2), rapid.IntRange(1, 4).Draw(t, "requests"))
	b.Owner = batch.OwnerOf(rapid.SampledFrom([]string{"x", "x", "y"}).Draw(t, "owner"))
	b.Queue = m.name(t, "queue", 2)
	b.GroupID = rapid.SampledFrom([]string{"", "g", "g"}).Draw(t, "group")
	b.Quota = rapid.SampledFrom([]int{0, 0, 3}).Draw(t, "quota")
	b.QuotaBytes = rapid.SampledFrom([]int64{0, 0, 150, 400}).Draw(t, "quota of bytes")
	b.Options.Parallel, b.Options.StopOnFailure = rapid.Bool().Draw(t, "parallel"), rapid.Bool().Draw(t, "stop on failure")
	b.Options.Concurrency = rapid.SampledFrom([]int{0, 0, 1, 7}).Draw(t, "concurrency")
	if key := rapid.IntRange(0, 2).Draw(t, "dedup"); key > 0 {
		b.DedupKey = uuid.NewSHA1(uuid.Nil, fmt.Append(nil, m.world, key))
	}
	for i := range b.Requests {
		b.Requests[i].ID = rapid.SampledFrom([]string{"", "id"}).Draw(t, "id")
		b.Requests[i].Body = rapid.SampledFrom([][]byte{nil, []byte(`{"a":1}`)}).Draw(t, "body")
	}
	if c, ok := m.createBoth(t, b); ok && !c.Duplicate {
		m.batches = append(m.batches, b)
	}
}

func (m *model) createBoth(t *rapid.T, b *storage.NewBatch) (storage.CreateResult, bool) {
	actual, memory, ok := both(t, m, "Create", func(s storage.Storage, _ int) (storage.CreateResult, error) { return s.Create(t.Context(), b) })
	same(t, "ticket", actual.Ticket, memory.Ticket)
	if actual.Ticket != b.Ticket {
		same(t, "duplicate", actual.Duplicate, memory.Duplicate)
	} else if ok {
		q := m.queues[b.Queue]
		if q == nil {
			q = &pair{}
			m.queues[b.Queue] = q
		}
		q.ids = [2]storage.QueueID{actual.Queue, memory.Queue}
	}
	return actual, ok
}

// createAgain repeats a Create, as does a caller whose answer was lost.
func (m *model) createAgain(t *rapid.T) {
	b := m.anyBatch(t)
	s, err := m.memory.Status(t.Context(), key(b), 0)
	if err != nil {
		redraw(t, "deleted or purged: nobody could repeat its Create")
	}
	c, _ := m.createBoth(t, b)
	same(t, "ticket", c.Ticket, s.Ticket)
}

// redraw rejects an action that doesn't apply in this state, so that rapid draws another one. It
// doesn't skip the test.
func redraw(t *rapid.T, why string) { t.Skip(why) }

func (m *model) anyBatch(t *rapid.T) *storage.NewBatch {
	if len(m.batches) == 0 {
		redraw(t, "no batch yet")
	}
	return m.batches[rapid.IntRange(0, len(m.batches)-1).Draw(t, "batch")]
}

func (m *model) stop(t *rapid.T) {
	b := m.anyBatch(t)
	sel := storage.Selection{Store: b.Store, Owner: b.Owner}
	how := rapid.IntRange(1, 3).Draw(t, "how")
	if how&1 != 0 {
		sel.Ticket = b.Ticket
	}
	if how&2 != 0 {
		sel.GroupID = rapid.SampledFrom([]string{"g", "g", "none"}).Draw(t, "group")
	}
	actual, memory, _ := both(t, m, "Stop", func(s storage.Storage, _ int) (storage.StopResult, error) { return s.Stop(t.Context(), sel) })
	same(t, "stopped", actual.Count, memory.Count)
	same(t, "queues to tell", m.names(t, actual.Queues, 0), m.names(t, memory.Queues, 1))
}

// names returns the names of one side's queues.
func (m *model) names(t *rapid.T, ids []storage.QueueID, side int) []string {
	out := []string{}
	for _, id := range ids {
		name, known := m.nameOf(id, side)
		if !known {
			t.Fatalf("an unknown queue: %d", id)
		}
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

func (m *model) nameOf(id storage.QueueID, side int) (string, bool) {
	for name, q := range m.queues {
		if q.ids[side] == id {
			return name, true
		}
	}
	return "", false
}

func (m *model) delete(t *rapid.T) {
	b := m.anyBatch(t)
	if rapid.IntRange(0, 4).Draw(t, "foreign") == 0 {
		foreign := *b
		foreign.Owner = batch.OwnerOf("a stranger")
		b = &foreign
	}
	actual, memory, ok := both(t, m, "Delete", func(s storage.Storage, _ int) (storage.QueueID, error) { return s.Delete(t.Context(), key(b)) })
	if ok {
		same(t, "queue", m.names(t, []storage.QueueID{actual}, 0), m.names(t, []storage.QueueID{memory}, 1))
	}
}

// look compares everything that can be read.
func (m *model) look(t *rapid.T) {
	for _, b := range m.batches {
		actual, memory, ok := both(t, m, "Status", func(s storage.Storage, _ int) (*storage.Status, error) {
			return s.Status(t.Context(), key(b), everything)
		})
		if ok {
			same(t, "status", plainStatus(actual), plainStatus(memory))
		}
		for _, state := range []batch.Status{batch.Queued, batch.InProgress, batch.Completed} {
			actual, memory, _ := both(t, m, "Find", func(s storage.Storage, _ int) ([]match, error) { return search(t.Context(), s, b, state, 1000, 0) })
			same(t, "found", actual, memory)
		}
	}
	for i := range 2 {
		name := fmt.Sprint(m.world, i)
		actual, memory, _ := both(t, m, "Setting", func(s storage.Storage, _ int) (string, error) { return s.Setting(t.Context(), name) })
		same(t, "setting", actual, memory)
	}
}

// plainStatus leaves out what differs between two databases: ids and times.
func plainStatus(s *storage.Status) string {
	results := slices.Clone(s.Results)
	for i := range results {
		results[i].Result = plain(results[i].Result)
	}
	return fmt.Sprintf("%s %s %q %d/%d %d %d started %t ended %t %q %q %v %v", s.Ticket, s.Status, s.GroupID, s.Completed, s.Total, s.Failed, s.InDoubt,
		!s.StartedAt.IsZero(), !s.EndedAt.IsZero(), s.Reason, s.IDs, s.Ended, results)
}

// page compares one page of results and one of a search.
func (m *model) page(t *rapid.T) {
	b := m.anyBatch(t)
	from, maxBytes := rapid.IntRange(0, 5).Draw(t, "from"), rapid.IntRange(1, 20).Draw(t, "bytes")
	actual, memory, ok := both(t, m, "Results", func(s storage.Storage, _ int) ([]storage.IndexedResult, error) {
		st, err := s.Status(t.Context(), key(b), 0)
		if err != nil {
			return nil, err
		}
		return s.Results(t.Context(), st.ID, from, maxBytes)
	})
	if ok {
		same(t, "results", indexes(actual), indexes(memory))
	}
	state := rapid.SampledFrom([]batch.Status{batch.Queued, batch.InProgress, batch.Completed}).Draw(t, "status")
	limit, offset := rapid.IntRange(1, 3).Draw(t, "limit"), rapid.IntRange(0, 3).Draw(t, "offset")
	found, want, _ := both(t, m, "Find", func(s storage.Storage, _ int) ([]match, error) {
		return search(t.Context(), s, b, state, limit, offset)
	})
	same(t, "found", found, want)
}

func (m *model) putSetting(t *rapid.T) {
	name := m.world + rapid.SampledFrom([]string{"0", "1"}).Draw(t, "name")
	value := rapid.SampledFrom([]string{"", "value", odd}).Draw(t, "value")
	both(t, m, "PutSetting", func(s storage.Storage, _ int) (struct{}, error) {
		return struct{}{}, s.PutSetting(t.Context(), name, value)
	})
}

func (m *model) initSetting(t *rapid.T) {
	name := m.world + rapid.SampledFrom([]string{"0", "1"}).Draw(t, "name")
	value := rapid.SampledFrom([]string{"first", odd}).Draw(t, "value")
	actual, memory, _ := both(t, m, "InitSetting", func(s storage.Storage, _ int) (string, error) {
		return s.InitSetting(t.Context(), name, value)
	})
	same(t, "stored", actual, memory)
}

func (m *model) purge(t *rapid.T) {
	retention := rapid.SampledFrom([]time.Duration{0, time.Hour}).Draw(t, "retention")
	for side, s := range []storage.Storage{m.actual, m.memory} {
		for more := true; more; {
			var err error
			if more, err = s.Purge(t.Context(), retention); err != nil {
				t.Fatalf("Purge (%d): %v", side, err)
			}
		}
	}
}

// abandon applies only before anything is claimed.
func (m *model) abandon(t *rapid.T) {
	for _, q := range m.queues {
		if q.claim != nil {
			redraw(t, "a queue is claimed")
		}
	}
	if rapid.IntRange(0, 3).Draw(t, "rarely") > 0 {
		redraw(t, "not now")
	}
	actual, memory, _ := both(t, m, "Abandon", func(s storage.Storage, _ int) (int, error) { return s.Abandon(t.Context(), inDoubt, "abandoned") })
	same(t, "abandoned", actual, memory)
}

// compareRunnable runs after every call.
func (m *model) compareRunnable(t *rapid.T) {
	var sides [2]map[string]time.Time
	for side, s := range []storage.Storage{m.actual, m.memory} {
		found, err := s.Runnable(t.Context(), 0, 1000)
		if err != nil {
			t.Fatalf("Runnable (%d): %v", side, err)
		}
		sides[side] = map[string]time.Time{}
		for _, r := range found {
			if name, known := m.nameOf(r.Queue, side); known {
				sides[side][name] = stamp(r.NotBefore)
			} else {
				t.Fatalf("Runnable tells of an unknown queue: %d", r.Queue)
			}
		}
		if !slices.IsSortedFunc(found, func(a, b storage.Runnable) int { return int(a.Queue - b.Queue) }) {
			t.Fatalf("Runnable (%d) is not in order: %v", side, found)
		}
	}
	same(t, "runnable", sides[0], sides[1])
}

// cleanUp ends what the check has left unfinished.
func (m *model) cleanUp(t *rapid.T) {
	ctx := context.WithoutCancel(t.Context())
	for _, name := range slices.Sorted(maps.Keys(m.queues)) {
		if c := m.queues[name].claim; c != nil {
			if err := m.actual.Release(ctx, c.actual, nil, time.Time{}); err != nil {
				t.Errorf("release at the end: %v", err)
			}
		}
	}
	if _, err := m.actual.Abandon(ctx, inDoubt, "the check is over"); err != nil {
		t.Errorf("abandon at the end: %v", err)
	}
}
