package storagetest

import (
	"fmt"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// doubtful returns the mark of a request that is in doubt.
func doubtful(i int) storage.Mark {
	m := failure(i, 504)
	m.Tries.MaybeDone, m.Tries.InDoubt = true, true
	return m
}

// formerlyDoubtful returns the mark of a request in doubt as recorded by versions that recorded
// only a message.
func formerlyDoubtful(i int) storage.Mark {
	m := failure(i, batch.OutcomeUnknown.Code)
	m.Result = batch.OutcomeUnknown
	return m
}

// doubts returns which results are in doubt, and the numbers that each kind of count returns:
// requests that were executed, those that failed, and those in doubt.
func (f *fixture) doubts(b *storage.NewBatch) string {
	f.Helper()
	st := f.status(b)
	out := ""
	for _, r := range st.Results {
		if r.InDoubt {
			out += fmt.Sprint(r.Index, " ")
		}
	}
	counts := fmt.Sprint(st.Completed, st.Failed, st.InDoubt)
	short, err := f.s.Status(f.Context(), key(b), 0)
	if err != nil {
		f.Fatalf("Status: %v", err)
	}
	expect(f.T, "counts without results", fmt.Sprint(short.Completed, short.Failed, short.InDoubt), counts)
	page, err := f.s.Find(f.Context(), filterOf(b))
	if err != nil || len(page.Batches) != 1 {
		f.Fatalf("Find: %+v, %v", page, err)
	}
	s := page.Batches[0]
	expect(f.T, "counts of a summary", fmt.Sprint(s.Completed, s.Failed, s.InDoubt), counts)
	group, err := f.s.Group(f.Context(), b.Store, b.Owner, b.GroupID)
	if err != nil {
		f.Fatalf("Group: %v", err)
	}
	expect(f.T, "counts of the group", fmt.Sprint(group.Succeeded+group.Failed, group.Failed, group.InDoubt), counts)
	return out + "of " + counts
}

var doubtTests = []test{
	{"a request in doubt is distinguished and counted, while its batch runs and afterwards", func(f *fixture) {
		b := calling("s", 8)
		c := f.claimed(b)
		expect(f.T, "at first", f.doubts(b), "of 0 0 0")
		succeeded, left := done(4, "x"), skipped(5)
		succeeded.Tries.InDoubt, left.Tries.InDoubt = true, true
		f.record(c, done(0, "x"), failure(1, 504), doubtful(2), formerlyDoubtful(3), succeeded, left)
		expect(f.T, "while it runs", f.doubts(b), "2 3 of 5 3 2")
		again := doubtful(6)
		again.State = storage.Waiting
		f.record(c, again)
		expect(f.T, "one that waits is not in doubt yet", f.doubts(b), "2 3 of 5 3 2")
		f.finish(c, storage.Mark{Index: 6, State: storage.Done, Tries: again.Tries})
		expect(f.T, "at the end", f.doubts(b), "2 3 6 of 6 4 3")
		d := f.due(time.Hour)
		if len(d) != 1 || d[0].Completed != 6 || d[0].Failed != 4 || d[0].InDoubt != 3 {
			f.Errorf("deliveries: %+v", d)
		}
		listed := f.deliveries(b, b.Ticket)
		expect(f.T, "counts of the listed delivery", listed[0].InDoubt, 3)
	}},
	{"a mark stays in doubt until a later one settles it", func(f *fixture) {
		b := newBatch("s", 2)
		c := f.claimed(b)
		tried := waiting(0)
		tried.Tries.InDoubt = true
		f.release(c, time.Time{}, tried)
		c = f.claim(c.Queue)
		expect(f.T, "loaded", c.Marks[0].Tries, tried.Tries)
		f.finish(c, failure(0, 404))
		expect(f.T, "a later answer settles it", f.status(b).InDoubt, 0)
	}},
	{"if a batch ends without its runner, its requests in flight are in doubt", func(f *fixture) {
		abandoned, aside := calling("a", 3), calling("b", 3)
		for _, b := range []*storage.NewBatch{abandoned, aside} {
			b.GroupID = b.Store
		}
		c := f.claimed(abandoned)
		f.release(c, moment(5), done(0, "x"), begun(1), waiting(2))
		c = f.claimed(aside)
		f.record(c, begun(0), waiting(1))
		f.quarantine(c, "it can't be run")
		f.stop(byTicket(aside))
		expect(f.T, "set aside and stopped", f.doubts(aside), "0 of 2 2 1")
		f.abandon(1)
		expect(f.T, "abandoned", f.doubts(abandoned), "1 of 3 2 1")
	}},
	{"a filter selects batches with requests in doubt", func(f *fixture) {
		var all []*storage.NewBatch
		for range 4 {
			b := newBatch("s", 2)
			b.GroupID = "g"
			all = append(all, b)
			f.create(b)
		}
		q := f.create(newBatch("s", 1))
		for _, end := range []storage.Mark{failure(0, 404), doubtful(0), formerlyDoubtful(1)} {
			f.end(f.claim(q), end)
		}
		f.record(f.claim(q), doubtful(0))
		want := filterOf(all[0])
		want.InDoubt = true
		expect(f.T, "all", f.found(want, all...), "[2 1]")
		want.GroupID = "g"
		expect(f.T, "of a group", f.found(want, all...), "[2 1]")
		want.Status = batch.InProgress
		expect(f.T, "that run", f.found(want, all...), "[]")
	}},
}
