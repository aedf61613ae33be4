package storagetest

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

var readTests = []test{
	{"a new batch is queued", func(f *fixture) {
		before := now()
		b := newBatch("s", 3)
		f.create(b)
		s := f.status(b)
		if s.CreatedAt.Before(before.Add(-time.Minute)) || s.CreatedAt.After(time.Now().Add(time.Minute)) {
			f.Errorf("it was created at %v, now it is %v", s.CreatedAt, time.Now())
		}
		expect(f.T, "status", *s, storage.Status{
			ID: s.ID, Ticket: b.Ticket, Status: batch.Queued, Total: 3, CreatedAt: s.CreatedAt,
		})
	}},
	{"a batch is queued until a request has ended", func(f *fixture) {
		b := newBatch("s", 2)
		c := f.claimed(b)
		expect(f.T, "claimed", f.outcome(b), "QUEUED - -")
		f.record(c, begun(0), waiting(1))
		expect(f.T, "begun and waiting", f.outcome(b), "QUEUED - -")
		if s := f.status(b); s.StartedAt.IsZero() || !s.EndedAt.IsZero() || s.Completed != 0 {
			f.Errorf("a started batch: %+v", s)
		}
	}},
	{"a batch is in progress once a request has ended, whatever its outcome", func(f *fixture) {
		for i, result := range []batch.ResultStatus{batch.Succeeded, batch.Failed} {
			b := newBatch(fmt.Sprint("s", i), 3)
			c := f.claimed(b)
			m := done(1, "")
			m.Result.Status = result
			f.record(c, m)
			expect(f.T, "outcome", f.outcome(b), "IN_PROGRESS - 200 -")
			expect(f.T, "completed", f.status(b).Completed, 1)
			expect(f.T, "found", f.search(b, batch.InProgress), []batch.Ticket{b.Ticket})
		}
	}},
	{"a request that was not executed has a result, but doesn't count as completed", func(f *fixture) {
		b := newBatch("s", 4)
		c := f.claimed(b)
		f.record(c, skipped(1))
		s := f.status(b)
		expect(f.T, "status", s.Status, batch.Queued)
		expect(f.T, "completed", s.Completed, 0)
		expect(f.T, "found", f.search(b, batch.Queued), []batch.Ticket{b.Ticket})
		expect(f.T, "reason", s.Results[0].Line, "its parent failed")
		f.record(c, done(0, "a"), skipped(3))
		s = f.status(b)
		expect(f.T, "status", s.Status, batch.InProgress)
		expect(f.T, "completed", s.Completed, 1)
		expect(f.T, "results", len(s.Results), 3)
		expect(f.T, "found", f.search(b, batch.InProgress), []batch.Ticket{b.Ticket})
		f.finish(c)
		s = f.status(b)
		expect(f.T, "completed at the end", s.Completed, 1)
		expect(f.T, "results at the end", len(s.Results), 3)
		expect(f.T, "headers", s.Results[0].Headers, done(0, "a").Result.Headers)
	}},
	{"news", func(f *fixture) {
		news := func(what string, batches []*storage.NewBatch, want ...storage.News) {
			f.Helper()
			var ids []storage.BatchID
			for i, b := range batches {
				id := storage.BatchID(1 << 40) // of a batch that doesn't exist
				if b != nil {
					id = f.status(b).ID
				}
				ids = append(ids, id)
				if i < len(want) {
					want[i].ID = id
				}
			}
			got, err := f.s.News(f.Context(), ids)
			if err != nil {
				f.Fatal(err)
			}
			slices.SortFunc(got, func(a, b storage.News) int { return cmp.Compare(a.ID, b.ID) })
			expect(f.T, what, got, want)
		}
		a, b := newBatch("a", 4), newBatch("b", 1)
		f.create(a)
		f.create(b)
		news("queued", []*storage.NewBatch{a, b, nil}, storage.News{Status: batch.Queued}, storage.News{Status: batch.Queued})
		c := f.claim(f.runnable()[0].Queue)
		f.record(c, skipped(3), begun(0))
		news("one not executed", []*storage.NewBatch{a, b}, storage.News{Status: batch.Queued, Results: 1}, storage.News{Status: batch.Queued})
		f.record(c, done(0, "x"))
		news("one done", []*storage.NewBatch{a}, storage.News{Status: batch.InProgress, Completed: 1, Results: 2})
		f.finish(c, done(1, "y"))
		news("ended", []*storage.NewBatch{a}, storage.News{Status: batch.Completed, Completed: 2, Results: 3})
		got, err := f.s.News(f.Context(), nil)
		if err != nil || len(got) != 0 {
			f.Errorf("of no batch: %v, %v", got, err)
		}
	}},
	{"requests and their attempts", func(f *fixture) {
		b := newBatch("s", 3)
		b.Options = oddOptions()
		b.Requests[1].Links = &batch.Links{DependsOn: []int{0}, RunIf: batch.IfFailure}
		c := f.claimed(b)
		f.record(c, done(0, "x"))
		id := f.status(b).ID
		got, options, err := f.s.Requests(f.Context(), id)
		if err != nil {
			f.Fatal(err)
		}
		expect(f.T, "requests", got, b.Requests)
		expect(f.T, "options", options, b.Options)
		r := f.status(b).Results[0]
		expect(f.T, "attempts", r.Attempts, 1)
		expect(f.T, "started", r.StartedAt.Equal(moment(2)), true)
		expect(f.T, "ended", r.EndedAt.Equal(moment(3)), true)
		f.delete(b)
		if _, _, err := f.s.Requests(f.Context(), id); !errors.Is(err, storage.ErrNotFound) {
			f.Errorf("of a deleted batch: %v", err)
		}
	}},
	{"a search without a status finds all, newest first", func(f *fixture) {
		var all []*storage.NewBatch
		for i := range 6 {
			b := newBatch(fmt.Sprint("q", i%3), 2)
			b.Store, b.Owner = "s", batch.OwnerOf("s")
			f.create(b)
			all = append(all, b)
		}
		c := f.claim(f.runnable()[1].Queue)
		f.finish(c, done(0, "x"))
		f.record(f.claim(f.runnable()[0].Queue), done(0, "x"))
		f.delete(all[2])
		found, err := search(f.Context(), f.s, all[0], 0, 100, 0)
		if err != nil {
			f.Fatal(err)
		}
		expect(f.T, "found", found, []match{
			{Ticket: all[5].Ticket, Status: batch.Queued},
			{Ticket: all[4].Ticket, Status: batch.Queued},
			{Ticket: all[3].Ticket, Status: batch.Queued},
			{Ticket: all[1].Ticket, Status: batch.Completed},
			{Ticket: all[0].Ticket, Status: batch.InProgress},
		})
		found, err = search(f.Context(), f.s, all[0], 0, 2, 3)
		if err != nil {
			f.Fatal(err)
		}
		expect(f.T, "found from the fourth on", found, []match{{Ticket: all[1].Ticket, Status: batch.Completed}, {Ticket: all[0].Ticket, Status: batch.InProgress}})
	}},
	{"an ended batch is completed and shows the reason", func(f *fixture) {
		b := newBatch("s", 4)
		c := f.claimed(b)
		failed := done(1, "")
		failed.Result.Status, failed.Result.Code = batch.Failed, 404
		f.record(c, done(0, ""), begun(2), waiting(3))
		if _, err := f.s.Finish(f.Context(), c, []storage.Mark{failed}, odd, false); err != nil {
			f.Fatal(err)
		}
		expect(f.T, "outcome", f.outcome(b), "COMPLETED 200 404 - -")
		s := f.status(b)
		expect(f.T, "completed", s.Completed, 2)
		expect(f.T, "reason", s.Reason, odd)
		if s.StartedAt.IsZero() || s.EndedAt.Before(s.StartedAt) {
			f.Errorf("started at %v, ended at %v", s.StartedAt, s.EndedAt)
		}
	}},
	{"results are returned only on request", func(f *fixture) {
		b := newBatch("s", 2)
		f.finish(f.claimed(b), done(0, "body"), done(1, "body"))
		s, err := f.s.Status(f.Context(), key(b), 0)
		if err != nil {
			f.Fatal(err)
		}
		expect(f.T, "results", len(s.Results), 0)
		expect(f.T, "ended", s.Ended, batch.Set{})
		expect(f.T, "completed", s.Completed, 2)
		expect(f.T, "status", s.Status, batch.Completed)
	}},
	{"every kind of result is kept byte for byte", func(f *fixture) {
		want := oddResults()
		b := newBatch("s", len(want))
		c := f.claimed(b)
		for i, r := range want {
			f.record(c, storage.Mark{Index: i, State: storage.Done, Result: r})
		}
		for _, when := range []string{"running", "ended"} {
			got := f.status(b).Results
			if len(got) != len(want) {
				f.Fatalf("%s: %d results, want %d", when, len(got), len(want))
			}
			for i, r := range got {
				same := r.Index == i && r.Status == want[i].Status && r.Code == want[i].Code && r.Line == want[i].Line && r.Kind == want[i].Kind
				if !same || !bytes.Equal(r.Body, want[i].Body) {
					f.Errorf("%s, result %d: got %.200q, want %.200q", when, i, fmt.Sprint(r), fmt.Sprint(want[i]))
				}
			}
			if when == "running" {
				f.finish(c)
			}
		}
	}},
	{"a page has as many results as fit, and at least one", func(f *fixture) {
		b := newBatch("s", 7)
		c := f.claimed(b)
		f.record(c, begun(0), done(1, "0123456789"), done(2, ""), waiting(3), done(4, "0123456789"), done(6, "0123456789"))
		id := f.status(b).ID
		tests := []struct {
			from, maxBytes int
			want           []int
		}{
			{0, 1, []int{1}},
			{0, 9, []int{1}},
			{0, 10, []int{1, 2}},
			{0, 19, []int{1, 2}},
			{0, 20, []int{1, 2, 4}},
			{0, 29, []int{1, 2, 4}},
			{0, 30, []int{1, 2, 4, 6}},
			{0, everything, []int{1, 2, 4, 6}},
			{1, 1, []int{1}},
			{2, 1, []int{2}},
			{2, 10, []int{2, 4}},
			{3, 1, []int{4}},
			{5, 100, []int{6}},
			{6, 1, []int{6}},
			{7, 100, nil},
			{500, 100, nil},
			{511, 100, nil},
			{512, 100, nil},
			{100_000, 100, nil},
		}
		for _, tt := range tests {
			results, err := f.s.Results(f.Context(), id, tt.from, tt.maxBytes)
			if err != nil {
				f.Fatal(err)
			}
			expect(f.T, fmt.Sprintf("from %d, %d bytes", tt.from, tt.maxBytes), indexes(results), tt.want)
			if tt.from > 0 {
				continue
			}
			s, err := f.s.Status(f.Context(), key(b), tt.maxBytes)
			if err != nil {
				f.Fatal(err)
			}
			expect(f.T, fmt.Sprintf("status with %d bytes", tt.maxBytes), indexes(s.Results), tt.want)
			for i := range 7 {
				expect(f.T, fmt.Sprint("ended ", i), s.Ended.Has(i), i == 1 || i == 2 || i == 4 || i == 6)
			}
		}
	}},
	{"a batch shows only its own results", func(f *fixture) {
		a, b := newBatch("s", batch.MaxRequests), newBatch("t", batch.MaxRequests)
		ca, cb := f.claimed(a), f.claimed(b)
		f.record(ca, done(0, "a"), done(batch.MaxRequests-1, "a"))
		f.record(cb, done(0, "b"), done(batch.MaxRequests-1, "b"))
		for body, x := range map[string]*storage.NewBatch{"a": a, "b": b} {
			results := f.status(x).Results
			expect(f.T, "indexes", indexes(results), []int{0, batch.MaxRequests - 1})
			for _, r := range results {
				expect(f.T, "body", string(r.Body), body)
			}
		}
	}},
	{"unknown batches and those of others look the same", func(f *fixture) {
		b := newBatch("s", 1)
		f.create(b)
		unknown, store, owner := key(b), key(b), key(b)
		unknown.Ticket = uuid.New()
		store.Store = "t"
		owner.Owner = batch.OwnerOf("another")
		for name, k := range map[string]storage.Key{"unknown": unknown, "another store": store, "another owner": owner} {
			_, err := f.s.Status(f.Context(), k, everything)
			expectError(f.T, name, err, storage.ErrNotFound)
			_, err = f.s.Delete(f.Context(), k)
			expectError(f.T, name, err, storage.ErrNotFound)
			n := f.stop(storage.Selection{Store: k.Store, Owner: k.Owner, Ticket: k.Ticket}).Count
			expect(f.T, name+": stopped", n, 0)
		}
		_, err := f.s.Results(f.Context(), 1<<40, 0, everything)
		expectError(f.T, "results of an unknown batch", err, storage.ErrNotFound)
		expect(f.T, "afterwards", f.outcome(b), "QUEUED -")
	}},
}

// oddResults returns a result of each kind. Their bodies contain every byte.
func oddResults() []batch.Result {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	return []batch.Result{
		{Status: batch.Succeeded, Code: 204, Line: "No Content"},
		{Status: batch.Succeeded, Code: 200, Line: "OK", Kind: batch.JSONBody, Body: []byte(` {"id":12345678901234567890,"price":1.10,"é":"\ud83d"} `)},
		{Status: batch.Failed, Code: 404, Line: odd, Kind: batch.TextBody, Body: []byte(odd)},
		{Status: batch.Failed, Code: 599, Line: "", Kind: batch.BinaryBody, Body: all},
		{Status: batch.Succeeded, Code: 200, Line: "OK", Kind: batch.BinaryBody, Body: bytes.Repeat(all, 8<<10)},
		{Status: batch.Failed, Code: 502, Line: "the connection broke; the request may have taken effect"},
	}
}

func indexes(results []storage.IndexedResult) []int {
	var out []int
	for _, r := range results {
		out = append(out, r.Index)
	}
	return out
}

var searchTests = []test{
	{"oldest first, a page at a time", func(f *fixture) {
		var all []batch.Ticket
		b := newBatch("s", 1)
		for i := range 7 {
			b = newBatch("s", 1)
			b.Queue = fmt.Sprint(i % 2)
			f.create(b)
			all = append(all, b.Ticket)
		}
		for _, p := range []struct{ limit, offset, from, to int }{
			{100, 0, 0, 7}, {7, 0, 0, 7}, {3, 0, 0, 3}, {3, 3, 3, 6}, {3, 6, 6, 7}, {3, 7, 7, 7}, {3, 100, 7, 7}, {1, 5, 5, 6},
		} {
			got := f.searchPage(b, batch.Queued, p.limit, p.offset)
			expect(f.T, fmt.Sprintf("limit %d, offset %d", p.limit, p.offset), got, append([]batch.Ticket{}, all[p.from:p.to]...))
		}
	}},
	{"a search by status finds only batches with that status", func(f *fixture) {
		ended, begun, queued := newBatch("s", 1), newBatch("s", 2), newBatch("s", 1)
		c := f.claimed(ended)
		f.create(begun)
		f.create(queued)
		f.record(f.finish(c), done(0, ""))
		expect(f.T, "completed", f.search(ended, batch.Completed), []batch.Ticket{ended.Ticket})
		expect(f.T, "in progress", f.search(ended, batch.InProgress), []batch.Ticket{begun.Ticket})
		expect(f.T, "queued", f.search(ended, batch.Queued), []batch.Ticket{queued.Ticket})
	}},
	{"only the creator's batches are found", func(f *fixture) {
		b := newBatch("s", 1)
		f.create(b)
		store, owner := newBatch("t", 1), newBatch("s", 1)
		store.Owner, owner.Owner = b.Owner, batch.OwnerOf("another")
		f.create(store)
		f.create(owner)
		for _, x := range []*storage.NewBatch{b, store, owner} {
			expect(f.T, "found", f.search(x, batch.Queued), []batch.Ticket{x.Ticket})
		}
		nobody := newBatch("t", 1)
		expect(f.T, "found by a stranger", f.search(nobody, batch.Queued), []batch.Ticket{})
	}},
}
