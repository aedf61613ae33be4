package storagetest

import (
	"slices"
	"testing"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// RunReopen checks that everything acknowledged is still there after a restart. database creates an
// empty database and returns a function that opens it. Each call of that function opens the same
// database again, after the earlier Storage was closed. The database is closed when the test ends;
// a second Close must do no harm.
func RunReopen(t *testing.T, database func(t *testing.T) (open func(t *testing.T) storage.Storage)) {
	for _, tt := range slices.Concat(reopenTests, diedTests) {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			open := database(t)
			f := &fixture{t, open(t)}
			tt.run(f, func() {
				t.Helper()
				if err := f.s.Close(); err != nil {
					t.Fatal(err)
				}
				f.s = open(t)
			})
		})
	}
}

// reopenTest checks a sentence of the contract about a restart.
type reopenTest struct {
	name string
	run  func(f *fixture, reopen func())
}

var reopenTests = []reopenTest{
	{"batches of every status", func(f *fixture, reopen func()) {
		ended, running, queued := oddBatch(), oddBatch(), oddBatch()
		c := f.claimed(ended)
		f.create(running)
		f.create(queued)
		want := []storage.Mark{done(0, odd), begun(1), waiting(2)}
		c = f.finish(c, done(0, odd), done(3, ""))
		f.record(c, want...)
		all := []*storage.NewBatch{ended, running, queued}
		var before []*storage.Status
		for _, b := range all {
			before = append(before, f.status(b))
		}
		reopen()
		for i, b := range all {
			expect(f.T, "status", f.status(b), before[i])
		}
		expect(f.T, "found", f.search(queued, batch.Queued), []batch.Ticket{queued.Ticket})
		expect(f.T, "runnable", f.runnable(), []storage.Runnable{{Queue: c.Queue}})
		again := f.claim(c.Queue)
		expectLarger(f.T, again, c)
		expect(f.T, "ticket", again.Ticket, running.Ticket)
		expect(f.T, "options", again.Options, running.Options)
		expect(f.T, "requests", again.Requests, running.Requests)
		expect(f.T, "credential", again.Credential, running.Credential)
		expectMarks(f.T, again.Marks, unread(want[0]), want[1], unread(want[2]))
		f.expectStale(c)
		expect(f.T, "the next claim", f.finish(again).Ticket, queued.Ticket)
	}},
	{"the time of a release", func(f *fixture, reopen func()) {
		c := f.claimed(newBatch("s", 1))
		f.release(c, moment(5), waiting(0))
		reopen()
		expect(f.T, "runnable", f.runnable(), []storage.Runnable{{Queue: c.Queue, NotBefore: moment(5)}})
		expectMarks(f.T, f.claim(c.Queue).Marks, unread(waiting(0)))
		reopen()
		expect(f.T, "runnable after a claim", f.runnable(), []storage.Runnable{{Queue: c.Queue}})
	}},
	{"deduplication keys and quotas", func(f *fixture, reopen func()) {
		first, deleted := withDedup(newBatch("s", 1)), withDedup(newBatch("t", 1))
		q := f.create(first)
		f.create(deleted)
		f.delete(deleted)
		reopen()
		again := withQuota(newBatch("s", 1), 1)
		again.DedupKey = first.DedupKey
		f.expectDuplicate(again, first, q)
		free := newBatch("t", 1)
		free.DedupKey = deleted.DedupKey
		f.create(free)
		full := withQuota(newBatch("s", 1), 1)
		if _, err := f.s.Create(f.Context(), full); err == nil {
			f.Error("the quota was forgotten")
		}
	}},
	{"stops and deletes", func(f *fixture, reopen func()) {
		running, queued, removed := newBatch("s", 1), newBatch("s", 1), newBatch("s", 1)
		c := f.claimed(running)
		f.create(queued)
		f.create(removed)
		id := f.status(removed).ID
		for _, b := range []*storage.NewBatch{running, queued} {
			f.stop(byTicket(b))
		}
		f.delete(removed)
		reopen()
		expect(f.T, "stopped before it was started", f.outcome(queued), "COMPLETED -")
		f.gone(removed, id)
		expect(f.T, "stopped again", f.stop(byTicket(running)).Count, 0)
		again := f.claim(c.Queue)
		expect(f.T, "told", again.Signals, storage.Signals{Stopped: true})
		expect(f.T, "the next claim", f.finish(again), (*storage.Claim)(nil))
	}},
	{"a delete of a running batch", func(f *fixture, reopen func()) {
		b := newBatch("s", 1)
		c := f.claimed(b)
		f.delete(b)
		reopen()
		f.gone(b, c.ID)
		again := f.claim(c.Queue)
		expect(f.T, "told", again.Signals.Deleted, true)
		f.finish(again)
	}},
	{"settings", func(f *fixture, reopen func()) {
		f.putSetting("name", odd)
		reopen()
		f.expectSetting("name", odd)
	}},
	{"an abandon of requests that an earlier process had in flight", func(f *fixture, reopen func()) {
		b := newBatch("s", 3)
		f.record(f.claimed(b), done(0, ""), begun(1))
		reopen()
		f.abandon(1)
		reopen()
		expect(f.T, "outcome", f.outcome(b), "COMPLETED 200 502 -")
		expect(f.T, "runnable", len(f.runnable()), 0)
	}},
	{"a purge, and IDs that are not reused", func(f *fixture, reopen func()) {
		gone := f.claimed(newBatch("s", 1))
		f.finish(gone)
		f.purge(0)
		reopen()
		now := f.claimed(newBatch("s", 1))
		if now.ID <= gone.ID || now.Queue == gone.Queue && now.Epoch <= gone.Epoch {
			f.Errorf("batch %d, queue %d, epoch %d come after %d, %d, %d", now.ID, now.Queue, now.Epoch, gone.ID, gone.Queue, gone.Epoch)
		}
		f.release(now, time.Time{})
	}},
}
