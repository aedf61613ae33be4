package storagetest

import (
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

func (f *fixture) quarantine(c *storage.Claim, reason string) {
	f.Helper()
	if err := f.s.Quarantine(f.Context(), c, reason); err != nil {
		f.Fatalf("Quarantine: %v", err)
	}
}

func (f *fixture) unquarantine(b *storage.NewBatch, end bool) storage.QueueID {
	f.Helper()
	q, err := f.s.Unquarantine(f.Context(), b.Ticket, end)
	if err != nil {
		f.Fatalf("Unquarantine: %v", err)
	}
	return q
}

// quarantined returns the tickets of the quarantined batches, with their reasons.
func (f *fixture) quarantined() (out []string) {
	f.Helper()
	page, err := f.s.Quarantined(f.Context(), 0, 100)
	if err != nil {
		f.Fatalf("Quarantined: %v", err)
	}
	for _, b := range page {
		if b.At.IsZero() || b.CreatedAt.IsZero() || b.Total == 0 || b.Queue == "" || b.Store == "" {
			f.Errorf("a part is missing: %+v", b)
		}
		out = append(out, b.Ticket.String()+" "+b.Reason)
	}
	return out
}

// counted returns how many open and quarantined batches the queue has.
func (f *fixture) counted(queue string) (open, aside int) {
	f.Helper()
	q, err := f.s.Queue(f.Context(), queue)
	if err != nil {
		f.Fatalf("Queue: %v", err)
	}
	o, err := f.s.Overview(f.Context(), 10)
	if err != nil {
		f.Fatalf("Overview: %v", err)
	}
	expect(f.T, "batches set aside, of the overview", o.Quarantined, q.Quarantined)
	expect(f.T, "open batches, of the overview", o.Open, q.Open)
	return q.Open, q.Quarantined
}

const why = "it can't be read: \x00 " + odd

var quarantineTests = []test{
	{"a quarantined batch doesn't run, but the next one of its queue does", func(f *fixture) {
		a, b := newBatch("s", 3), newBatch("s", 1)
		c := f.claimed(a)
		f.create(b)
		f.record(c, done(0, "x"), begun(1))
		f.quarantine(c, why)
		expect(f.T, "set aside", f.quarantined(), []string{a.Ticket.String() + " " + why})
		open, aside := f.counted("s")
		expect(f.T, "counts", fmt.Sprint(open, aside), "1 1")
		s := f.status(a)
		expect(f.T, "its state", fmt.Sprint(s.Status, s.Completed, s.Quarantined.IsZero(), s.Reason), fmt.Sprint(batch.InProgress, 1, false, why))
		next := f.claim(c.Queue)
		expect(f.T, "the next batch", next.Ticket, b.Ticket)
		expect(f.T, "none follows", f.finish(next) == nil, true)
		expect(f.T, "runnable", f.runnable(), []storage.Runnable(nil))
		_, err := f.s.Claim(f.Context(), c.Queue)
		expectError(f.T, "Claim", err, storage.ErrNothing)
	}},
	{"a search shows quarantined batches", func(f *fixture) {
		a, b := newBatch("s", 1), newBatch("s", 1)
		c := f.claimed(a)
		f.create(b)
		f.quarantine(c, "it can't be run")
		for _, status := range []batch.Status{0, batch.Queued} {
			found, err := search(f.Context(), f.s, a, status, 10, 0)
			if err != nil {
				f.Fatal(err)
			}
			for _, one := range found {
				expect(f.T, "set aside", one.Quarantined, one.Ticket == a.Ticket)
			}
			expect(f.T, "found", len(found), 2)
		}
	}},
	{"only the newest claim can quarantine a batch", func(f *fixture) {
		c := f.claimed(newBatch("s", 1))
		f.claim(c.Queue)
		expectError(f.T, "Quarantine", f.s.Quarantine(f.Context(), c, why), storage.ErrNotOwner)
		expectError(f.T, "Progress", f.s.Progress(f.Context(), c), storage.ErrNotOwner)
		expect(f.T, "set aside", f.quarantined(), []string(nil))
	}},
	{"a second quarantine changes nothing", func(f *fixture) {
		c := f.claimed(newBatch("s", 1))
		f.quarantine(c, why)
		f.quarantine(c, "again")
		open, aside := f.counted("s")
		expect(f.T, "counts", fmt.Sprint(open, aside), "0 1")
		expect(f.T, "set aside", f.quarantined(), []string{c.Ticket.String() + " " + why})
	}},
	{"a released batch continues where it stopped", func(f *fixture) {
		a, b := newBatch("s", 3), newBatch("s", 1)
		c := f.claimed(a)
		f.create(b)
		want := []storage.Mark{done(0, "x"), begun(1)}
		f.record(c, want...)
		f.quarantine(c, why)
		expect(f.T, "queue", f.unquarantine(a, false), c.Queue)
		expect(f.T, "set aside", f.quarantined(), []string(nil))
		s := f.status(a)
		expect(f.T, "its state", fmt.Sprint(s.Quarantined.IsZero(), s.Reason), "true")
		open, aside := f.counted("s")
		expect(f.T, "counts", fmt.Sprint(open, aside), "2 0")
		expect(f.T, "runnable", f.runnable(), []storage.Runnable{{Queue: c.Queue}})
		again := f.claim(c.Queue)
		expect(f.T, "the batch", again.Ticket, a.Ticket)
		expect(f.T, "attempts", again.Attempts, 1)
		expectMarks(f.T, again.Marks, unread(want[0]), want[1])
		_, err := f.s.Unquarantine(f.Context(), a.Ticket, false)
		expectError(f.T, "Unquarantine of what is not set aside", err, storage.ErrNotFound)
		_, err = f.s.Unquarantine(f.Context(), uuid.New(), true)
		expectError(f.T, "Unquarantine of an unknown ticket", err, storage.ErrNotFound)
	}},
	{"a batch that an operator ends keeps its recorded results", func(f *fixture) {
		a := newBatch("s", 4)
		a.Callback = "https://example.com"
		c := f.claimed(a)
		f.record(c, done(0, "x"), begun(1), waiting(2))
		f.quarantine(c, why)
		f.unquarantine(a, true)
		f.expectEndedAside(a, storage.EndedAside(why))
		expect(f.T, "deliveries", len(f.deliveries(a, a.Ticket)), 1)
	}},
	{"its creator can stop it", func(f *fixture) {
		a := newBatch("s", 4)
		a.GroupID = "g"
		c := f.claimed(a)
		f.record(c, done(0, "x"), begun(1), waiting(2))
		f.quarantine(c, why)
		expect(f.T, "stopped", f.stop(storage.Selection{Store: a.Store, Owner: a.Owner, GroupID: "g"}).Count, 1)
		f.expectEndedAside(a, why)
	}},
	{"its creator can delete it", func(f *fixture) {
		a := newBatch("s", 4)
		c := f.claimed(a)
		f.record(c, begun(1))
		f.quarantine(c, why)
		f.delete(a)
		expect(f.T, "set aside", f.quarantined(), []string(nil))
		open, aside := f.counted("s")
		expect(f.T, "counts", fmt.Sprint(open, aside), "0 0")
		if _, err := f.s.Purge(f.Context(), time.Hour); err != nil {
			f.Fatal(err)
		}
		q, err := f.s.Queue(f.Context(), "s")
		expect(f.T, "the queue after a purge", fmt.Sprint(q.Held, err), "0 <nil>")
	}},
	{"a stopped batch ends instead of being quarantined", func(f *fixture) {
		a := newBatch("s", 4)
		c := f.claimed(a)
		f.record(c, done(0, "x"), begun(1), waiting(2))
		f.stop(storage.Selection{Store: a.Store, Owner: a.Owner, Ticket: a.Ticket})
		f.quarantine(c, why)
		f.expectEndedAside(a, why)
	}},
	{"Abandon ends it too", func(f *fixture) {
		a, b := newBatch("s", 1), newBatch("s", 1)
		c := f.claimed(a)
		f.create(b)
		f.quarantine(c, why)
		n, err := f.s.Abandon(f.Context(), batch.OutcomeUnknown, "abandoned")
		expect(f.T, "ended", fmt.Sprint(n, err), "2 <nil>")
		expect(f.T, "set aside", f.quarantined(), []string(nil))
		open, aside := f.counted("s")
		expect(f.T, "counts", fmt.Sprint(open, aside), "0 0")
	}},
	{"the list has pages", func(f *fixture) {
		var all []string
		for i := range 3 {
			b := newBatch(fmt.Sprint("s", i), 1)
			f.quarantine(f.claimed(b), why)
			all = append(all, b.Ticket.String())
		}
		first, err := f.s.Quarantined(f.Context(), 0, 2)
		if err != nil || len(first) != 2 {
			f.Fatalf("%v, %v", first, err)
		}
		second, err := f.s.Quarantined(f.Context(), first[1].ID, 2)
		if err != nil || len(second) != 1 {
			f.Fatalf("%v, %v", second, err)
		}
		expect(f.T, "tickets", []string{first[0].Ticket.String(), first[1].Ticket.String(), second[0].Ticket.String()}, all)
	}},
	{"claims that end normally don't count as attempts", func(f *fixture) {
		b := newBatch("s", 2)
		q := f.create(b)
		f.create(newBatch("s", 1))
		for range 3 * storage.MaxAttempts {
			c := f.claim(q)
			expect(f.T, "attempts", c.Attempts, 1)
			c = f.claim(q) // the node already owns the queue
			expect(f.T, "attempts of a claim that was made again", c.Attempts, 1)
			f.release(c, time.Time{})
		}
		next := f.finish(f.claim(q))
		expect(f.T, "attempts of the next batch", next.Attempts, 1)
	}},
}

// expectEndedAside checks a batch of four requests. When it was quarantined, the first one was
// done, the second one begun and the third one waiting.
func (f *fixture) expectEndedAside(b *storage.NewBatch, reason string) {
	f.Helper()
	s := f.status(b)
	expect(f.T, "outcome", f.outcome(b), "COMPLETED 200 502 503 -")
	expect(f.T, "its state", fmt.Sprint(s.Quarantined.IsZero(), s.Completed, s.Reason), fmt.Sprint(true, 3, reason))
	expect(f.T, "the outcome that is unknown", strings.Contains(s.Results[1].Line, "not known"), true)
	open, aside := f.counted(b.Queue)
	expect(f.T, "counts", fmt.Sprint(open, aside), "0 0")
	expect(f.T, "runnable", f.runnable(), []storage.Runnable(nil))
}

// die makes the node die while it runs the queue's batch, and claims the queue again.
func die(f *fixture, reopen func(), q storage.QueueID) *storage.Claim {
	f.Helper()
	reopen()
	return f.claim(q)
}

var diedTests = []reopenTest{
	{"a claim that ended with a death counts as an attempt", func(f *fixture, reopen func()) {
		b := newBatch("s", 2)
		c := f.claimed(b)
		for i := range storage.MaxAttempts {
			expect(f.T, "attempts", c.Attempts, i+1)
			expect(f.T, "requests", c.Requests, b.Requests)
			f.record(c, begun(0)) // beginning a request doesn't count as progress
			c = die(f, reopen, c.Queue)
		}
		expect(f.T, "attempts", c.Attempts, storage.MaxAttempts+1)
		f.quarantine(c, storage.Died(c.Attempts))
		reopen()
		expect(f.T, "set aside", f.quarantined(), []string{b.Ticket.String() + " " + storage.Died(c.Attempts)})
		q := f.unquarantine(b, false)
		c = f.claim(q)
		expect(f.T, "attempts after its release", c.Attempts, 1)
		expect(f.T, "requests after its release", c.Requests, b.Requests)
	}},
	{"the same is true of a queue's next batch", func(f *fixture, reopen func()) {
		a, b := newBatch("s", 1), newBatch("s", 1)
		c := f.claimed(a)
		f.create(b)
		c = f.finish(c)
		for range storage.MaxAttempts {
			c = die(f, reopen, c.Queue)
		}
		expect(f.T, "attempts", c.Attempts, storage.MaxAttempts+1)
	}},
	{"progress resets the number of deaths", func(f *fixture, reopen func()) {
		c := f.claimed(newBatch("s", 1))
		for range 3 * storage.MaxAttempts {
			c = die(f, reopen, c.Queue)
			expect(f.T, "attempts", c.Attempts, 2)
			if err := f.s.Progress(f.Context(), c); err != nil {
				f.Fatal(err)
			}
		}
	}},
	{"a claim that ends normally keeps the number of deaths", func(f *fixture, reopen func()) {
		c := f.claimed(newBatch("s", 1))
		c = die(f, reopen, c.Queue)
		expect(f.T, "attempts", c.Attempts, 2)
		f.release(c, time.Time{})
		c = f.claim(c.Queue)
		expect(f.T, "attempts after a release", c.Attempts, 2)
	}},
}
