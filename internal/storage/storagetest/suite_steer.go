package storagetest

import (
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// pause pauses or resumes a batch, and returns whether this changed something.
func (f *fixture) pause(b *storage.NewBatch, paused bool) bool {
	f.Helper()
	return f.pausing(storage.PauseRequest{Key: key(b), Paused: paused})
}

func (f *fixture) pauseQueue(name string, paused bool) bool {
	f.Helper()
	return f.pausing(storage.PauseRequest{Queue: name, Paused: paused})
}

func (f *fixture) pausing(p storage.PauseRequest) bool {
	f.Helper()
	s, err := f.s.Pause(f.Context(), p)
	if err != nil {
		f.Fatalf("Pause: %v", err)
	}
	if len(s.Queues) != s.Count || s.Count > 1 {
		f.Errorf("Pause: %+v", s)
	}
	return s.Count == 1
}

// notBefore returns the time of the only runnable queue.
func (f *fixture) notBefore() time.Time {
	f.Helper()
	r := f.runnable()
	if len(r) != 1 {
		f.Fatalf("runnable: %+v, want one", r)
	}
	return r[0].NotBefore
}

var steerTests = []test{
	{"a batch pauses, its runner learns of it, and it waits until it is resumed", func(f *fixture) {
		b := newBatch("s", 3)
		c := f.claimed(b)
		expect(f.T, "paused", f.pause(b, true), true)
		expect(f.T, "paused again", f.pause(b, true), false)
		expect(f.T, "status", f.status(b).Paused, true)
		expect(f.T, "signals of an answer", f.record(c, done(0, "x")), storage.Signals{Paused: true})
		expect(f.T, "signals of a question", f.record(c), storage.Signals{Paused: true})
		f.release(c, storage.Forever, waiting(1))
		expect(f.T, "a pause is no moment", f.status(b).NotBefore, time.Time{})
		expect(f.T, "not before", f.notBefore().Equal(storage.Forever), true)
		c = f.claim(c.Queue)
		expect(f.T, "signals of a claim", c.Signals, storage.Signals{Paused: true})
		f.release(c, storage.Forever)
		expect(f.T, "goes on", f.pause(b, false), true)
		expect(f.T, "goes on again", f.pause(b, false), false)
		expect(f.T, "not before", f.notBefore().IsZero(), true)
		c = f.claim(c.Queue)
		expect(f.T, "signals of a claim", c.Signals, storage.Signals{})
		expect(f.T, "status", f.status(b).Paused, false)
	}},
	{"a batch that is resumed while it is released is runnable at once", func(f *fixture) {
		b := newBatch("s", 1)
		c := f.claimed(b)
		f.pause(b, true)
		f.pause(b, false)
		f.release(c, storage.Forever)
		expect(f.T, "not before", f.notBefore().IsZero(), true)
		f.pauseQueue(b.Queue, true)
		c = f.claim(c.Queue)
		f.pauseQueue(b.Queue, false)
		f.release(c, storage.Forever)
		expect(f.T, "not before", f.notBefore().IsZero(), true)
	}},
	{"a stopped batch doesn't pause", func(f *fixture) {
		b := newBatch("s", 2)
		c := f.claimed(b)
		f.pause(b, true)
		f.release(c, storage.Forever)
		f.stop(byTicket(b))
		expect(f.T, "not before", f.notBefore().IsZero(), true)
		c = f.claim(c.Queue)
		expect(f.T, "signals", c.Signals, storage.Signals{Stopped: true})
		expect(f.T, "status", f.status(b).Paused, false)
		expect(f.T, "goes on", f.pause(b, false), false)
		f.release(c, storage.Forever)
		expect(f.T, "not before", f.notBefore().IsZero(), true)
		f.finish(f.claim(c.Queue))
		expect(f.T, "paused after its end", f.pause(b, true), false)
	}},
	{"a queue pauses with all its batches, even before it has any", func(f *fixture) {
		b := newBatch("s", 1)
		expect(f.T, "goes on", f.pauseQueue(b.Queue, false), false)
		expect(f.T, "paused", f.pauseQueue(b.Queue, true), true)
		expect(f.T, "paused again", f.pauseQueue(b.Queue, true), false)
		expect(f.T, "runnable", len(f.runnable()), 0)
		next := newBatch("s", 1)
		c := f.claimed(b)
		f.create(next)
		expect(f.T, "signals", c.Signals, storage.Signals{Paused: true})
		expect(f.T, "status of the second", f.status(next).Paused, true)
		f.stop(byTicket(b))
		c, err := f.s.Finish(f.Context(), c, nil, "", false)
		if err != nil {
			f.Fatal(err)
		}
		expect(f.T, "signals of the next", c.Signals, storage.Signals{Paused: true})
		f.release(c, storage.Forever)
		f.purge(0)
		expect(f.T, "goes on", f.pauseQueue(b.Queue, false), true)
		expect(f.T, "not before", f.notBefore().IsZero(), true)
		f.finish(f.claim(c.Queue))
		f.purge(0)
		expect(f.T, "paused", f.pauseQueue(b.Queue, true), true) // the queue is created again
		f.create(newBatch("s", 1))
		expect(f.T, "signals", f.claim(f.runnable()[0].Queue).Signals, storage.Signals{Paused: true})
	}},
	{"only the creator can pause a batch", func(f *fixture) {
		b := newBatch("s", 1)
		f.create(b)
		k := key(b)
		k.Owner = batch.OwnerOf("another")
		for _, k := range []storage.Key{k, {Store: "t", Owner: b.Owner, Ticket: b.Ticket}, {Store: "s", Owner: b.Owner, Ticket: uuid.New()}} {
			if _, err := f.s.Pause(f.Context(), storage.PauseRequest{Key: k, Paused: true}); !errors.Is(err, storage.ErrNotFound) {
				f.Errorf("got error %v, want ErrNotFound", err)
			}
		}
		expect(f.T, "status", f.status(b).Paused, false)
	}},
	{"an unfinished retry is returned again", func(f *fixture) {
		old := uuid.New()
		retry := func() *storage.NewBatch {
			b := newBatch("s", 1)
			b.RetryOf = old
			return b
		}
		first := retry()
		q := f.create(first)
		expect(f.T, "lineage", f.status(first).RetryOf, old)
		f.expectDuplicate(retry(), first, q)
		foreign := retry()
		foreign.Owner = batch.OwnerOf("another")
		f.create(foreign)
		c := f.claim(q)
		f.expectDuplicate(retry(), first, q)
		f.finish(c)
		second := retry()
		f.create(second)
		f.expectDuplicate(retry(), second, q)
		f.delete(second)
		f.create(retry())
	}},
	{"counts of a group", func(f *fixture) {
		group := func(b *storage.NewBatch) storage.GroupCounts {
			f.Helper()
			n, err := f.s.Group(f.Context(), b.Store, b.Owner, b.GroupID)
			if err != nil {
				f.Fatal(err)
			}
			return n
		}
		var all []*storage.NewBatch
		for i := range 4 {
			b := newBatch("s", 5)
			b.Queue, b.GroupID = fmt.Sprint("q", i), "g"
			if i == 3 {
				b.GroupID = "another"
			}
			all = append(all, b)
		}
		expect(f.T, "of none", group(all[0]), storage.GroupCounts{})
		c := f.claimed(all[0])
		d := f.claimed(all[1])
		f.create(all[2])
		f.create(all[3])
		expect(f.T, "at first", group(all[0]), storage.GroupCounts{Queued: 3, Requests: 15})
		bad := done(1, "")
		bad.Result.Status = batch.Failed
		f.record(c, done(0, ""), bad, skipped(2))
		f.record(d, skipped(4), waiting(0))
		expect(f.T, "running", group(all[0]), storage.GroupCounts{Queued: 2, InProgress: 1, Requests: 15, Succeeded: 1, Failed: 1, NotExecuted: 2})
		f.finish(c, done(3, ""))
		f.release(d, time.Time{}, bad)
		expect(f.T, "one ended", group(all[0]), storage.GroupCounts{Queued: 1, InProgress: 1, Completed: 1, Requests: 15, Succeeded: 2, Failed: 2, NotExecuted: 3})
		f.delete(all[0])
		expect(f.T, "one deleted", group(all[0]), storage.GroupCounts{Queued: 1, InProgress: 1, Requests: 10, Failed: 1, NotExecuted: 1})
		expect(f.T, "another", group(all[3]), storage.GroupCounts{Queued: 1, Requests: 5})
		none := *all[0]
		none.GroupID = ""
		expect(f.T, "of no group", group(&none), storage.GroupCounts{})
	}},
}
