package storagetest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// odd is text that a client or an upstream may send and that a database might mishandle.
const odd = "ä €😀 'quoted' \"x\" \\ % _ ; --\n\r\t\x00 end"

var createTests = []test{
	{"a batch is returned as it was created", func(f *fixture) {
		b := oddBatch()
		c := f.claimed(b)
		expect(f.T, "ticket", c.Ticket, b.Ticket)
		expect(f.T, "store", c.Store, b.Store)
		expect(f.T, "owner", c.Owner, b.Owner)
		expect(f.T, "group", c.GroupID, b.GroupID)
		expect(f.T, "options", c.Options, b.Options)
		expect(f.T, "requests", c.Requests, b.Requests)
		expect(f.T, "credential", c.Credential, b.Credential)
		s := f.status(b)
		expect(f.T, "group in the status", s.GroupID, b.GroupID)
		expect(f.T, "ids in the status", s.IDs, []string{odd, "", "000001", "", ""})
	}},
	{"every choice of options is kept", func(f *fixture) {
		for i := range 4 {
			b := newBatch(fmt.Sprint("s", i), 1)
			b.Options = batch.Options{Parallel: i&1 != 0, StopOnFailure: i&2 != 0}
			expect(f.T, "options", f.claimed(b).Options, b.Options)
		}
		for i, o := range []batch.Options{{Concurrency: 1}, {Retries: new(batch.MaxRetries)}, {Success: batch.Success{Codes: "200"}}} {
			b := newBatch(fmt.Sprint("one", i), 1)
			b.Options = o
			expect(f.T, "options", f.claimed(b).Options, o)
		}
	}},
	{"500 requests of 8 KiB", func(f *fixture) {
		b := newBatch("s", batch.MaxRequests)
		for i := range b.Requests {
			b.Requests[i].Body = []byte(strings.Repeat(fmt.Sprint(i), 8<<10)[:8<<10])
		}
		expect(f.T, "requests", f.claimed(b).Requests, b.Requests)
	}},
	{"no credential", func(f *fixture) {
		b := newBatch("s", 1)
		b.Credential = nil
		expect(f.T, "credential", len(f.claimed(b).Credential), 0)
	}},
	{"a caller's slices aren't shared with storage", func(f *fixture) {
		b := newBatch("s", 1)
		b.Requests[0].Body = []byte("body")
		c := f.claimed(b)
		b.Requests[0].Body[0], b.Requests[0].Path, b.Credential[0] = 'X', "elsewhere", 'X'
		c.Requests[0].Body[0], c.Requests[0].Path, c.Credential[0] = 'Y', "elsewhere", 'Y'
		again := f.claim(c.Queue)
		expect(f.T, "body", string(again.Requests[0].Body), "body")
		expect(f.T, "path", again.Requests[0].Path, "products/0")
		expect(f.T, "credential", string(again.Credential), "sealed token of s")
	}},
	{"the quota limits a queue's unfinished batches", func(f *fixture) {
		for range 2 {
			f.create(withQuota(newBatch("s", 1), 2))
		}
		_, err := f.s.Create(f.Context(), withQuota(newBatch("s", 1), 2))
		var full *storage.QuotaError
		if !errors.As(err, &full) || full.Limit != 2 {
			f.Errorf("got error %v, want a quota error with limit 2", err)
		}
		expect(f.T, "batches", len(f.search(newBatch("s", 1), batch.Queued)), 2)
		f.create(withQuota(newBatch("s", 1), 3))
		f.create(withQuota(newBatch("t", 1), 2))
		f.create(newBatch("s", 1))
	}},
	{"a running batch counts for the quota, an ended one doesn't", func(f *fixture) {
		c := f.claimed(newBatch("s", 1))
		_, err := f.s.Create(f.Context(), withQuota(newBatch("s", 1), 1))
		var full *storage.QuotaError
		if !errors.As(err, &full) {
			f.Errorf("got error %v, want a quota error", err)
		}
		f.finish(c)
		f.create(withQuota(newBatch("s", 1), 1))
	}},
	{"a deduplication key finds the first batch", func(f *fixture) {
		first := withDedup(newBatch("s", 1))
		q := f.create(first)
		second := newBatch("s", 2)
		second.DedupKey, second.Queue = first.DedupKey, "another queue"
		f.expectDuplicate(second, first, q)
		f.expectDuplicate(second, first, q)
		c := f.claim(q)
		f.expectDuplicate(second, first, q)
		expect(f.T, "the next claim", f.finish(c), (*storage.Claim)(nil))
		f.expectDuplicate(second, first, q)
	}},
	{"a deduplication key applies to one store and owner", func(f *fixture) {
		first := withDedup(newBatch("s", 1))
		f.create(first)
		store, owner, other := newBatch("t", 1), newBatch("s", 1), newBatch("s", 1)
		store.DedupKey, store.Owner = first.DedupKey, first.Owner
		owner.DedupKey, owner.Owner = first.DedupKey, batch.OwnerOf("another")
		other.DedupKey = uuid.New()
		for _, b := range []*storage.NewBatch{store, owner, other, newBatch("s", 1), newBatch("s", 1)} {
			f.create(b)
		}
	}},
	{"a deduplication key is checked before the quota", func(f *fixture) {
		first := withQuota(withDedup(newBatch("s", 1)), 1)
		q := f.create(first)
		second := withQuota(newBatch("s", 1), 1)
		second.DedupKey = first.DedupKey
		f.expectDuplicate(second, first, q)
	}},
	{"a deduplication key is free after the batch was deleted", func(f *fixture) {
		stages := map[string]func(q storage.QueueID){
			"queued":  func(storage.QueueID) {},
			"running": func(q storage.QueueID) { f.claim(q) },
			"ended":   func(q storage.QueueID) { f.finish(f.claim(q)) },
		}
		for store, begin := range stages {
			first := withDedup(newBatch(store, 1))
			begin(f.create(first))
			f.delete(first)
			second := newBatch(store, 1)
			second.DedupKey = first.DedupKey
			f.create(second)
		}
	}},
	{"of concurrent creates with one key, one is stored", func(f *fixture) {
		const n = 8
		dedup := uuid.New()
		made := make([]storage.CreateResult, n)
		errs := make([]error, n)
		var all sync.WaitGroup
		for i := range n {
			all.Go(func() {
				b := newBatch("s", 1)
				b.DedupKey = dedup
				made[i], errs[i] = f.s.Create(f.Context(), b)
			})
		}
		all.Wait()
		if err := errors.Join(errs...); err != nil {
			f.Fatal(err)
		}
		originals := slices.DeleteFunc(slices.Clone(made), func(c storage.CreateResult) bool { return c.Duplicate })
		expect(f.T, "creates that stored", len(originals), 1)
		for _, c := range made {
			expect(f.T, "ticket", c.Ticket, made[0].Ticket)
			expect(f.T, "queue", c.Queue, made[0].Queue)
		}
		expect(f.T, "batches", f.search(newBatch("s", 1), batch.Queued), []batch.Ticket{made[0].Ticket})
	}},
	{"of concurrent creates, as many as the quota allows are stored", func(f *fixture) {
		const n = 8
		errs := make([]error, n)
		var all sync.WaitGroup
		for i := range n {
			all.Go(func() { _, errs[i] = f.s.Create(f.Context(), withQuota(newBatch("s", 1), 3)) })
		}
		all.Wait()
		for _, err := range errs {
			var full *storage.QuotaError
			if err != nil && !errors.As(err, &full) {
				f.Error(err)
			}
		}
		expect(f.T, "batches", len(f.search(newBatch("s", 1), batch.Queued)), 3)
	}},
}

var orderTests = []test{
	{"a queue's batches run in the order of their creation", func(f *fixture) {
		var want []batch.Ticket
		var q storage.QueueID
		for range 5 {
			b := newBatch("s", 1)
			q = f.create(b)
			want = append(want, b.Ticket)
		}
		var got []batch.Ticket
		var last storage.BatchID
		for c := f.claim(q); c != nil; c = f.finish(c) {
			got = append(got, c.Ticket)
			if c.ID <= last {
				f.Errorf("batch %d comes after batch %d", c.ID, last)
			}
			last = c.ID
		}
		expect(f.T, "the order", got, want)
	}},
	{"equal names are one queue, different names are different queues", func(f *fixture) {
		seen := map[storage.QueueID]string{}
		for _, name := range []string{"a", "A", "a ", "a\x00b", "a\x00c", "\xff\xfe", "ä"} {
			for range 2 {
				b := newBatch("s", 1)
				b.Queue = name
				q := f.create(b)
				if other, ok := seen[q]; ok && other != name {
					f.Errorf("%q and %q are one queue", other, name)
				}
				seen[q] = name
			}
		}
		expect(f.T, "queues", len(seen), 7)
	}},
	{"queues do not wait for each other", func(f *fixture) {
		f.claimed(newBatch("s", 1))
		b := newBatch("t", 1)
		expect(f.T, "the claim of the other queue", f.claimed(b).Ticket, b.Ticket)
	}},
	{"IDs are never reused", func(f *fixture) {
		var lastBatch storage.BatchID
		for range 3 {
			c := f.claimed(newBatch("s", 1))
			if c.ID <= lastBatch {
				f.Errorf("batch %d comes after batch %d", c.ID, lastBatch)
			}
			lastBatch = c.ID
			f.finish(c)
			f.purge(0)
		}
		gone := f.claimed(newBatch("t", 1))
		f.finish(gone)
		f.purge(0)
		now := f.claimed(newBatch("t", 1))
		if now.Queue == gone.Queue && now.Epoch <= gone.Epoch {
			f.Errorf("queue %d and epoch %d came again", now.Queue, now.Epoch)
		}
		_, err := f.s.Record(f.Context(), gone, []storage.Mark{begun(0)})
		expectError(f.T, "a record of a purged batch", err, storage.ErrNotOwner)
	}},
}

// oddBatch returns a batch with every field set to something hard to store.
func oddBatch() *storage.NewBatch {
	b := newBatch("s", 5)
	b.Queue, b.GroupID = odd, odd
	b.Options = oddOptions()
	b.Credential = []byte{0, 1, 0xff, 0}
	b.Requests[0].ID = odd
	b.Requests[0].Path = "products?q=%2B+%20&x=" + strings.Repeat("y", batch.MaxPath-30)
	b.Requests[1].Body = []byte{0, 0xff, '\n', 0xc3, 0x28}
	b.Requests[2].ID = "000001"
	b.Requests[2].Body = []byte(`{"price":1.10,"id":12345678901234567890}`)
	b.Requests[3].Method = "DELETE"
	b.Requests[4].Body = []byte(strings.Repeat("z", 1<<20))
	return b
}

// oddOptions returns options in which every field is set, and hard to store.
func oddOptions() batch.Options {
	return batch.Options{
		Parallel: true, Concurrency: batch.MaxParallel, Retries: new(0), Backoff: batch.Backoff{First: 1500 * time.Millisecond, Most: batch.MaxPause},
		Success: batch.Success{Codes: "2xx,404", FailWhen: []string{"/a,b/~0~1\"<\\", "/ü \u00a0€"}},
	}
}

func withQuota(b *storage.NewBatch, quota int) *storage.NewBatch {
	b.Quota = quota
	return b
}

func withDedup(b *storage.NewBatch) *storage.NewBatch {
	b.DedupKey = uuid.New()
	return b
}

// expectDuplicate checks that creating b returns the first batch and stores nothing.
func (f *fixture) expectDuplicate(b, first *storage.NewBatch, q storage.QueueID) {
	f.Helper()
	c, err := f.s.Create(f.Context(), b)
	if err != nil {
		f.Fatalf("Create: %v", err)
	}
	expect(f.T, "the outcome", c, storage.CreateResult{Ticket: first.Ticket, Queue: q, Duplicate: true})
	_, err = f.s.Status(f.Context(), key(b), 0)
	expectError(f.T, "Status of the duplicate", err, storage.ErrNotFound)
}
