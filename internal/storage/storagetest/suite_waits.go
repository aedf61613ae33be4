package storagetest

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// releaseFor gives up a queue that waits for something.
func (f *fixture) releaseFor(c *storage.Claim, waits storage.WaitReason, notBefore time.Time) {
	f.Helper()
	c.Waits = waits
	f.release(c, notBefore)
}

// waits returns what the news of a batch says that it waits for.
func (f *fixture) waits(b *storage.NewBatch) storage.WaitReason {
	f.Helper()
	news, err := f.s.News(f.Context(), []storage.BatchID{f.status(b).ID})
	if err != nil || len(news) != 1 {
		f.Fatalf("news: %v, %v", news, err)
	}
	return news[0].Waits
}

var waitTests = []test{
	{"a queue waits for what its runner named, until the batch makes progress", func(f *fixture) {
		b := newBatch("s", 3)
		c := f.claimed(b)
		expect(f.T, "a first claim", c.Waits, storage.NoWait)
		expect(f.T, "status of a batch that runs", f.status(b).Wait, storage.Wait{})
		f.releaseFor(c, storage.ForUpstream, moment(5))
		first := f.status(b).Wait
		expect(f.T, "status", first.For, storage.ForUpstream)
		expect(f.T, "the beginning of the wait is known", first.Since.IsZero(), false)
		expect(f.T, "runnable", f.runnable()[0].Waits, storage.ForUpstream)
		if q, err := f.s.Queue(f.Context(), b.Queue); err != nil || q.Wait != first {
			f.Errorf("queue: %+v, %v", q, err)
		}
		if o, err := f.s.Overview(f.Context(), 1); err != nil || o.Loads[0].Wait != first {
			f.Errorf("overview: %+v, %v", o, err)
		}
		expect(f.T, "news", f.waits(b), storage.ForUpstream)

		c = f.claim(c.Queue)
		expect(f.T, "claim", c.Waits, storage.ForUpstream)
		expect(f.T, "status while a probe is sent", f.status(b).Wait, first)
		f.releaseFor(c, storage.ForUpstream, moment(5))
		expect(f.T, "the wait continues", f.status(b).Wait, first)

		c = f.claim(c.Queue)
		f.releaseFor(c, storage.ForCredential, moment(5))
		expect(f.T, "another wait", f.status(b).Wait.For, storage.ForCredential)

		c = f.claim(c.Queue)
		if err := f.s.Progress(f.Context(), c); err != nil {
			f.Fatal(err)
		}
		expect(f.T, "progress ends the wait", f.status(b).Wait, storage.Wait{})
		expect(f.T, "news afterwards", f.waits(b), storage.NoWait)
		if o, err := f.s.Overview(f.Context(), 1); err != nil || o.Loads[0].Wait != (storage.Wait{}) {
			f.Errorf("overview afterwards: %+v, %v", o, err)
		}
		f.releaseFor(c, storage.NoWait, time.Time{})
		expect(f.T, "runnable afterwards", f.runnable()[0].Waits, storage.NoWait)
	}},
	{"the end of a batch ends the wait", func(f *fixture) {
		b, next := newBatch("s", 1), newBatch("s", 1)
		c := f.claimed(b)
		f.create(next)
		f.releaseFor(c, storage.ForUpstream, moment(5))
		c = f.claim(c.Queue)
		c = f.finish(c, done(0, "x"))
		expect(f.T, "status of the ended batch", f.status(b).Wait, storage.Wait{})
		expect(f.T, "news of the ended batch", f.waits(b), storage.NoWait)
		expect(f.T, "news of the queue's next batch", f.waits(next), storage.ForUpstream)
		expect(f.T, "the queue's next claim", c.Waits, storage.ForUpstream)
		f.end(c, done(0, "x"))
		f.create(newBatch("s", 1))
		expect(f.T, "runnable", f.runnable()[0].Waits, storage.NoWait)
	}},
	{"a former owner cannot end a wait", func(f *fixture) {
		b := newBatch("s", 1)
		c := f.claimed(b)
		f.releaseFor(c, storage.ForUpstream, moment(5))
		old := f.claim(c.Queue)
		f.claim(c.Queue)
		if err := f.s.Progress(f.Context(), old); err == nil {
			f.Error("progress was accepted")
		}
		expect(f.T, "status", f.status(b).Wait.For, storage.ForUpstream)
	}},
}

// outages returns all outages.
func (f *fixture) outages() []storage.Outage {
	f.Helper()
	out, err := f.s.Outages(f.Context())
	if err != nil {
		f.Fatalf("Outages: %v", err)
	}
	return out
}

// putOutage returns whether the database stored it.
func (f *fixture) putOutage(o storage.Outage) bool {
	f.Helper()
	stored, err := f.s.PutOutage(f.Context(), o)
	if err != nil {
		f.Fatalf("PutOutage: %v", err)
	}
	return stored
}

// expired returns when a credential expired; zero: it didn't.
func (f *fixture) expired(credential batch.Owner) time.Time {
	f.Helper()
	all, err := f.s.Expired(f.Context(), time.Time{})
	if err != nil {
		f.Fatalf("Expired: %v", err)
	}
	return all[credential]
}

// wasAccepted returns whether the database knows that a credential was accepted.
func (f *fixture) wasAccepted(credential batch.Owner) bool {
	f.Helper()
	accepted, err := f.s.WasAccepted(f.Context(), credential)
	if err != nil {
		f.Fatalf("WasAccepted: %v", err)
	}
	return accepted
}

var credentialTests = []test{
	{"a credential is accepted, expires and is accepted again", func(f *fixture) {
		a, b := batch.OwnerOf("a"), batch.OwnerOf("b")
		change := func(change func(context.Context, batch.Owner) error, credential batch.Owner) {
			f.Helper()
			if err := change(f.Context(), credential); err != nil {
				f.Fatal(err)
			}
		}
		expect(f.T, "unknown", f.wasAccepted(a), false)
		change(f.s.Accepted, a)
		expect(f.T, "accepted", f.wasAccepted(a), true)
		expect(f.T, "another one", f.wasAccepted(b), false)
		expect(f.T, "not expired", f.expired(a).IsZero(), true)
		change(f.s.Expire, a)
		at := f.expired(a)
		expect(f.T, "expired", at.IsZero(), false)
		change(f.s.Expire, a)
		expect(f.T, "the first time counts", f.expired(a).Equal(at), true)
		expect(f.T, "it had been accepted", f.wasAccepted(a), true)
		change(f.s.Expire, b)
		expect(f.T, "expired without having been accepted", f.wasAccepted(b), false)
		for since, want := range map[time.Time]int{at: 2, at.Add(time.Hour): 0} {
			if got, err := f.s.Expired(f.Context(), since); err != nil || len(got) != want {
				f.Errorf("since %v: %v, %v", since, got, err)
			}
		}
		f.purge(time.Hour)
		expect(f.T, "after a purge", f.expired(a).Equal(at), true)
		change(f.s.Accepted, a)
		expect(f.T, "no longer expired", f.expired(a).IsZero(), true)
	}},
}

// again returns a new batch like b, with the same deduplication key.
func again(b *storage.NewBatch) *storage.NewBatch {
	out := *b
	out.Ticket = uuid.New()
	return &out
}

// renew gives a batch the credential "new".
func (f *fixture) renew(b *storage.NewBatch, owner batch.Owner, queue string) storage.QueueID {
	f.Helper()
	q, err := f.s.Renew(f.Context(), storage.Renewal{Key: key(b), Credential: []byte("new"), NewOwner: owner, NewQueue: queue})
	if err != nil {
		f.Fatalf("Renew: %v", err)
	}
	return q
}

var renewalTests = []test{
	{"a queue that waits for a credential runs again with the new one", func(f *fixture) {
		b := newBatch("s", 2)
		c := f.claimed(b)
		f.releaseFor(c, storage.ForCredential, moment(5))
		expect(f.T, "queue", f.renew(b, b.Owner, ""), c.Queue)
		expect(f.T, "not before", f.notBefore(), time.Time{})
		c = f.claim(c.Queue)
		expect(f.T, "credential", string(c.Credential), "new")
		expect(f.T, "the wait ends with the first success", c.Waits, storage.ForCredential)
	}},
	{"a batch that runs learns of the new credential when it is released", func(f *fixture) {
		b := newBatch("s", 2)
		c := f.claimed(b)
		f.renew(b, b.Owner, "")
		f.releaseFor(c, storage.ForCredential, moment(5))
		expect(f.T, "not before", f.notBefore(), time.Time{})
		expect(f.T, "status", f.status(b).Wait, storage.Wait{})
		expect(f.T, "credential", string(f.claim(c.Queue).Credential), "new")
	}},
	{"other waits don't end", func(f *fixture) {
		b := newBatch("s", 2)
		c := f.claimed(b)
		f.releaseFor(c, storage.ForUpstream, moment(5))
		f.renew(b, b.Owner, "")
		expect(f.T, "not before", f.notBefore().Equal(moment(5)), true)
	}},
	{"the batch and its queue get a new owner", func(f *fixture) {
		b, next := newBatch("s", 1), newBatch("s", 1)
		b.DedupKey, next.DedupKey = uuid.New(), uuid.New()
		f.create(b)
		f.create(next)
		old, owner := *b, batch.OwnerOf("another token")
		q := f.renew(b, owner, "s/another")
		if _, err := f.s.Status(f.Context(), key(&old), 0); !errors.Is(err, storage.ErrNotFound) {
			f.Errorf("the old owner reads the batch: %v", err)
		}
		b.Owner, b.Queue = owner, "s/another"
		expect(f.T, "status", f.status(b).Status, batch.Queued)
		f.expectDuplicate(again(b), b, q)
		taken := newBatch("s", 1)
		taken.Owner, taken.Queue, taken.DedupKey = owner, "s/another", next.DedupKey
		expect(f.T, "the queue has a new name", f.create(taken), q)
		f.renew(next, owner, "s/another")
		next.Owner = owner
		expect(f.T, "a batch that lost its key", f.status(next).Status, batch.Queued)
		f.expectDuplicate(again(taken), taken, q)
	}},
	{"a batch that has ended gets the owner only", func(f *fixture) {
		b := newBatch("s", 1)
		f.finish(f.claimed(b), done(0, "x"))
		owner := batch.OwnerOf("another token")
		f.renew(b, owner, "")
		b.Owner = owner
		expect(f.T, "outcome", f.status(b).Status, batch.Completed)
		f.expectSeals(3)
	}},
	{"only the owner can renew", func(f *fixture) {
		b := newBatch("s", 1)
		f.create(b)
		k := key(b)
		k.Owner = batch.OwnerOf("a stranger")
		if _, err := f.s.Renew(f.Context(), storage.Renewal{Key: k, Credential: []byte("x"), NewOwner: k.Owner}); !errors.Is(err, storage.ErrNotFound) {
			f.Errorf("got %v", err)
		}
	}},
}

var outageTests = []test{
	{"each probe of an outage belongs to one node", func(f *fixture) {
		since := storage.CeilMillis(time.Now())
		o := storage.Outage{Upstream: "a", Since: since, ProbeAt: since.Add(time.Second)}
		expect(f.T, "none", len(f.outages()), 0)
		expect(f.T, "begins", f.putOutage(o), true)
		expect(f.T, "has begun already", f.putOutage(o), false)
		o.Probes, o.ProbeAt = 1, since.Add(3*time.Second)
		later := o
		later.Since = since.Add(time.Minute)
		expect(f.T, "first probe", f.putOutage(later), true)
		expect(f.T, "the same probe", f.putOutage(o), false)
		expect(f.T, "an earlier probe", f.putOutage(storage.Outage{Upstream: "a", Since: since}), false)
		expect(f.T, "a probe too far", f.putOutage(storage.Outage{Upstream: "a", Since: since, Probes: 3}), false)
		expect(f.T, "a probe of an outage that never began", f.putOutage(storage.Outage{Upstream: "b", Since: since, Probes: 1}), false)
		all := f.outages()
		expect(f.T, "outages", len(all), 1)
		got := all[0]
		expect(f.T, "upstream and probes", [2]any{got.Upstream, got.Probes}, [2]any{"a", 1})
		expect(f.T, "since", got.Since.Equal(since), true)
		expect(f.T, "next probe", got.ProbeAt.Equal(o.ProbeAt), true)

		for range 2 {
			if err := f.s.EndOutage(f.Context(), "a"); err != nil {
				f.Fatal(err)
			}
		}
		expect(f.T, "none is left", len(f.outages()), 0)
		o.Probes = 0
		expect(f.T, "begins again", f.putOutage(o), true)
	}},
}
