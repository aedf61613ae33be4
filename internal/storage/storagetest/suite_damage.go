package storagetest

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// RunDamage checks that a damaged row affects only its own batch. open opens an empty database
// and returns harm, which damages a batch in the given way. ways lists the ways that harm knows.
func RunDamage(t *testing.T, ways []string, open func(t *testing.T) (s storage.Storage, harm func(way string, id storage.BatchID))) {
	for _, way := range ways {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			s, harm := open(t)
			f := &fixture{t, s}
			bad, good, other := newBatch("s", 3), newBatch("s", 1), newBatch("other", 1)
			c := f.claimed(bad)
			f.create(good)
			f.create(other)
			f.record(c, done(0, "x"), waiting(1))
			f.release(c, time.Time{})
			harm(way, c.ID)

			for name, err := range map[string]error{
				"Requests": second(s.Requests(t.Context(), c.ID)), "Marks": last(s.Marks(t.Context(), c.ID)),
				"Results": last(s.Results(t.Context(), c.ID, 0, everything)), "Status": last(s.Status(t.Context(), key(bad), everything)),
			} {
				if _, damaged := errors.AsType[*storage.DamagedError](err); err != nil && !damaged && !errors.Is(err, storage.ErrNotFound) {
					t.Errorf("%s: %v", name, err)
				}
			}
			if found := f.search(bad, batch.Queued); !slices.Contains(found, good.Ticket) {
				t.Errorf("found by status: %v", found)
			}
			for _, filter := range []storage.Filter{{}, {Path: "products"}} {
				filter.Store, filter.Owner, filter.Limit = bad.Store, bad.Owner, 10
				page, err := s.Find(t.Context(), filter)
				if err != nil || !slices.ContainsFunc(page.Batches, func(b storage.Summary) bool { return b.Ticket == good.Ticket }) {
					t.Errorf("found by %q: %v, %v", filter.Path, page, err)
				}
			}

			c, err := s.Claim(t.Context(), c.Queue)
			if err != nil {
				t.Fatal(err)
			}
			err = s.Load(t.Context(), c)
			if _, damaged := errors.AsType[*storage.DamagedError](err); way != "results" && !damaged {
				t.Errorf("Load: %v", err)
			}
			f.quarantine(c, "it is damaged")
			next := f.claim(c.Queue)
			expect(t, "the next batch", next.Ticket, good.Ticket)
			if err := s.Load(t.Context(), next); err != nil {
				t.Errorf("Load of the next batch: %v", err)
			}
			f.unquarantine(bad, true)
			expect(t, "state of what was ended", f.search(bad, batch.Completed), []batch.Ticket{bad.Ticket})
		})
	}
}

func last[T any](_ T, err error) error           { return err }
func second[T, U any](_ T, _ U, err error) error { return err }
