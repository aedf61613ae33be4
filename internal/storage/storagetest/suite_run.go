package storagetest

import (
	"bytes"
	"fmt"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

var runningTests = []test{
	{"a queue with an open batch and no owner is runnable", func(f *fixture) {
		expect(f.T, "an empty database", len(f.runnable()), 0)
		q := f.create(newBatch("s", 1))
		f.create(newBatch("s", 1))
		want := []storage.Runnable{{Queue: q}}
		expect(f.T, "created", f.runnable(), want)
		c := f.claim(q)
		expect(f.T, "claimed", len(f.runnable()), 0)
		f.release(c, time.Time{})
		expect(f.T, "released", f.runnable(), want)
		c = f.finish(f.claim(q))
		expect(f.T, "the first one ended", len(f.runnable()), 0)
		f.finish(c)
		expect(f.T, "both ended", len(f.runnable()), 0)
	}},
	{"runnable queues are listed in pages", func(f *fixture) {
		for i := range 5 {
			f.create(newBatch(fmt.Sprint(i), 1))
		}
		all := f.runnable()
		expect(f.T, "queues", len(all), 5)
		var pages []storage.Runnable
		var after storage.QueueID
		for range 3 {
			page, err := f.s.Runnable(f.Context(), after, 2)
			if err != nil {
				f.Fatal(err)
			}
			for _, r := range page {
				if r.Queue <= after {
					f.Errorf("queue %d comes after %d", r.Queue, after)
				}
				after = r.Queue
			}
			pages = append(pages, page...)
		}
		expect(f.T, "the pages", pages, all)
	}},
	{"without an open batch there is nothing to claim", func(f *fixture) {
		_, err := f.s.Claim(f.Context(), 1<<40)
		expectError(f.T, "an unknown queue", err, storage.ErrNothing)
		c := f.claimed(newBatch("s", 1))
		f.finish(c)
		_, err = f.s.Claim(f.Context(), c.Queue)
		expectError(f.T, "an empty queue", err, storage.ErrNothing)
		f.create(newBatch("s", 1))
		expect(f.T, "runnable afterwards", len(f.runnable()), 1)
	}},
	{"a claim has everything that was recorded", func(f *fixture) {
		b := newBatch("s", 4)
		c := f.claimed(b)
		expectMarks(f.T, c.Marks)
		f.record(c, waiting(3), begun(0))
		f.record(c, done(2, "the answer"))
		again := f.claim(c.Queue)
		expect(f.T, "ticket", again.Ticket, b.Ticket)
		expectMarks(f.T, again.Marks, begun(0), unread(done(2, "the answer")), unread(waiting(3)))
		expect(f.T, "the result", string(f.status(b).Results[0].Body), "the answer")
	}},
	{"a later mark replaces an earlier one, also in one record", func(f *fixture) {
		c := f.claimed(newBatch("s", 4))
		f.record(c, begun(0), waiting(1), begun(2))
		again := begun(1)
		again.Tries.Attempts = 7
		f.record(c, waiting(0), again, waiting(2), begun(2), done(2, "x"), waiting(3), begun(3))
		expectMarks(f.T, f.claim(c.Queue).Marks, unread(waiting(0)), again, unread(done(2, "x")), begun(3))
	}},
	{"an answer that was recorded is final", func(f *fixture) {
		b := newBatch("s", 3)
		c := f.claimed(b)
		f.record(c, done(0, "x"), done(1, "y"))
		f.record(c, begun(0), waiting(1), done(2, "z"), begun(2))
		expect(f.T, "outcome", f.outcome(b), "IN_PROGRESS 200 200 200")
		expectMarks(f.T, f.claim(c.Queue).Marks, unread(done(0, "")), unread(done(1, "")), unread(done(2, "")))
	}},
	{"a batch is started once", func(f *fixture) {
		b := newBatch("s", 1)
		c := f.claimed(b)
		started := f.status(b).StartedAt
		for !now().After(started) { // until the clock has moved by a millisecond
			c = f.claim(c.Queue)
		}
		f.release(f.claim(c.Queue), time.Time{})
		f.finish(f.claim(c.Queue))
		expect(f.T, "the start", f.status(b).StartedAt, started)
	}},
	{"500 marks in one record", func(f *fixture) {
		b := newBatch("s", batch.MaxRequests)
		c := f.claimed(b)
		var marks []storage.Mark
		for i := range batch.MaxRequests {
			marks = append(marks, done(i, fmt.Sprint("answer ", i)))
		}
		f.record(c, marks...)
		s := f.status(b)
		expect(f.T, "completed", s.Completed, batch.MaxRequests)
		expect(f.T, "status", s.Status, batch.InProgress)
		for i, r := range s.Results {
			expect(f.T, "body", string(r.Body), fmt.Sprint("answer ", i))
		}
		expect(f.T, "marks", len(f.claim(c.Queue).Marks), batch.MaxRequests)
	}},
	{"a record without marks only returns the signals", func(f *fixture) {
		b := newBatch("s", 1)
		c := f.claimed(b)
		expect(f.T, "nothing asked for", f.record(c), storage.Signals{})
		f.stop(storage.Selection{Store: b.Store, Owner: b.Owner, Ticket: b.Ticket})
		expect(f.T, "stopped", f.record(c), storage.Signals{Stopped: true})
		f.delete(b)
		s := f.record(c, done(0, ""))
		expect(f.T, "deleted", s.Deleted, true)
		again := f.claim(c.Queue)
		expect(f.T, "told to the next runner", again.Signals.Deleted, true)
		expectMarks(f.T, again.Marks, unread(done(0, "")))
	}},
	{"the last marks are stored with the end", func(f *fixture) {
		b := newBatch("s", 3)
		c := f.claimed(b)
		f.record(c, done(0, "first"), begun(1), waiting(2))
		f.finish(c, done(1, "second"), done(2, "third"))
		expect(f.T, "outcome", f.outcome(b), "COMPLETED 200 200 200")
	}},
	{"the end removes the credential", func(f *fixture) {
		a, b := newBatch("s", 1), newBatch("s", 1)
		c := f.claimed(a)
		f.create(b)
		next := f.finish(c)
		expect(f.T, "the next one's credential", string(next.Credential), string(b.Credential))
		expect(f.T, "the next one's epoch", next.Epoch, c.Epoch)
		expect(f.T, "the next one's queue", next.Queue, c.Queue)
	}},
	{"a release keeps the batch for its next runner", func(f *fixture) {
		b := newBatch("s", 2)
		c := f.claimed(b)
		f.release(c, moment(5), done(0, "kept"), waiting(1))
		expect(f.T, "runnable", f.runnable(), []storage.Runnable{{Queue: c.Queue, NotBefore: moment(5)}})
		expect(f.T, "status", f.status(b).NotBefore, moment(5))
		again := f.claim(c.Queue)
		expect(f.T, "status of what is run", f.status(b).NotBefore, time.Time{})
		expect(f.T, "ticket", again.Ticket, b.Ticket)
		expectMarks(f.T, again.Marks, unread(done(0, "kept")), unread(waiting(1)))
		f.release(again, time.Time{})
		expect(f.T, "runnable at once", f.runnable(), []storage.Runnable{{Queue: c.Queue}})
	}},
	{"a claim clears the time of an earlier release", func(f *fixture) {
		c := f.claimed(newBatch("s", 1))
		f.create(newBatch("s", 1))
		f.release(c, moment(5))
		c = f.claim(c.Queue)
		if _, err := f.s.Finish(f.Context(), c, nil, "", true); err != nil {
			f.Fatal(err)
		}
		expect(f.T, "runnable", f.runnable(), []storage.Runnable{{Queue: c.Queue}})
	}},
	{"a create does not shorten the wait", func(f *fixture) {
		c := f.claimed(newBatch("s", 1))
		f.release(c, moment(5))
		f.create(newBatch("s", 1))
		expect(f.T, "runnable", f.runnable(), []storage.Runnable{{Queue: c.Queue, NotBefore: moment(5)}})
	}},
	{"an end with release leaves the next batch to other nodes", func(f *fixture) {
		c := f.claimed(newBatch("s", 1))
		b := newBatch("s", 1)
		f.create(b)
		next, err := f.s.Finish(f.Context(), c, nil, "", true)
		if err != nil || next != nil {
			f.Fatalf("got %v, %v", next, err)
		}
		expect(f.T, "runnable", f.runnable(), []storage.Runnable{{Queue: c.Queue}})
		if s := f.status(b); !s.StartedAt.IsZero() {
			f.Error("the next batch was started")
		}
		expect(f.T, "the next claim", f.claim(c.Queue).Ticket, b.Ticket)
	}},
	{"a claim is small", func(f *fixture) {
		b := newBatch("s", 3)
		b.Requests[1].Body = bytes.Repeat([]byte("0123456789abcdef"), 128<<10)
		q := f.create(b)
		c, err := f.s.Claim(f.Context(), q)
		if err != nil {
			f.Fatal(err)
		}
		if c.Requests != nil || c.Marks != nil || len(c.Packed) > 64<<10 {
			f.Errorf("the claim has %d requests, %d marks and %d packed bytes", len(c.Requests), len(c.Marks), len(c.Packed))
		}
		if c.Total != 3 || c.Bytes < 2<<20 || c.Bytes > 3<<20 {
			f.Errorf("the claim promises %d requests of %d bytes", c.Total, c.Bytes)
		}
		f.load(c)
		expect(f.T, "requests", c.Requests, b.Requests)
		w := waiting(0)
		w.Result.Body, w.Result.Headers = b.Requests[1].Body, done(0, "").Result.Headers
		f.record(c, w)
		f.load(c)
		expectMarks(f.T, c.Marks, unread(w))
	}},
	{"a mark without an answer keeps the stored one", func(f *fixture) {
		for _, size := range []int{10, 1 << 20} {
			for _, apart := range []bool{false, true} {
				b := newBatch(fmt.Sprint("s", size, apart), 4)
				c := f.claimed(b)
				answer := func(i int) storage.Mark {
					m := waiting(i)
					m.Result.Body = bytes.Repeat([]byte{'a' + byte(i)}, size)
					m.Result.Headers = done(0, "").Result.Headers
					return m
				}
				end := storage.Mark{Index: 2, State: storage.Done, Tries: tries(5)}
				for _, marks := range [][]storage.Mark{
					{answer(0), answer(1), answer(2), begun(3)},
					{begun(0), begun(1), begun(2), postponed(3)},
					{postponed(0), done(1, "another"), postponed(2)},
				} {
					f.record(c, marks...)
					if apart { // so that the marks are in their places, if the database has a journal
						f.release(c, time.Time{})
						c = f.claim(c.Queue)
					}
				}
				want := postponed(0)
				want.Result = unread(answer(0)).Result
				stays := postponed(2)
				stays.Result = unread(answer(2)).Result
				c = f.claim(c.Queue)
				expectMarks(f.T, c.Marks, want, unread(done(1, "another")), stays, postponed(3))
				f.record(c, end)
				f.finish(c, storage.Mark{Index: 0, State: storage.Done, Tries: tries(5)})
				s := f.status(b)
				expect(f.T, "outcome", f.outcome(b), "COMPLETED 503 200 503 -")
				expect(f.T, "the kept answer", s.Results[0].Result, answer(0).Result)
				expect(f.T, "the new answer", string(s.Results[1].Body), "another")
				expect(f.T, "the answer that ended it", s.Results[2].Result, answer(2).Result)
			}
		}
	}},
}

var epochTests = []test{
	{"each claim has a larger epoch than the one before", func(f *fixture) {
		c := f.claimed(newBatch("s", 1))
		for range 5 {
			next := f.claim(c.Queue)
			if next.Epoch <= c.Epoch {
				f.Errorf("epoch %d comes after %d", next.Epoch, c.Epoch)
			}
			if c = next; c.Epoch%2 == 0 {
				f.release(c, time.Time{})
			}
		}
	}},
	{"a claim that was followed by another changes nothing", func(f *fixture) {
		b := newBatch("s", 2)
		stale := f.claimed(b)
		c := f.claim(stale.Queue)
		f.record(c, begun(1))
		f.expectStale(stale)
		expect(f.T, "outcome", f.outcome(b), "QUEUED - -")
		expect(f.T, "runnable", len(f.runnable()), 0)
		expectMarks(f.T, f.claim(c.Queue).Marks, begun(1))
	}},
	{"even after the other claim was released", func(f *fixture) {
		b := newBatch("s", 1)
		stale := f.claimed(b)
		f.release(f.claim(stale.Queue), moment(5))
		f.expectStale(stale)
		expect(f.T, "outcome", f.outcome(b), "QUEUED -")
		expect(f.T, "runnable", f.runnable(), []storage.Runnable{{Queue: stale.Queue, NotBefore: moment(5)}})
	}},
	{"even after the other claim ended the batch", func(f *fixture) {
		a, b := newBatch("s", 1), newBatch("s", 1)
		stale := f.claimed(a)
		f.create(b)
		f.finish(f.claim(stale.Queue), done(0, "mine"))
		f.expectStale(stale)
		expect(f.T, "outcome", f.outcome(a), "COMPLETED 200")
		expect(f.T, "the next one", f.outcome(b), "QUEUED -")
	}},
	{"an epoch means nothing in another queue", func(f *fixture) {
		c := f.claimed(newBatch("s", 1))
		b := newBatch("t", 1)
		other := f.claimed(b)
		for range 3 {
			other = f.claim(other.Queue)
		}
		wrong := *c
		wrong.Epoch = other.Epoch
		f.expectStale(&wrong)
	}},
}

// expectStale checks that no call with the claim is accepted.
func (f *fixture) expectStale(c *storage.Claim) {
	f.Helper()
	marks := []storage.Mark{done(0, "stale")}
	_, err := f.s.Record(f.Context(), c, marks)
	expectError(f.T, "Record", err, storage.ErrNotOwner)
	_, err = f.s.Record(f.Context(), c, nil)
	expectError(f.T, "Record without marks", err, storage.ErrNotOwner)
	for _, release := range []bool{false, true} {
		_, err = f.s.Finish(f.Context(), c, marks, "stale", release)
		expectError(f.T, "Finish", err, storage.ErrNotOwner)
	}
	expectError(f.T, "Release", f.s.Release(f.Context(), c, marks, time.Time{}), storage.ErrNotOwner)
}

// repeatTests repeat calls whose first answer may have been lost.
var repeatTests = []test{
	{"create", func(f *fixture) {
		for _, b := range []*storage.NewBatch{newBatch("s", 1), withDedup(newBatch("t", 1)), withQuota(newBatch("u", 1), 1)} {
			q := f.create(b)
			for range 2 {
				c, err := f.s.Create(f.Context(), b)
				if err != nil {
					f.Fatal(err)
				}
				expect(f.T, "ticket", c.Ticket, b.Ticket)
				expect(f.T, "queue", c.Queue, q)
			}
			expect(f.T, "batches", len(f.search(b, batch.Queued)), 1)
		}
	}},
	{"record", func(f *fixture) {
		c := f.claimed(newBatch("s", 3))
		marks := []storage.Mark{begun(0), waiting(0), done(1, "x"), begun(2)}
		f.record(c, marks...)
		f.record(c, marks...)
		expectMarks(f.T, f.claim(c.Queue).Marks, unread(waiting(0)), unread(done(1, "x")), begun(2))
	}},
	{"finish, with a next batch", func(f *fixture) {
		a, b := newBatch("s", 2), newBatch("s", 1)
		c := f.claimed(a)
		f.create(b)
		first := f.finish(c, done(0, "x"))
		ended := f.status(a)
		second := f.finish(c, done(0, "x"))
		if first == nil || second == nil {
			f.Fatal("the next batch was not claimed")
		}
		expect(f.T, "ticket", second.Ticket, b.Ticket)
		expect(f.T, "epochs", []int64{first.Epoch, second.Epoch}, []int64{c.Epoch, c.Epoch})
		expect(f.T, "the ended batch", f.status(a), ended)
		expect(f.T, "runnable", len(f.runnable()), 0)
		f.record(second, done(0, "y"))
		expect(f.T, "the next batch", f.outcome(b), "IN_PROGRESS 200")
	}},
	{"finish, without a next batch", func(f *fixture) {
		b := newBatch("s", 1)
		c := f.claimed(b)
		for range 2 {
			expect(f.T, "the next claim", f.finish(c, done(0, "x")), (*storage.Claim)(nil))
		}
		expect(f.T, "outcome", f.outcome(b), "COMPLETED 200")
	}},
	{"finish with release", func(f *fixture) {
		c := f.claimed(newBatch("s", 1))
		b := newBatch("s", 1)
		f.create(b)
		for range 2 {
			next, err := f.s.Finish(f.Context(), c, nil, "why", true)
			if err != nil || next != nil {
				f.Errorf("got %v, %v", next, err)
			}
		}
		expect(f.T, "runnable", f.runnable(), []storage.Runnable{{Queue: c.Queue}})
		expect(f.T, "the next batch", f.outcome(b), "QUEUED -")
	}},
	{"finish doesn't change a batch that has ended", func(f *fixture) {
		b := newBatch("s", 2)
		c := f.claimed(b)
		f.finish(c, done(0, "x"))
		before := f.status(b)
		if _, err := f.s.Finish(f.Context(), c, []storage.Mark{done(1, "late")}, "another reason", false); err != nil {
			f.Fatal(err)
		}
		expect(f.T, "status", f.status(b), before)
	}},
	{"release", func(f *fixture) {
		c := f.claimed(newBatch("s", 2))
		for range 2 {
			f.release(c, moment(5), done(0, "x"), waiting(1))
		}
		expect(f.T, "runnable", f.runnable(), []storage.Runnable{{Queue: c.Queue, NotBefore: moment(5)}})
		expectMarks(f.T, f.claim(c.Queue).Marks, unread(done(0, "x")), unread(waiting(1)))
	}},
	{"stop", func(f *fixture) {
		b := newBatch("s", 1)
		f.claimed(b)
		sel := storage.Selection{Store: b.Store, Owner: b.Owner, Ticket: b.Ticket}
		expect(f.T, "first", f.stop(sel).Count, 1)
		expect(f.T, "second", f.stop(sel).Count, 0)
	}},
	{"delete", func(f *fixture) {
		b := newBatch("s", 1)
		f.create(b)
		f.delete(b)
		_, err := f.s.Delete(f.Context(), key(b))
		expectError(f.T, "second", err, storage.ErrNotFound)
	}},
}
