package storagetest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// byTicket and byGroup select a batch in the two possible ways.
func byTicket(b *storage.NewBatch) storage.Selection {
	return storage.Selection{Store: b.Store, Owner: b.Owner, Ticket: b.Ticket}
}

func byGroup(b *storage.NewBatch) storage.Selection {
	return storage.Selection{Store: b.Store, Owner: b.Owner, GroupID: b.GroupID}
}

func withGroup(b *storage.NewBatch, id string) *storage.NewBatch {
	b.GroupID = id
	return b
}

var stopTests = []test{
	{"a batch that no node has started ends at once", func(f *fixture) {
		a, b := newBatch("s", 2), newBatch("s", 1)
		q := f.create(a)
		f.create(b)
		got := f.stop(byTicket(a))
		expect(f.T, "stopped", got.Count, 1)
		expect(f.T, "queues to tell", len(got.Queues), 0)
		expect(f.T, "outcome", f.outcome(a), "COMPLETED - -")
		if s := f.status(a); !s.StartedAt.IsZero() || s.EndedAt.IsZero() || s.Completed != 0 {
			f.Errorf("the stopped batch: %+v", s)
		}
		expect(f.T, "found", f.search(a, batch.Completed), []batch.Ticket{a.Ticket})
		expect(f.T, "the next claim", f.claim(q).Ticket, b.Ticket)
	}},
	{"the last batch of a queue, stopped, leaves nothing to run", func(f *fixture) {
		b := newBatch("s", 1)
		q := f.create(b)
		f.stop(byTicket(b))
		expect(f.T, "runnable", len(f.runnable()), 0)
		_, err := f.s.Claim(f.Context(), q)
		expectError(f.T, "Claim", err, storage.ErrNothing)
		f.create(withQuota(newBatch("s", 1), 1))
	}},
	{"a running batch is ended by its runner", func(f *fixture) {
		b := newBatch("s", 2)
		c := f.claimed(b)
		got := f.stop(byTicket(b))
		expect(f.T, "stopped", got, storage.StopResult{Count: 1, Queues: []storage.QueueID{c.Queue}})
		expect(f.T, "outcome", f.outcome(b), "QUEUED - -")
		expect(f.T, "told", f.record(c, done(0, "")), storage.Signals{Stopped: true})
		f.finish(c)
		expect(f.T, "outcome", f.outcome(b), "COMPLETED 200 -")
	}},
	{"a batch that waits for its next runner is runnable at once", func(f *fixture) {
		for i, end := range []func(b *storage.NewBatch){
			func(b *storage.NewBatch) { f.stop(byTicket(b)) },
			func(b *storage.NewBatch) { f.stop(byGroup(b)) },
			func(b *storage.NewBatch) { f.delete(b) },
		} {
			b := withGroup(newBatch(fmt.Sprint("s", i), 1), "g")
			c := f.claimed(b)
			f.release(c, moment(5), waiting(0))
			end(b)
			expect(f.T, "runnable", f.runnable(), []storage.Runnable{{Queue: c.Queue}})
			again := f.claim(c.Queue)
			expect(f.T, "told", again.Signals.Stopped, true)
			f.finish(again)
		}
	}},
	{"a release after the stop does not make it wait", func(f *fixture) {
		for i, end := range []func(b *storage.NewBatch){
			func(b *storage.NewBatch) { f.stop(byTicket(b)) },
			func(b *storage.NewBatch) { f.delete(b) },
		} {
			b := newBatch(fmt.Sprint("s", i), 1)
			c := f.claimed(b)
			end(b)
			f.release(c, moment(5), waiting(0))
			expect(f.T, "runnable", f.runnable(), []storage.Runnable{{Queue: c.Queue}})
			f.finish(f.claim(c.Queue))
		}
	}},
	{"a stop of a later batch doesn't shorten the wait", func(f *fixture) {
		c := f.claimed(newBatch("s", 1))
		b := newBatch("s", 1)
		f.create(b)
		f.release(c, moment(5))
		f.stop(byTicket(b))
		expect(f.T, "runnable", f.runnable(), []storage.Runnable{{Queue: c.Queue, NotBefore: moment(5)}})
	}},
	{"by group", func(f *fixture) {
		ended, running, queued := withGroup(newBatch("s", 1), odd), withGroup(newBatch("s", 1), odd), withGroup(newBatch("s", 1), odd)
		elsewhere := withGroup(newBatch("s", 1), odd)
		elsewhere.Queue = "another queue"
		other, none := withGroup(newBatch("s", 1), "g"), newBatch("s", 1)
		c := f.claimed(ended)
		for _, b := range []*storage.NewBatch{running, queued, other, none} {
			f.create(b)
		}
		c2 := f.claimed(elsewhere)
		f.finish(c)
		got := f.stop(byGroup(queued))
		expect(f.T, "stopped", got.Count, 3)
		expect(f.T, "queues to tell", set(got.Queues), set([]storage.QueueID{c.Queue, c2.Queue}))
		expect(f.T, "queued", f.outcome(queued), "COMPLETED -")
		expect(f.T, "running", f.outcome(running), "QUEUED -")
		expect(f.T, "another group's", f.outcome(other), "QUEUED -")
		expect(f.T, "no group's", f.outcome(none), "QUEUED -")
		expect(f.T, "again", f.stop(byGroup(queued)).Count, 0)
	}},
	{"by ticket and group, which must match", func(f *fixture) {
		b := withGroup(newBatch("s", 1), "g")
		f.create(b)
		sel := byTicket(b)
		sel.GroupID = "another"
		expect(f.T, "wrong group", f.stop(sel).Count, 0)
		sel.GroupID, sel.Ticket = "g", uuid.New()
		expect(f.T, "wrong ticket", f.stop(sel).Count, 0)
		expect(f.T, "outcome", f.outcome(b), "QUEUED -")
		sel.Ticket = b.Ticket
		expect(f.T, "both right", f.stop(sel).Count, 1)
	}},
	{"neither ticket nor group selects nothing", func(f *fixture) {
		b := newBatch("s", 1)
		f.create(b)
		f.create(withGroup(newBatch("s", 1), "g"))
		expect(f.T, "stopped", f.stop(storage.Selection{Store: b.Store, Owner: b.Owner}).Count, 0)
	}},
	{"a group belongs to one store and owner", func(f *fixture) {
		mine, store, owner := withGroup(newBatch("s", 1), "g"), withGroup(newBatch("t", 1), "g"), withGroup(newBatch("s", 1), "g")
		store.Owner, owner.Owner = mine.Owner, batch.OwnerOf("another")
		for _, b := range []*storage.NewBatch{mine, store, owner} {
			f.create(b)
		}
		expect(f.T, "stopped", f.stop(byGroup(mine)).Count, 1)
		expect(f.T, "another store's", f.outcome(store), "QUEUED -")
		expect(f.T, "another owner's", f.outcome(owner), "QUEUED -")
	}},
	{"an ended batch is not stopped", func(f *fixture) {
		b := withGroup(newBatch("s", 1), "g")
		f.finish(f.claimed(b), done(0, ""))
		before := f.status(b)
		expect(f.T, "by ticket", f.stop(byTicket(b)).Count, 0)
		expect(f.T, "by group", f.stop(byGroup(b)).Count, 0)
		expect(f.T, "status", f.status(b), before)
	}},
}

func set[T comparable](list []T) map[T]bool {
	out := map[T]bool{}
	for _, v := range list {
		out[v] = true
	}
	return out
}

var deleteTests = []test{
	{"a batch that no node has started ends at once", func(f *fixture) {
		a, b := newBatch("s", 1), newBatch("s", 1)
		q := f.create(a)
		f.create(b)
		id := f.status(a).ID
		expect(f.T, "queue", f.delete(a), q)
		f.gone(a, id)
		expect(f.T, "the next claim", f.claim(q).Ticket, b.Ticket)
	}},
	{"a running batch is hidden, and ended by its runner", func(f *fixture) {
		a, b := withGroup(newBatch("s", 2), "g"), newBatch("s", 1)
		c := f.claimed(a)
		f.create(b)
		expect(f.T, "queue", f.delete(a), c.Queue)
		f.gone(a, c.ID)
		expect(f.T, "by group", f.stop(byGroup(a)).Count, 0)
		expect(f.T, "told", f.record(c, done(0, "")).Deleted, true)
		next := f.finish(c, done(1, ""))
		f.gone(a, c.ID)
		expect(f.T, "the next claim", next.Ticket, b.Ticket)
	}},
	{"a running batch still counts for the quota", func(f *fixture) {
		b := newBatch("s", 1)
		c := f.claimed(b)
		f.delete(b)
		_, err := f.s.Create(f.Context(), withQuota(newBatch("s", 1), 1))
		var full *storage.QuotaError
		if !errors.As(err, &full) {
			f.Errorf("got error %v, want a quota error", err)
		}
		f.finish(c)
		f.create(withQuota(newBatch("s", 1), 1))
	}},
	{"a batch that has ended", func(f *fixture) {
		b := newBatch("s", 1)
		c := f.claimed(b)
		f.finish(c, done(0, ""))
		expect(f.T, "queue", f.delete(b), c.Queue)
		f.gone(b, c.ID)
		expect(f.T, "runnable", len(f.runnable()), 0)
	}},
	{"a batch that was stopped", func(f *fixture) {
		b := newBatch("s", 1)
		c := f.claimed(b)
		f.stop(byTicket(b))
		f.delete(b)
		f.gone(b, c.ID)
		s := f.record(c)
		expect(f.T, "told", s, storage.Signals{Stopped: true, Deleted: true})
	}},
}

var abandonTests = []test{
	{"an empty database", func(f *fixture) {
		f.abandon(0)
	}},
	{"every unfinished batch ends with its known results", func(f *fixture) {
		ended, started, queued := newBatch("s", 1), newBatch("s", 5), newBatch("s", 1)
		c := f.claimed(ended)
		f.create(started)
		f.create(queued)
		c = f.finish(c, done(0, ""))
		unsent := waiting(3)
		unsent.Result = batch.Result{}
		f.release(c, moment(5), done(0, "kept"), begun(1), waiting(2), unsent)
		before := f.status(ended)
		f.abandon(2)

		expect(f.T, "started", f.outcome(started), "COMPLETED 200 502 503 - -")
		s := f.status(started)
		expect(f.T, "completed", s.Completed, 3)
		expect(f.T, "reason", s.Reason, "abandoned")
		expect(f.T, "in doubt", plain(s.Results[1].Result), inDoubt)
		expect(f.T, "waiting", plain(s.Results[2].Result), waiting(2).Result)
		expect(f.T, "queued", f.outcome(queued), "COMPLETED -")
		expect(f.T, "reason", f.status(queued).Reason, "abandoned")
		expect(f.T, "the ended batch", f.status(ended), before)
		expect(f.T, "runnable", len(f.runnable()), 0)
		f.abandon(0)

		b := withQuota(newBatch("s", 1), 1)
		expect(f.T, "the next claim", f.claimed(b).Ticket, b.Ticket)
	}},
	{"a wait ends with its batch", func(f *fixture) {
		c := f.claimed(newBatch("s", 1))
		f.release(c, moment(5), waiting(0))
		f.abandon(1)
		b := newBatch("s", 1)
		q := f.create(b)
		expect(f.T, "runnable", f.runnable(), []storage.Runnable{{Queue: q}})
	}},
	{"many batches", func(f *fixture) {
		for i := range 120 {
			f.create(newBatch(fmt.Sprint(i%3), 1))
		}
		f.abandon(120)
		expect(f.T, "runnable", len(f.runnable()), 0)
	}},
}

var sealTests = []test{
	{"the seals of unfinished batches, each once, cut to n bytes", func(f *fixture) {
		sealed := func(store, credential string) *storage.NewBatch {
			b := newBatch(store, 1)
			b.Credential = []byte(credential)
			return b
		}
		f.expectSeals(4)
		f.finish(f.claimed(sealed("ended", "ended-1")))
		running := f.claimed(sealed("running", "aaaa-1"))
		f.create(sealed("a", "aaaa-2"))
		f.create(sealed("b", "bbbb-1"))
		f.create(sealed("c", "cc"))
		f.expectSeals(4, "aaaa", "bbbb", "cc")
		f.expectSeals(6, "aaaa-1", "aaaa-2", "bbbb-1", "cc")
		f.finish(running)
		f.expectSeals(6, "aaaa-2", "bbbb-1", "cc")
		f.abandon(3)
		f.expectSeals(4)
	}},
}

func (f *fixture) expectSeals(n int, want ...string) {
	f.Helper()
	seals, err := f.s.Seals(f.Context(), n)
	if err != nil {
		f.Fatalf("Seals: %v", err)
	}
	got := make([]string, 0, len(seals))
	for _, s := range seals {
		got = append(got, string(s))
	}
	slices.Sort(got)
	expect(f.T, fmt.Sprintf("the seals of %d bytes", n), strings.Join(got, " "), strings.Join(want, " "))
}

// inDoubt is the result with which Abandon ends a request in flight.
var inDoubt = batch.Result{Status: batch.Failed, Code: 502, Line: "nobody knows"}

func (f *fixture) abandon(want int) {
	f.Helper()
	n, err := f.s.Abandon(f.Context(), inDoubt, "abandoned")
	if err != nil {
		f.Fatalf("Abandon: %v", err)
	}
	expect(f.T, "abandoned", n, want)
}

// plain returns a result in a form in which equal ones are identical.
func plain(r batch.Result) batch.Result {
	if len(r.Body) == 0 {
		r.Body = nil
	}
	return r
}

var purgeTests = []test{
	{"batches that ended before the retention are removed", func(f *fixture) {
		b := withDedup(newBatch("s", 2))
		c := f.claimed(b)
		f.finish(c, done(0, "x"))
		f.purge(time.Hour)
		expect(f.T, "within retention", f.outcome(b), "COMPLETED 200 -")
		f.purge(0)
		f.gone(b, c.ID)
	}},
	{"unfinished batches stay", func(f *fixture) {
		running, queued := newBatch("s", 2), newBatch("s", 1)
		c := f.claimed(running)
		f.create(queued)
		f.record(c, done(0, "x"))
		f.purge(0)
		expect(f.T, "running", f.outcome(running), "IN_PROGRESS 200 -")
		expect(f.T, "queued", f.outcome(queued), "QUEUED -")
		next := f.finish(c)
		f.purge(0)
		expect(f.T, "the next claim", next.Ticket, queued.Ticket)
		f.record(next, done(0, "y"))
		expect(f.T, "queued", f.outcome(queued), "IN_PROGRESS 200")
	}},
	{"a deleted batch stays until its runner has ended it", func(f *fixture) {
		b := newBatch("s", 1)
		c := f.claimed(b)
		f.delete(b)
		f.purge(0)
		f.record(c, done(0, ""))
		again := f.claim(c.Queue)
		expect(f.T, "the deleted batch", again.Ticket, b.Ticket)
		f.finish(again)
		f.purge(time.Hour)
		_, err := f.s.Claim(f.Context(), c.Queue)
		expectError(f.T, "Claim", err, storage.ErrNothing)
	}},
	{"a finish is repeatable after its batch was purged", func(f *fixture) {
		a, b := newBatch("s", 1), newBatch("s", 1)
		c := f.claimed(a)
		f.create(b)
		f.finish(c)
		f.purge(0)
		expect(f.T, "the next claim", f.finish(c).Ticket, b.Ticket)
	}},
	{"many batches with large answers, in limited steps", func(f *fixture) {
		const n, size = 300, 64 << 10
		var batches []*storage.NewBatch
		for i := range n {
			b := newBatch("s", 1)
			batches = append(batches, b)
			c := f.claimed(b)
			if i%10 == 0 {
				f.finish(c, done(0, string(make([]byte, size))))
			} else {
				f.finish(c)
			}
		}
		steps := 1
		for ; steps < 10*n; steps++ {
			more, err := f.s.Purge(f.Context(), 0)
			if err != nil {
				f.Fatal(err)
			}
			if !more {
				break
			}
		}
		if steps == 1 {
			f.Errorf("%d batches were removed in one step", n)
		}
		expect(f.T, "left", f.search(batches[0], batch.Completed), []batch.Ticket{})
	}},
	{"nothing to do", func(f *fixture) {
		more, err := f.s.Purge(f.Context(), 0)
		if more || err != nil {
			f.Errorf("got %v, %v", more, err)
		}
	}},
}
