package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
	"github.com/sheafapi/sheaf/internal/storage/storagetest"
)

// errorStorage is storage that answers calls for one batch or one queue with an error.
type errorStorage struct {
	Storage
	op    string
	err   error
	times int // how often to answer with the error; negative: always
	batch batch.Ticket
	queue storage.QueueID
	mu    sync.Mutex
	calls int // how often the operation was called for the batch
}

func (a *errorStorage) isOf(q storage.QueueID) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return q == a.queue
}

func (a *errorStorage) called() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.calls
}

func (a *errorStorage) left() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.times
}

func (a *errorStorage) answer(op string, c *storage.Claim) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if op != a.op || c != nil && c.Ticket != a.batch {
		return nil
	}
	a.calls++
	if a.times == 0 {
		return nil
	}
	a.times--
	return a.err
}

func (a *errorStorage) Claim(ctx context.Context, q storage.QueueID) (*storage.Claim, error) {
	if a.isOf(q) {
		if err := a.answer("Claim", nil); err != nil {
			return nil, err
		}
	}
	return a.Storage.Claim(ctx, q)
}

func (a *errorStorage) Load(ctx context.Context, c *storage.Claim) error {
	if err := a.answer("Load", c); err != nil {
		return err
	}
	return a.Storage.Load(ctx, c)
}

func (a *errorStorage) Results(ctx context.Context, id storage.BatchID, from, maxBytes int) ([]storage.IndexedResult, error) {
	if err := a.answer("Results", nil); err != nil {
		return nil, err
	}
	return a.Storage.Results(ctx, id, from, maxBytes)
}

func (a *errorStorage) Record(ctx context.Context, c *storage.Claim, marks []storage.Mark) (storage.Signals, error) {
	if err := a.answer("Record", c); err != nil {
		return storage.Signals{}, err
	}
	return a.Storage.Record(ctx, c, marks)
}

func (a *errorStorage) Finish(ctx context.Context, c *storage.Claim, marks []storage.Mark, reason string, release bool) (*storage.Claim, error) {
	if err := a.answer("Finish", c); err != nil {
		return nil, err
	}
	return a.Storage.Finish(ctx, c, marks, reason, release)
}

func (a *errorStorage) Release(ctx context.Context, c *storage.Claim, marks []storage.Mark, notBefore time.Time) error {
	if err := a.answer("Release", c); err != nil {
		return err
	}
	return a.Storage.Release(ctx, c, marks, notBefore)
}

func (a *errorStorage) Quarantine(ctx context.Context, c *storage.Claim, reason string) error {
	if err := a.answer("Quarantine", c); err != nil {
		return err
	}
	return a.Storage.Quarantine(ctx, c, reason)
}

func (a *errorStorage) Progress(ctx context.Context, c *storage.Claim) error {
	if err := a.answer("Progress", c); err != nil {
		return err
	}
	return a.Storage.Progress(ctx, c)
}

func (a *errorStorage) Authorized(c *storage.Claim) bool {
	return (a.op != "Authorize" || !a.isOf(c.Queue) || a.left() == 0) && a.Storage.Authorized(c)
}

func (a *errorStorage) Authorize(ctx context.Context, c *storage.Claim) error {
	if a.isOf(c.Queue) {
		if err := a.answer("Authorize", nil); err != nil {
			return err
		}
	}
	return a.Storage.Authorize(ctx, c)
}

func (a *errorStorage) Runnable(ctx context.Context, after storage.QueueID, limit int) ([]storage.Runnable, error) {
	if err := a.answer("Runnable", nil); err != nil {
		return nil, err
	}
	return a.Storage.Runnable(ctx, after, limit)
}

// TestEveryError makes each storage call for one batch fail with each error, once or always. The engine must
// make a limited number of calls, run other stores' batches, and shut down at once. After the batch was
// quarantined or has ended, the next batch of its store must run.
func TestEveryError(t *testing.T) {
	errs := map[string]error{
		"not found": storage.ErrNotFound, "not owner": storage.ErrNotOwner, "nothing": storage.ErrNothing,
		"quota": &storage.QuotaError{Limit: 1}, "damaged": &storage.DamagedError{Err: storage.ErrDamaged},
		"refused": &storage.RefusedError{Err: errors.New("value out of range")}, "unknown": errors.New("no answer"),
	}
	for _, op := range []string{"Claim", "Load", "Results", "Record", "Finish", "Release", "Quarantine", "Progress", "Authorize", "Runnable"} {
		for name, err := range errs {
			for _, times := range []int{1, 20, -1} {
				scenario(t, fmt.Sprintf("%s %s %d times", op, name, times), func(t *testing.T, w *world) {
					everyError(t, w, &errorStorage{op: op, err: err, times: times})
				})
			}
		}
	}
}

func everyError(t *testing.T, w *world, a *errorStorage) {
	w.shutdown()
	parent := answered(200)
	parent.Body = []byte(`{"id":7}`)
	w.up.script(0, 0, step{answer: parent})
	w.up.script(0, 1, step{answer: answered(429, "Retry-After", "5")}, step{answer: answered(200)})
	always := a.times < 0
	times := a.times
	a.times = 0
	w.wrap = func(s Storage) Storage {
		a.Storage = s
		return a
	}
	w.start()
	first := w.createPair()
	second := w.create("s", stop, "POST")
	a.mu.Lock()
	a.batch, a.queue, a.times, a.calls = first.key.Ticket, first.queue, times, 0
	a.mu.Unlock()
	if a.op == "Quarantine" {
		w.db.Damage(first.key.Ticket, "damaged")
	}
	other := w.create("other", stop, "POST")
	takes := 3 * time.Minute
	if a.op == "Quarantine" { // the engine retries it only once a minute
		takes = 30 * time.Minute
	}
	w.pass(takes)
	expect(t, "another store's batch", w.outcome(other), "200")
	if most := int(6 * takes.Seconds()); a.called() > most {
		t.Errorf("%d calls in %v", a.called(), takes)
	}
	s := w.status(first)
	over := s.Status == batch.Completed || !s.Quarantined.IsZero()
	if over && !(always && a.op == "Claim") && !(times != 1 && a.op == "Authorize") {
		expect(t, "the next batch of the store", w.outcome(second), "200")
	}
	if !over && !always {
		t.Errorf("the batch has not ended and was not quarantined: %s", w.outcome(first))
	}
	began := time.Now()
	w.shutdown()
	if took := time.Since(began); took > w.engine.ShutdownTimeout+lastWords {
		t.Errorf("the shutdown took %v", took)
	} else if _, unanswered := errors.AsType[*storage.DamagedError](a.err); unanswered && took > time.Second {
		t.Errorf("the shutdown took %v", took)
	}
	w.wrap = nil
	w.start()
	w.pass(2 * time.Minute)
	if !over {
		expect(t, "the next batch, when storage is well again", w.outcome(second), "200")
	}
}

// quarantined returns the tickets of the quarantined batches, with the reasons.
func (w *world) quarantined() map[batch.Ticket]string {
	out := map[batch.Ticket]string{}
	for _, b := range insist(w, func() ([]storage.QuarantinedBatch, error) {
		return w.node.Quarantined(context.Background(), 0, 1000)
	}) {
		out[b.Ticket] = b.Reason
	}
	return out
}

// TestDamagedBatch checks that a batch that can't be read is quarantined and its store continues. The batch
// runs once it can be read again and an operator has released it.
func TestDamagedBatch(t *testing.T) {
	scenario(t, "quarantined and released", func(t *testing.T, w *world) {
		w.up.script(0, 0, step{answered(200), time.Second})
		before := w.create("s", stop, "POST")
		a, b := w.create("s", stop, "POST"), w.create("s", stop, "POST")
		w.db.Damage(a.key.Ticket, "it is damaged")
		w.pass(2 * time.Second)
		expect(t, "the batch before", w.outcome(before), "200")
		expect(t, "the next batch", w.outcome(b), "200")
		expect(t, "the reason", w.quarantined()[a.key.Ticket], "what is stored of the batch can't be read: it is damaged")
		w.db.Damage(a.key.Ticket, "")
		w.engine.Wake(insist(w, func() (storage.QueueID, error) { return w.node.Unquarantine(context.Background(), a.key.Ticket, false) }))
		synctest.Wait()
		expect(t, "the batch that was released", w.outcome(a), "200")
	})
	scenario(t, "its creator has stopped it", func(t *testing.T, w *world) {
		w.up.script(0, 0, step{answer: answered(429, "Retry-After", "60")})
		a, b := w.create("s", stop, "POST"), w.create("s", stop, "POST")
		w.pass(time.Second)
		w.db.Damage(a.key.Ticket, "it is damaged")
		w.stopBatch(a)
		synctest.Wait()
		expect(t, "the batch", w.outcome(a), "429!")
		expect(t, "its reason", w.status(a).Reason, "what is stored of the batch can't be read: it is damaged")
		w.pass(2 * time.Minute) // as the upstream requested
		expect(t, "the next batch", w.outcome(b), "200")
	})
}

// TestDeadlyBatch checks that a batch that kills its nodes is quarantined after five deaths. Batches that ran
// at the same time are not, although none of their attempts could end.
func TestDeadlyBatch(t *testing.T) {
	scenario(t, "", func(t *testing.T, w *world) {
		var innocent []*testBatch
		w.up.script(0, 0, step{answered(200), time.Hour})
		deadly := w.create("deadly", stop, "GET")
		for i := range 8 {
			w.up.script(i+1, 0, step{answered(200), 30 * time.Second})
			innocent = append(innocent, w.create(fmt.Sprintf("s%d", i), goOn, "GET", "GET"))
		}
		deaths, sent := 0, 0
		for range 600 {
			w.pass(time.Second)
			synctest.Wait()
			if n := len(strings.Fields(w.sentOf("0"))); n > sent {
				sent = n
				deaths++
				w.crash()
				w.start()
			}
		}
		expect(t, "deaths", fmt.Sprint(deaths), fmt.Sprint(storage.MaxAttempts))
		aside := w.quarantined()
		expect(t, "the reason", aside[deadly.key.Ticket], storage.Died(storage.MaxAttempts+1))
		expect(t, "batches that were set aside", fmt.Sprint(len(aside)), "1")
		for _, m := range innocent {
			expect(t, "a batch beside it", w.outcome(m), "200 200")
		}
	})
}

// TestRestartsAreNoDeaths checks that a batch isn't quarantined after graceful restarts, or after crashes if
// attempts end between them.
func TestRestartsAreNoDeaths(t *testing.T) {
	scenario(t, "restarts", func(t *testing.T, w *world) {
		w.up.script(0, 0, step{answered(503), time.Second})
		w.policy.RetryLimit = 1000
		w.shutdown()
		w.start()
		w.create("s", goOn, "GET")
		for range 4 * storage.MaxAttempts {
			w.pass(500 * time.Millisecond)
			w.shutdown()
			w.start()
		}
		expect(t, "batches that were set aside", fmt.Sprint(len(w.quarantined())), "0")
	})
	scenario(t, "crashes", func(t *testing.T, w *world) {
		for i := range 60 {
			w.up.script(0, i, step{answered(200), time.Second})
		}
		a := w.create("s", goOn, posts(60)...)
		for range 4 * storage.MaxAttempts {
			w.pass(1500 * time.Millisecond)
			w.crash()
			w.start()
		}
		w.pass(time.Hour)
		expect(t, "batches that were set aside", fmt.Sprint(len(w.quarantined())), "0")
		expect(t, "status", w.status(a).Status.String(), "COMPLETED")
	})
}

// TestMissingKey checks that a batch whose secret key this node lacks waits and a warning is logged. A batch
// whose credential has an unknown format is quarantined.
func TestMissingKey(t *testing.T) {
	for name, of := range map[string]struct {
		err   error
		want  string
		aside int
	}{
		"another node may have the key": {fmt.Errorf("%w: 0123", ErrNoKey), "QUEUED -", 0},
		"the format is unknown":         {fmt.Errorf("%w: 9", ErrUnknownSeal), "QUEUED -", 1},
		"the credential is damaged":     {errors.New("damaged"), "-", 0},
	} {
		scenario(t, name, func(t *testing.T, w *world) {
			w.shutdown()
			var lacks atomic.Bool
			lacks.Store(true)
			w.options.Unseal = func(c *storage.Claim) (string, error) {
				if lacks.Load() {
					return "", of.err
				}
				return string(c.Credential), nil
			}
			w.start()
			a := w.create("s", stop, "POST")
			w.pass(time.Hour)
			expect(t, "outcome", w.outcome(a), of.want)
			expect(t, "quarantined", fmt.Sprint(len(w.quarantined())), fmt.Sprint(of.aside))
			if !errors.Is(of.err, ErrNoKey) {
				return
			}
			lacks.Store(false)
			w.pass(time.Minute)
			expect(t, "outcome with the key", w.outcome(a), "200")
		})
	}
}

// TestFailuresAreLoggedAgain checks that a lasting failure is logged at once and then once a minute.
func TestFailuresAreLoggedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		e := &Engine{Options: Options{Storage: storagetest.NewMemory().Node(), Logger: slog.New(slog.NewTextHandler(&log, nil))}}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute+time.Second)
		defer cancel()
		err := e.persist(ctx, "record results", "ticket", "t", func(context.Context) error { return errors.New("no answer") })
		if n := strings.Count(log.String(), "storage failed"); n != 6 || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%d lines, %v:\n%s", n, err, &log)
		}
	})
}
