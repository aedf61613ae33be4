package storagetest

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// room fails unless exactly n bytes are left of the quota of store s: a batch of one request that
// takes them fits, and one with a byte more doesn't.
func (f *fixture) room(n int64) {
	f.Helper()
	_, err := f.s.Create(f.Context(), sized(n+1, quota))
	full, ok := errors.AsType[*storage.QuotaError](err)
	if !ok || full.Bytes != quota || full.Limit != 0 {
		f.Fatalf("with %d bytes left a batch of %d: got error %v, want a quota error", n, n+1, err)
	}
	if n < smallest {
		return
	}
	b := sized(n, quota)
	f.create(b)
	f.delete(b)
	f.purge(time.Hour) // deleted and ended: removed at once
}

// quota is the limit of each queue's bytes in these tests.
const quota = 400

// smallest is the size of a batch of one request with a body of one byte.
var smallest = int64(len(storage.Pack(sizedRequest(0, 1))))

func sizedRequest(id, body int) []batch.Request {
	return []batch.Request{{ID: strings.Repeat("x", id), Method: "POST", Path: "p", Body: []byte(strings.Repeat("x", body))}}
}

// sized returns a batch of store s that takes exactly that many bytes. They must be at least
// smallest, and few enough not to be compressed.
func sized(bytes, quota int64) *storage.NewBatch {
	b := newBatch("s", 1)
	b.QuotaBytes = quota
	for id := 0; ; id++ { // if the length prefix of the body grows by a byte, a longer id fills the gap
		b.Requests = sizedRequest(id, int(bytes-smallest)+1-2*id)
		if int64(len(storage.Pack(b.Requests))) == bytes {
			return b
		}
	}
}

var byteTests = []test{
	{"the size grows with the stored data", func(f *fixture) {
		before, err := f.s.Size(f.Context())
		if err != nil {
			f.Fatal(err)
		}
		const body = 2 << 20
		noise := make([]byte, body)
		_, _ = rand.Read(noise)
		b := newBatch("s", 1)
		b.Requests[0].Body = []byte(`"` + base64.StdEncoding.EncodeToString(noise) + `"`)
		f.create(b)
		after, err := f.s.Size(f.Context())
		if err != nil || after-before < body/2 || after-before > 16*body {
			f.Errorf("a batch of %d bytes changes the size from %d to %d, %v", body, before, after, err)
		}
	}},
	{"the unfinished batches of all queues whose names have a prefix are counted", func(f *fixture) {
		expect := func(prefix string, want int) {
			f.Helper()
			if n, err := f.s.Unfinished(f.Context(), prefix); err != nil || n != want {
				f.Errorf("%d unfinished batches in the queues %q…, %v; want %d", n, prefix, err, want)
			}
		}
		for queue, batches := range map[string]int{"s/a": 2, "s/b": 1, "s": 1, "s0": 1, "s.": 1, "t/a": 1, "s/": 1, "s/\u00fc": 1} {
			for range batches {
				b := newBatch("s", 1)
				b.Queue = queue
				f.create(b)
			}
		}
		expect("s/", 5)
		expect("s", 8)
		expect("u/", 0)
		b := newBatch("s", 1)
		b.Queue = "u/a"
		c := f.claimed(b)
		expect("u/", 1)
		f.finish(c)
		expect("u/", 0)
	}},
	{"a batch counts from its creation until it is purged", func(f *fixture) {
		f.room(quota)
		b := sized(100, quota)
		c := f.claimed(b)
		f.room(quota - 100)
		f.record(c, done(0, strings.Repeat("a", 50)))
		f.finish(c)
		f.room(quota - 150)
		f.purge(time.Hour)
		f.room(quota - 150)
		f.delete(b)
		f.purge(time.Hour)
		f.room(quota)
	}},
	{"results count once, however they were recorded", func(f *fixture) {
		b := newBatch("s", 4)
		c := f.claimed(b)
		f.record(c, done(0, "aaaa"), waiting(1), begun(2))
		f.release(c, time.Time{}, done(0, "again"), done(1, "bb"))
		c = f.claim(c.Queue)
		f.finish(c, done(1, "late"), done(2, "c"))
		f.finish(c, done(3, "after the end"))
		f.room(quota - int64(len(storage.Pack(b.Requests))) - int64(len("aaaabbc")))
	}},
	{"a refused batch takes nothing", func(f *fixture) {
		f.create(sized(300, 400))
		for range 3 {
			_, err := f.s.Create(f.Context(), sized(200, 400))
			if _, ok := errors.AsType[*storage.QuotaError](err); !ok {
				f.Fatalf("got error %v, want a quota error", err)
			}
		}
		f.room(100)
	}},
	{"each queue is counted separately, with or without a quota", func(f *fixture) {
		f.create(sized(300, 0))
		other := sized(400, 400)
		other.Queue = "another"
		f.create(other)
		f.room(100)
	}},
	{"a repeated create is accepted even if the quota is used up", func(f *fixture) {
		b := withDedup(sized(350, 400))
		q := f.create(b)
		again := sized(350, 400)
		again.DedupKey = b.DedupKey
		f.expectDuplicate(again, b, q)
	}},
	{"abandoned and stopped batches count until they are purged", func(f *fixture) {
		a, b := sized(100, quota), sized(100, quota)
		c := f.claimed(a)
		f.create(b)
		f.release(c, time.Time{}, waiting(0))
		f.abandon(2)
		f.room(quota - 200 - int64(len(waiting(0).Result.Body)))
		f.purge(0)
		f.room(quota)
		f.create(a)
		f.stop(byTicket(a))
		f.purge(time.Hour)
		f.room(quota - 100)
	}},
	{"of concurrent creates, as many as fit are stored", func(f *fixture) {
		errs := together(8, func(int) error {
			_, err := f.s.Create(f.Context(), sized(100, 350))
			return err
		})
		full := slices.DeleteFunc(errs, func(err error) bool { return err == nil })
		for _, err := range full {
			if _, ok := errors.AsType[*storage.QuotaError](err); !ok {
				f.Error(err)
			}
		}
		expect(f.T, "refused", len(full), 5)
	}},
}

var holdTests = []test{
	{"the later of two holds counts, for its credential only", func(f *fixture) {
		one, two := batch.OwnerOf("one"), batch.OwnerOf("two")
		soon, late := stamp(time.Now().Add(time.Minute)), stamp(time.Now().Add(2*time.Minute))
		for _, until := range []time.Time{soon, late, soon} {
			f.hold(one, until)
		}
		f.hold(two, soon)
		f.expectHolds(map[batch.Owner]time.Time{one: late, two: soon})
	}},
	{"each store has its own hold", func(f *fixture) {
		one, until := batch.OwnerOf("one"), stamp(time.Now().Add(time.Minute))
		for _, h := range []storage.Hold{{Credential: one, Store: "a", Until: until}, {Credential: one, Store: odd, Until: until.Add(time.Second)}} {
			if err := f.s.Hold(f.Context(), h); err != nil {
				f.Fatal(err)
			}
		}
		first := f.reserve(one, time.Minute)
		expect(f.T, "the second span", f.reserve(one, time.Minute), first.Add(time.Minute))
		got := map[string]time.Time{}
		for _, h := range f.holds() {
			got[h.Store] = h.Until
		}
		expect(f.T, "holds", got, map[string]time.Time{"a": until, odd: until.Add(time.Second)})
	}},
	{"a hold that has ended isn't listed", func(f *fixture) {
		f.hold(batch.OwnerOf("one"), time.Now().Add(-time.Second))
		f.expectHolds(map[batch.Owner]time.Time{})
		f.purge(time.Hour)
		f.hold(batch.OwnerOf("one"), stamp(time.Now().Add(time.Minute)))
		f.purge(time.Hour)
		expect(f.T, "holds", len(f.holds()), 1)
	}},
	{"spans follow each other", func(f *fixture) {
		one := batch.OwnerOf("one")
		before := stamp(time.Now())
		first := f.reserve(one, time.Minute)
		if first.Before(before.Add(-time.Second)) || first.After(time.Now().Add(time.Second)) {
			f.Errorf("the first span begins at %v, want now, %v", first, before)
		}
		expect(f.T, "the second", f.reserve(one, 1500*time.Millisecond), first.Add(time.Minute))
		f.hold(one, time.Now().Add(time.Hour))
		f.purge(time.Hour)
		expect(f.T, "the third", f.reserve(one, time.Second), first.Add(time.Minute+1500*time.Millisecond))
		if other := f.reserve(batch.OwnerOf("two"), time.Second); other.After(time.Now().Add(time.Second)) {
			f.Errorf("another credential's begins at %v, want now", other)
		}
	}},
	{"spans that are taken concurrently don't overlap", func(f *fixture) {
		got := make([]time.Time, 20)
		errs := together(len(got), func(i int) (err error) {
			got[i], err = f.s.Reserve(f.Context(), batch.OwnerOf("one"), time.Minute)
			return err
		})
		for _, err := range errs {
			expectError(f.T, "Reserve", err, nil)
		}
		slices.SortFunc(got, time.Time.Compare)
		for i := range got[1:] {
			expect(f.T, "the next span", got[i+1], got[i].Add(time.Minute))
		}
	}},
}

func (f *fixture) hold(credential batch.Owner, until time.Time) {
	f.Helper()
	if err := f.s.Hold(f.Context(), storage.Hold{Credential: credential, Until: until}); err != nil {
		f.Fatalf("Hold: %v", err)
	}
}

func (f *fixture) holds() []storage.Hold {
	f.Helper()
	out, err := f.s.Holds(f.Context())
	if err != nil {
		f.Fatalf("Holds: %v", err)
	}
	return out
}

func (f *fixture) expectHolds(want map[batch.Owner]time.Time) {
	f.Helper()
	got := map[batch.Owner]time.Time{}
	for _, h := range f.holds() {
		got[h.Credential] = h.Until
	}
	expect(f.T, "holds", got, want)
}

func (f *fixture) reserve(credential batch.Owner, span time.Duration) time.Time {
	f.Helper()
	from, err := f.s.Reserve(f.Context(), credential, span)
	if err != nil {
		f.Fatalf("Reserve: %v", err)
	}
	return from
}
