package storagetest

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// calling returns a batch of the store with a callback.
func calling(store string, n int) *storage.NewBatch {
	b := newBatch(store, n)
	b.Callback, b.GroupID = "https://example.com/"+odd, "g"
	return b
}

func (f *fixture) due(lease time.Duration) (d []storage.Delivery) {
	f.Helper()
	for {
		found, _ := f.dueOnce(storage.DueQuery{Limit: 10, Lease: lease})
		if d = append(d, found...); len(found) == 0 || lease == 0 {
			return d
		}
	}
}

func (f *fixture) dueOnce(q storage.DueQuery) ([]storage.Delivery, storage.Lane) {
	f.Helper()
	d, next, err := f.s.DueDeliveries(f.Context(), q)
	if err != nil {
		f.Fatalf("DueDeliveries: %v", err)
	}
	return d, next
}

// lanes describes deliveries by their stores and hosts.
func lanes(d []storage.Delivery) (out []string) {
	for i := range d {
		out = append(out, d[i].Store+" "+d[i].Host)
	}
	slices.Sort(out)
	return out
}

// callingTo ends a batch of the store with a callback to the address.
func (f *fixture) callingTo(store, address string) {
	f.Helper()
	b := calling(store, 1)
	b.Callback = address
	f.finish(f.claimed(b))
}

func (f *fixture) put(d storage.Delivery) {
	f.Helper()
	if err := f.s.PutDelivery(f.Context(), &d); err != nil {
		f.Fatalf("PutDelivery: %v", err)
	}
}

func (f *fixture) deliveries(b *storage.NewBatch, ticket batch.Ticket) []storage.Delivery {
	f.Helper()
	d, err := f.s.Deliveries(f.Context(), storage.DeliverySearch{Store: b.Store, Owner: b.Owner, Ticket: ticket, Limit: 100})
	if err != nil {
		f.Fatalf("Deliveries: %v", err)
	}
	return d
}

var deliveryTests = []test{
	{"the end of a batch creates a delivery with its counts", func(f *fixture) {
		silent := newBatch("s", 1)
		f.finish(f.claimed(silent))
		b := calling("s", 4)
		c := f.claimed(b)
		expect(f.T, "before its end", len(f.due(time.Hour)), 0)
		bad := done(1, "")
		bad.Result.Status = batch.Failed
		f.finish(c, done(0, ""), bad, skipped(2))
		d := f.due(time.Hour)
		if len(d) != 1 {
			f.Fatalf("due: %+v, want one", d)
		}
		got := d[0]
		if got.NextAt.Before(time.Now().Add(50*time.Minute)) || got.CreatedAt.IsZero() {
			f.Errorf("moments: %+v", got)
		}
		got.ID, got.NextAt, got.CreatedAt = 0, time.Time{}, time.Time{}
		expect(f.T, "delivery", got, storage.Delivery{
			Ticket: b.Ticket, Store: "s", GroupID: "g", URL: b.Callback, Host: "example.com", State: storage.Pending, Attempts: 1, Total: 4, Completed: 2, Failed: 1,
		})
		expect(f.T, "due again", len(f.due(time.Hour)), 0)
		expect(f.T, "of the silent one", len(f.deliveries(silent, silent.Ticket)), 0)
	}},
	{"any end of a batch creates a delivery, except a delete", func(f *fixture) {
		queued, started, deleted, abandoned := calling("a", 1), calling("b", 1), calling("c", 1), calling("d", 1)
		f.create(queued)
		f.stop(byTicket(queued))
		c := f.claimed(started)
		f.stop(byTicket(started))
		f.finish(c)
		f.create(deleted)
		f.delete(deleted)
		f.create(abandoned)
		f.abandon(1)
		got := map[batch.Ticket]bool{}
		for _, d := range f.due(time.Hour) {
			got[d.Ticket] = true
		}
		expect(f.T, "told", got, map[batch.Ticket]bool{queued.Ticket: true, started.Ticket: true, abandoned.Ticket: true})
	}},
	{"an attempt without an outcome is made again", func(f *fixture) {
		b := calling("s", 1)
		f.finish(f.claimed(b))
		first := f.due(0)
		again := f.due(time.Hour)
		if len(first) != 1 || len(again) != 1 || again[0].Attempts != 2 {
			f.Fatalf("first %+v, then %+v", first, again)
		}
		late := first[0]
		late.State = storage.Delivered
		f.put(late)
		expect(f.T, "after a late word of the first", f.deliveries(b, b.Ticket)[0].State, storage.Pending)
		d := again[0]
		d.State, d.Code, d.Problem, d.NextAt = storage.Pending, 503, odd, time.Now().Add(-time.Second)
		f.put(d)
		third := f.due(time.Hour)
		if len(third) != 1 || third[0].Attempts != 3 || third[0].Code != 503 || third[0].Problem != odd {
			f.Fatalf("third %+v", third)
		}
		d = third[0]
		d.State, d.Code, d.Problem = storage.Delivered, 204, ""
		f.put(d)
		expect(f.T, "due after it was delivered", len(f.due(time.Hour)), 0)
		got := f.deliveries(b, uuid.Nil)[0]
		expect(f.T, "state", fmt.Sprint(got.State, got.Code, got.Attempts, got.Problem), fmt.Sprint(storage.Delivered, 204, 3, ""))
	}},
	{"sent again", func(f *fixture) {
		b, silent := calling("s", 1), newBatch("s", 1)
		f.finish(f.claimed(b))
		f.create(silent)
		d := f.due(time.Hour)[0]
		d.State = storage.GivenUp
		f.put(d)
		if err := f.s.Redeliver(f.Context(), key(b)); err != nil {
			f.Fatal(err)
		}
		expect(f.T, "attempts", f.due(time.Hour)[0].Attempts, 1)
		k := key(b)
		k.Owner = batch.OwnerOf("another")
		for _, k := range []storage.Key{k, key(silent), {Store: "s", Owner: b.Owner, Ticket: uuid.New()}, {Store: "s", Owner: b.Owner}} {
			if err := f.s.Redeliver(f.Context(), k); !errors.Is(err, storage.ErrNotFound) {
				f.Errorf("%+v: got error %v, want ErrNotFound", k, err)
			}
		}
	}},
	{"deliveries are listed newest first, to their creator only", func(f *fixture) {
		var all []*storage.NewBatch
		for range 3 {
			b := calling("s", 1)
			f.finish(f.claimed(b))
			all = append(all, b)
		}
		var got []batch.Ticket
		for _, d := range f.deliveries(all[0], uuid.Nil) {
			got = append(got, d.Ticket)
		}
		expect(f.T, "all", got, []batch.Ticket{all[2].Ticket, all[1].Ticket, all[0].Ticket})
		newest, err := f.s.Deliveries(f.Context(), storage.DeliverySearch{Store: "s", Owner: all[0].Owner, Limit: 1})
		if err != nil || len(newest) != 1 {
			f.Fatalf("Deliveries: %v, %v", newest, err)
		}
		next, err := f.s.Deliveries(f.Context(), storage.DeliverySearch{Store: "s", Owner: all[0].Owner, Limit: 1, After: newest[0].ID})
		if err != nil || len(next) != 1 || next[0].Ticket != all[1].Ticket {
			f.Errorf("behind the newest: %+v, %v", next, err)
		}
		page, err := f.s.Deliveries(f.Context(), storage.DeliverySearch{Store: "s", Owner: all[0].Owner, Limit: 1, Offset: 1})
		if err != nil || len(page) != 1 || page[0].Ticket != all[1].Ticket {
			f.Errorf("a page: %+v, %v", page, err)
		}
		foreign := *all[0]
		foreign.Owner = batch.OwnerOf("another")
		expect(f.T, "another's", len(f.deliveries(&foreign, uuid.Nil)), 0)
	}},
	{"each store and each host gets one delivery at a time", func(f *fixture) {
		for _, host := range []string{"dead.example", "dead.example", "dead.example", "DEAD.example", "live.example:8443"} {
			f.callingTo("a", "https://"+host+"/hook")
		}
		f.callingTo("b", "https://dead.example")
		f.callingTo("b", "https://b.example?x=/")
		f.callingTo("c", "https://c.example")
		round := func(want ...string) {
			f.Helper()
			d, next := f.dueOnce(storage.DueQuery{Limit: 10, Lease: time.Hour})
			expect(f.T, "a round", lanes(d), want)
			expect(f.T, "the next lane", next, storage.Lane{})
		}
		round("a dead.example", "b b.example", "c c.example")
		round("a dead.example")
		d, _ := f.dueOnce(storage.DueQuery{Limit: 10, Lease: time.Hour, Busy: []storage.Lane{{Host: "dead.example"}}})
		expect(f.T, "without the dead host", lanes(d), []string{"a live.example:8443"})
		d, _ = f.dueOnce(storage.DueQuery{Limit: 10, Lease: time.Hour, Busy: []storage.Lane{{Store: "a"}}})
		expect(f.T, "without the first store", lanes(d), []string{"b dead.example"})
		d, _ = f.dueOnce(storage.DueQuery{Limit: 10, Lease: time.Hour, Busy: []storage.Lane{{Store: "a", Host: "dead.example"}, {Store: "b", Host: "live.example:8443"}}})
		expect(f.T, "without one lane", lanes(d), []string(nil))
		round("a dead.example")
	}},
	{"lanes take turns", func(f *fixture) {
		const stores = 7
		for i := range 3 * stores {
			f.callingTo(fmt.Sprint("store ", i%stores), fmt.Sprintf("https://host-%d.example", i%stores))
		}
		taken := map[string]int{}
		var after storage.Lane
		for range 2 * stores {
			d, next := f.dueOnce(storage.DueQuery{Limit: 2, Lease: time.Hour, After: after})
			for i := range d {
				taken[d[i].Store]++
			}
			if after = next; after == (storage.Lane{}) {
				expect(f.T, "stores that had a turn", len(taken), stores)
				for store, n := range taken {
					expect(f.T, "turns of "+store, n, 1)
				}
				return
			}
		}
		f.Error("the round did not end")
	}},
	{"a spared attempt does not count", func(f *fixture) {
		b := calling("s", 1)
		f.finish(f.claimed(b))
		d := f.due(time.Hour)[0]
		d.State, d.Spared, d.Code, d.Problem, d.NextAt = storage.Pending, true, 500, "x", time.Now().Add(-time.Second)
		f.put(d)
		again := f.due(time.Hour)
		if len(again) != 1 || again[0].Attempts != 1 || again[0].Code != 0 || again[0].Problem != "" {
			f.Fatalf("taken again: %+v", again)
		}
	}},
	{"a pending delivery is removed with its batch", func(f *fixture) {
		b := calling("s", 1)
		f.finish(f.claimed(b))
		f.purge(time.Hour)
		expect(f.T, "within retention", len(f.deliveries(b, uuid.Nil)), 1)
		f.purge(0)
		expect(f.T, "due after a purge", len(f.due(time.Hour)), 0)
		_, err := f.s.Status(f.Context(), key(b), 0)
		expectError(f.T, "Status after a purge", err, storage.ErrNotFound)
		gone := calling("s", 1)
		f.finish(f.claimed(gone))
		f.delete(gone)
		expect(f.T, "due of a deleted one", len(f.due(time.Hour)), 0)
		f.purge(time.Hour)
		expect(f.T, "of a deleted one", len(f.deliveries(gone, uuid.Nil)), 0)
	}},
}
