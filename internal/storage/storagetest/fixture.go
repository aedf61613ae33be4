package storagetest

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// everything is a maxBytes that limits nothing.
const everything = 1 << 40

// test checks one sentence of the contract.
type test struct {
	name string
	run  func(f *fixture)
}

// fixture is one test's storage. Its methods make calls that must succeed.
type fixture struct {
	*testing.T
	s storage.Storage
}

// runTests runs each test with its own database.
func runTests(t *testing.T, theme string, open func(t *testing.T) storage.Storage, tests []test) {
	t.Run(theme, func(t *testing.T) {
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				t.Parallel()
				tt.run(&fixture{t, open(t)})
			})
		}
	})
}

// newBatch returns a batch of n requests. Its queue and its owner are named after the store.
func newBatch(store string, n int) *storage.NewBatch {
	b := &storage.NewBatch{
		Ticket: uuid.New(), Store: store, Owner: batch.OwnerOf("token of " + store), Queue: store,
		Credential: []byte("sealed token of " + store),
	}
	for i := range n {
		b.Requests = append(b.Requests, batch.Request{Method: "POST", Path: fmt.Sprintf("products/%d", i)})
	}
	return b
}

func key(b *storage.NewBatch) storage.Key {
	return storage.Key{Store: b.Store, Owner: b.Owner, Ticket: b.Ticket}
}

// done, begun and waiting return marks with all relevant fields set.
func done(i int, body string) storage.Mark {
	return storage.Mark{
		Index: i, State: storage.Done, Tries: tries(1),
		Result: batch.Result{
			Status: batch.Succeeded, Code: 200, Line: "OK", Body: []byte(body), Kind: batch.TextBody,
			Headers: []batch.Header{{Name: "Etag", Value: odd}, {Name: "X", Value: ""}},
		},
	}
}

// postponed returns the mark of a request that waits again and keeps its stored answer.
func postponed(i int) storage.Mark {
	return storage.Mark{Index: i, State: storage.Waiting, Tries: tries(4), NotBefore: moment(95)}
}

// skipped returns the mark of a request that was not executed.
func skipped(i int) storage.Mark {
	return storage.Mark{Index: i, State: storage.Done, Tries: tries(1), Result: batch.Result{Status: batch.NotExecuted, Line: "its parent failed"}}
}

func begun(i int) storage.Mark {
	return storage.Mark{Index: i, State: storage.Begun, Tries: tries(1)}
}

func waiting(i int) storage.Mark {
	return storage.Mark{
		Index: i, State: storage.Waiting, Tries: tries(2), NotBefore: moment(90),
		Result: batch.Result{Status: batch.Failed, Code: 503, Line: "Busy", Body: []byte(`{"retry":true}`), Kind: batch.JSONBody},
	}
}

func tries(n int) storage.Tries {
	return storage.Tries{
		Attempts: n, Retries: n - 1, Throttles: 3 * n, ThrottledSince: moment(1), MaybeDone: n > 1, InDoubt: n > 2,
		StartedAt: moment(2), EndedAt: moment(3),
	}
}

// moment returns a fixed time plus s seconds.
func moment(s int) time.Time {
	return time.UnixMilli(1_900_000_000_000).Add(time.Duration(s) * time.Second)
}

// create stores the batch and returns its queue.
func (f *fixture) create(b *storage.NewBatch) storage.QueueID {
	f.Helper()
	c, err := f.s.Create(f.Context(), b)
	if err != nil {
		f.Fatalf("Create: %v", err)
	}
	expect(f.T, "the created ticket", c.Ticket, b.Ticket)
	if c.Duplicate {
		f.Fatal("Create took a new batch for a duplicate")
	}
	return c.Queue
}

// claimed stores the batch and claims its queue.
func (f *fixture) claimed(b *storage.NewBatch) *storage.Claim {
	f.Helper()
	return f.claim(f.create(b))
}

func (f *fixture) claim(q storage.QueueID) *storage.Claim {
	f.Helper()
	c, err := f.s.Claim(f.Context(), q)
	if err != nil {
		f.Fatalf("Claim: %v", err)
	}
	f.load(c)
	return c
}

func (f *fixture) load(c *storage.Claim) {
	f.Helper()
	if err := f.s.Load(f.Context(), c); err != nil {
		f.Fatalf("Load: %v", err)
	}
}

func (f *fixture) record(c *storage.Claim, marks ...storage.Mark) storage.Signals {
	f.Helper()
	s, err := f.s.Record(f.Context(), c, marks)
	if err != nil {
		f.Fatalf("Record: %v", err)
	}
	return s
}

func (f *fixture) finish(c *storage.Claim, marks ...storage.Mark) *storage.Claim {
	f.Helper()
	next, err := f.s.Finish(f.Context(), c, marks, "", false)
	if err != nil {
		f.Fatalf("Finish: %v", err)
	}
	if next != nil {
		f.load(next)
	}
	return next
}

func (f *fixture) release(c *storage.Claim, notBefore time.Time, marks ...storage.Mark) {
	f.Helper()
	if err := f.s.Release(f.Context(), c, marks, notBefore); err != nil {
		f.Fatalf("Release: %v", err)
	}
}

// status returns a batch with all its results.
func (f *fixture) status(b *storage.NewBatch) *storage.Status {
	f.Helper()
	s, err := f.s.Status(f.Context(), key(b), everything)
	if err != nil {
		f.Fatalf("Status: %v", err)
	}
	return s
}

func (f *fixture) stop(sel storage.Selection) storage.StopResult {
	f.Helper()
	s, err := f.s.Stop(f.Context(), sel)
	if err != nil {
		f.Fatalf("Stop: %v", err)
	}
	return s
}

func (f *fixture) delete(b *storage.NewBatch) storage.QueueID {
	f.Helper()
	q, err := f.s.Delete(f.Context(), key(b))
	if err != nil {
		f.Fatalf("Delete: %v", err)
	}
	return q
}

// runnable returns all runnable queues.
func (f *fixture) runnable() []storage.Runnable {
	f.Helper()
	r, err := f.s.Runnable(f.Context(), 0, 1000)
	if err != nil {
		f.Fatalf("Runnable: %v", err)
	}
	return r
}

// search returns the tickets of the batches of b's creator that have the status.
func (f *fixture) search(b *storage.NewBatch, s batch.Status) []batch.Ticket {
	f.Helper()
	return f.searchPage(b, s, 100, 0)
}

// searchPage returns a page of the tickets of the batches with the status, oldest first.
func (f *fixture) searchPage(b *storage.NewBatch, s batch.Status, limit, offset int) []batch.Ticket {
	f.Helper()
	found, err := search(f.Context(), f.s, b, s, limit, offset)
	if err != nil {
		f.Fatalf("Find: %v", err)
	}
	tickets := []batch.Ticket{}
	for _, r := range found {
		expect(f.T, "the status that was found", r.Status, s)
		tickets = append(tickets, r.Ticket)
	}
	return tickets
}

// match is one batch that a search found.
type match struct {
	Ticket      batch.Ticket
	Status      batch.Status
	Quarantined bool
}

// finder is the part of a database that searches.
type finder interface {
	Find(ctx context.Context, f storage.Filter) (storage.Page, error)
}

// search returns the batches of b's creator with a status, oldest first, or with any status, newest
// first. It skips the first offset batches and reads as many pages as it needs.
func search(ctx context.Context, s finder, b *storage.NewBatch, status batch.Status, limit, offset int) ([]match, error) {
	out := []match{}
	f := storage.Filter{Store: b.Store, Owner: b.Owner, Status: status, Oldest: status != 0}
	for {
		f.Limit = offset + limit - len(out)
		page, err := s.Find(ctx, f)
		if err != nil {
			return nil, err
		}
		skipped := min(offset, len(page.Batches))
		offset -= skipped
		for _, x := range page.Batches[skipped:] {
			out = append(out, match{x.Ticket, x.Status, x.Quarantined})
		}
		if f.After = page.Next; f.After == 0 || len(out) == limit {
			return out, nil
		}
	}
}

// purge removes everything that ended longer than retention ago.
func (f *fixture) purge(retention time.Duration) {
	f.Helper()
	for more := true; more; {
		var err error
		if more, err = f.s.Purge(f.Context(), retention); err != nil {
			f.Fatalf("Purge: %v", err)
		}
	}
}

// gone checks that no read finds the batch.
func (f *fixture) gone(b *storage.NewBatch, id storage.BatchID) {
	f.Helper()
	_, err := f.s.Status(f.Context(), key(b), 0)
	expectError(f.T, "Status", err, storage.ErrNotFound)
	_, err = f.s.Results(f.Context(), id, 0, everything)
	expectError(f.T, "Results", err, storage.ErrNotFound)
	_, err = f.s.Delete(f.Context(), key(b))
	expectError(f.T, "Delete", err, storage.ErrNotFound)
	expect(f.T, "Stop", f.stop(storage.Selection{Store: b.Store, Owner: b.Owner, Ticket: b.Ticket}).Count, 0)
	for _, s := range []batch.Status{batch.Queued, batch.InProgress, batch.Completed} {
		for _, ticket := range f.search(b, s) {
			if ticket == b.Ticket {
				f.Errorf("Find for %s finds it", s)
			}
		}
	}
}

// outcome describes a batch: its status, and each request's code, or "-" if it has no result.
func (f *fixture) outcome(b *storage.NewBatch) string {
	f.Helper()
	s := f.status(b)
	words := make([]string, s.Total)
	for i := range words {
		words[i] = "-"
	}
	for _, r := range s.Results {
		words[r.Index] = fmt.Sprint(r.Code)
		if !s.Ended.Has(r.Index) {
			f.Errorf("request %d has a result and is not in Ended", r.Index)
		}
	}
	out := s.Status.String()
	for _, w := range words {
		out += " " + w
	}
	return out
}

// expectMarks compares marks field by field, with times in milliseconds.
func expectMarks(t *testing.T, got []storage.Mark, want ...storage.Mark) {
	t.Helper()
	expect(t, "the marks", plainMarks(got), plainMarks(want))
}

// plainMarks returns marks in a form in which equal ones are identical.
func plainMarks(ms []storage.Mark) []storage.Mark {
	out := make([]storage.Mark, len(ms))
	for i, m := range ms {
		out[i] = cloneMark(m)
		if len(m.Result.Body) == 0 {
			out[i].Result.Body = nil
		}
	}
	return out
}

// unread returns a mark as Load shows it.
func unread(m storage.Mark) storage.Mark { return m.Unread() }

func expect(t testing.TB, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func expectError(t testing.TB, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: got error %v, want %v", what, got, want)
	}
}
