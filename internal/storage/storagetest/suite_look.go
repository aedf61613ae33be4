package storagetest

import (
	"fmt"
	"slices"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// found reads all pages of a filter and returns the positions of their batches in created.
func (f *fixture) found(filter storage.Filter, created ...*storage.NewBatch) string {
	f.Helper()
	out := []int{}
	for pages := 0; ; pages++ {
		p, err := f.s.Find(f.Context(), filter)
		if err != nil || pages > 5000 {
			f.Fatalf("Find: page %d: %v", pages, err)
		}
		if len(p.Batches) > filter.Limit {
			f.Fatalf("Find: %d batches, the limit is %d", len(p.Batches), filter.Limit)
		}
		for _, s := range p.Batches {
			out = append(out, slices.IndexFunc(created, func(b *storage.NewBatch) bool { return b.Ticket == s.Ticket }))
		}
		if p.Next == 0 {
			return fmt.Sprint(out)
		}
		filter.After = p.Next
	}
}

// filterOf returns a filter for all batches of a batch's creator.
func filterOf(b *storage.NewBatch) storage.Filter {
	return storage.Filter{Store: b.Store, Owner: b.Owner, Limit: 2}
}

// failure returns the mark of a request that failed with the given code.
func failure(i, code int) storage.Mark {
	m := done(i, "no")
	m.Result.Status, m.Result.Code = batch.Failed, code
	return m
}

func (f *fixture) end(c *storage.Claim, marks ...storage.Mark) {
	f.Helper()
	if _, err := f.s.Finish(f.Context(), c, marks, "", true); err != nil {
		f.Fatalf("Finish: %v", err)
	}
}

var lookTests = []test{
	{"a filter selects by status, group, failure, code, path and time, in order and page by page", func(f *fixture) {
		var all []*storage.NewBatch
		for i := range 6 {
			b := newBatch("s", 2)
			b.Requests[1].Path = fmt.Sprintf("things/%d?name=x", i)
			if i%2 == 0 {
				b.GroupID = odd
			}
			all = append(all, b)
		}
		other, foreign := newBatch("t", 1), newBatch("s", 1)
		foreign.Owner = batch.OwnerOf("somebody else's token")
		q := f.create(all[0])
		for _, b := range append(slices.Clone(all[1:]), other, foreign) {
			f.create(b)
		}
		c := f.claim(q)
		f.end(c, done(0, "x"), failure(1, 503))
		c = f.claim(q)
		f.end(c, done(0, "x"), done(1, "y"))
		c = f.claim(q)
		f.record(c, done(0, "x"))
		base := filterOf(all[0])
		with := func(change func(*storage.Filter)) storage.Filter {
			out := base
			change(&out)
			return out
		}
		for name, tt := range map[string]struct {
			filter storage.Filter
			want   string
		}{
			"all":             {base, "[5 4 3 2 1 0]"},
			"open":            {with(func(o *storage.Filter) { o.Open = true }), "[2 3 4 5]"},
			"queued":          {with(func(o *storage.Filter) { o.Status = batch.Queued }), "[5 4 3]"},
			"in progress":     {with(func(o *storage.Filter) { o.Status = batch.InProgress }), "[2]"},
			"completed":       {with(func(o *storage.Filter) { o.Status = batch.Completed }), "[1 0]"},
			"queued, oldest":  {with(func(o *storage.Filter) { o.Status, o.Oldest = batch.Queued, true }), "[3 4 5]"},
			"started, oldest": {with(func(o *storage.Filter) { o.Status, o.Oldest = batch.InProgress, true }), "[2]"},
			"ended, oldest":   {with(func(o *storage.Filter) { o.Status, o.Oldest = batch.Completed, true }), "[0 1]"},
			"group, oldest":   {with(func(o *storage.Filter) { o.GroupID, o.Status, o.Oldest = odd, batch.Queued, true }), "[4]"},
			"failed, oldest":  {with(func(o *storage.Filter) { o.Failed, o.Status, o.Oldest = true, batch.Completed, true }), "[0]"},
			"group":           {with(func(o *storage.Filter) { o.GroupID = odd }), "[4 2 0]"},
			"group and state": {with(func(o *storage.Filter) { o.GroupID, o.Status = odd, batch.Completed }), "[0]"},
			"open of a group": {with(func(o *storage.Filter) { o.GroupID, o.Open = odd, true }), "[2 4]"},
			"failed":          {with(func(o *storage.Filter) { o.Failed = true }), "[0]"},
			"code 503":        {with(func(o *storage.Filter) { o.Code = 503 }), "[0]"},
			"code 200":        {with(func(o *storage.Filter) { o.Code = 200 }), "[2 1 0]"},
			"code 404":        {with(func(o *storage.Filter) { o.Code = 404 }), "[]"},
			"path":            {with(func(o *storage.Filter) { o.Path = "gs/4?na" }), "[4]"},
			"path of all":     {with(func(o *storage.Filter) { o.Path = "products/0" }), "[5 4 3 2 1 0]"},
			"path of none":    {with(func(o *storage.Filter) { o.Path = "products/2" }), "[]"},
			"from now on":     {with(func(o *storage.Filter) { o.From = time.Now().Add(time.Hour) }), "[]"},
			"until now":       {with(func(o *storage.Filter) { o.To = time.Now().Add(time.Hour) }), "[5 4 3 2 1 0]"},
			"until then":      {with(func(o *storage.Filter) { o.To = time.Now().Add(-time.Hour) }), "[]"},
			"another's":       {filterOf(foreign), "[-1]"},
			"nobody's":        {filterOf(newBatch("nobody", 1)), "[]"},
		} {
			expect(f.T, name, f.found(tt.filter, all...), tt.want)
		}
	}},
	{"a summary shows a batch's progress and outcome", func(f *fixture) {
		b := newBatch("s", 3)
		b.GroupID = odd
		c := f.claimed(b)
		f.record(c, done(0, "x"), failure(1, 500))
		one := func() storage.Summary {
			f.Helper()
			p, err := f.s.Find(f.Context(), filterOf(b))
			if err != nil || len(p.Batches) == 0 {
				f.Fatalf("Find: %+v, %v", p, err)
			}
			return p.Batches[len(p.Batches)-1]
		}
		s := one()
		expect(f.T, "counts", fmt.Sprint(s.Total, s.Completed, s.Failed, s.Status, s.GroupID, s.EndedAt.IsZero()), fmt.Sprint(3, 2, 1, batch.InProgress, odd, true))
		f.pause(b, true)
		expect(f.T, "paused", one().Paused, true)
		f.pause(b, false)
		f.end(c, skipped(2))
		s = one()
		expect(f.T, "at the end", fmt.Sprint(s.Total, s.Completed, s.Failed, s.Status, s.Paused, s.Retried), fmt.Sprint(3, 2, 1, batch.Completed, false, false))
		if s.CreatedAt.IsZero() || s.StartedAt.Before(s.CreatedAt) || s.EndedAt.Before(s.StartedAt) {
			f.Errorf("moments: %v, %v, %v", s.CreatedAt, s.StartedAt, s.EndedAt)
		}
		again := newBatch("s", 1)
		again.RetryOf = b.Ticket
		f.create(again)
		expect(f.T, "retried", one().Retried, true)
		f.delete(again)
		expect(f.T, "retried by what was deleted", one().Retried, false)
	}},
	{"a filter reaches batches beyond those that one call reads", func(f *fixture) {
		first := newBatch("s", 1)
		first.Requests[0].Path = "wanted"
		f.create(first)
		for range 120 {
			f.create(newBatch("s", 1))
		}
		o := filterOf(first)
		o.Path = "wanted"
		p, err := f.s.Find(f.Context(), o)
		if err != nil || len(p.Batches) != 0 || p.Next == 0 {
			f.Errorf("a page of what was looked at in vain: %+v, %v", p, err)
		}
		expect(f.T, "all pages", f.found(o, first), "[0]")
	}},
	{"a queue shows its counts, its pause and its release time", func(f *fixture) {
		state := func() storage.QueueState {
			f.Helper()
			q, err := f.s.Queue(f.Context(), "s")
			if err != nil {
				f.Fatal(err)
			}
			return q
		}
		expect(f.T, "no queue", state(), storage.QueueState{})
		c := f.claimed(newBatch("s", 2))
		f.create(newBatch("s", 1))
		expect(f.T, "two", state(), storage.QueueState{Open: 2, Held: 2})
		f.release(c, moment(0))
		s := state()
		expect(f.T, "released", s.NotBefore.Equal(moment(0)), true)
		c = f.claim(c.Queue)
		f.end(c)
		expect(f.T, "one has ended", state(), storage.QueueState{Open: 1, Held: 2})
		f.pauseQueue("s", true)
		expect(f.T, "paused", state().Paused, true)
		c = f.claim(c.Queue)
		f.release(c, storage.Forever)
		expect(f.T, "a pause is no moment", state().NotBefore, time.Time{})
	}},
	{"an overview counts open batches and names the longest queues", func(f *fixture) {
		over := func(loads int) storage.Overview {
			f.Helper()
			o, err := f.s.Overview(f.Context(), loads)
			if err != nil {
				f.Fatal(err)
			}
			return o
		}
		o := over(10)
		expect(f.T, "nothing", fmt.Sprint(o.Queues, o.Owned, o.Open, len(o.Loads)), "0 0 0 0")
		for i, n := range []int{1, 3, 2} {
			for range n {
				f.create(newBatch(fmt.Sprint("s", i), 1))
			}
		}
		f.claimed(newBatch("t", 1))
		o = over(2)
		expect(f.T, "counts", fmt.Sprint(o.Queues, o.Owned, o.Open), "4 1 7")
		expect(f.T, "the most", fmt.Sprintf("%s %d, %s %d of %d", o.Loads[0].Queue, o.Loads[0].Open, o.Loads[1].Queue, o.Loads[1].Open, len(o.Loads)), "s1 3, s2 2 of 2")
		if o.Loads[0].Oldest.IsZero() || o.Loads[0].Owned {
			f.Errorf("load: %+v", o.Loads[0])
		}
		self := slices.IndexFunc(o.Nodes, func(n storage.Node) bool { return n.Self })
		if self < 0 || o.Nodes[self].Queues != 1 {
			f.Errorf("nodes: %+v", o.Nodes)
		}
		for _, l := range over(10).Loads {
			expect(f.T, l.Queue+" is owned", l.Owned, l.Queue == "t")
		}
	}},
	{"marks are returned as recorded, without bodies", func(f *fixture) {
		b := newBatch("s", 5)
		c := f.claimed(b)
		marks := []storage.Mark{done(0, "x"), begun(1), waiting(2), failure(4, 500)}
		f.record(c, marks...)
		bare := slices.Clone(marks)
		for i := range bare {
			bare[i].Result.Body, bare[i].Result.Headers = nil, nil
		}
		got := func() []storage.Mark {
			f.Helper()
			m, err := f.s.Marks(f.Context(), c.ID)
			if err != nil {
				f.Fatal(err)
			}
			return m
		}
		expect(f.T, "of a running batch", got(), bare)
		bare[1] = done(1, "")
		bare[1].Result.Body, bare[1].Result.Headers = nil, nil
		f.end(c, done(1, "z"))
		expect(f.T, "of one that has ended", got(), bare)
		f.delete(b)
		_, err := f.s.Marks(f.Context(), c.ID)
		expectError(f.T, "of one that is gone", err, storage.ErrNotFound)
	}},
	{"with Once, a create returns an earlier retry in any state", func(f *fixture) {
		b := newBatch("s", 1)
		f.create(b)
		repetition := func(once bool) storage.CreateResult {
			f.Helper()
			r := newBatch("s", 1)
			r.RetryOf, r.Once = b.Ticket, once
			c, err := f.s.Create(f.Context(), r)
			if err != nil {
				f.Fatal(err)
			}
			return c
		}
		c := f.claim(repetition(true).Queue)
		f.end(c)
		c = f.claim(c.Queue)
		first := c.Ticket
		f.end(c, done(0, "x"))
		again := repetition(true)
		expect(f.T, "the only one", fmt.Sprint(again.Duplicate, again.Ticket), fmt.Sprint(true, first))
		another := repetition(false)
		expect(f.T, "another one", another.Duplicate, false)
		other := newBatch("t", 1)
		other.RetryOf, other.Once = b.Ticket, true
		f.create(other) // another creator's batch doesn't count
	}},
	{"a claim has the batch's trace and the time of its first claim", func(f *fixture) {
		b := newBatch("s", 1)
		b.Trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01 a=b"
		c := f.claimed(b)
		first := c.StartedAt
		expect(f.T, "trace", c.Trace, b.Trace)
		if first.Before(c.CreatedAt) || first.After(time.Now().Add(time.Minute)) {
			f.Errorf("created at %v, claimed at %v", c.CreatedAt, first)
		}
		f.release(c, time.Time{})
		c = f.claim(c.Queue)
		expect(f.T, "started", c.StartedAt.Equal(first), true)
		expect(f.T, "trace of the second claim", c.Trace, b.Trace)
		expect(f.T, "none", f.claimed(newBatch("t", 1)).Trace, "")
	}},
}
