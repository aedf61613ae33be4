package engine

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/outbound"
	"github.com/sheafapi/sheaf/internal/storage"
	"github.com/sheafapi/sheaf/internal/storage/storagetest"
)

func posts(n int) []string { return slices.Repeat([]string{"POST"}, n) }

var (
	stop     = batch.Options{StopOnFailure: true}
	goOn     = batch.Options{}
	parallel = batch.Options{Parallel: true}
)

// scenario runs f in a bubble with a started engine, and shuts the engine down at the end.
func scenario(t *testing.T, name string, f func(t *testing.T, w *world)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.start()
			defer func() { w.shutdown() }()
			f(t, w)
		})
	})
}

func expect(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

func TestOrder(t *testing.T) {
	scenario(t, "in order, batch after batch", func(t *testing.T, w *world) {
		w.up.script(0, 1, step{answered(200), time.Minute})
		a := w.create("s", stop, posts(3)...)
		b := w.create("s", stop, posts(2)...)
		w.pass(2 * time.Minute)
		expect(t, "first", w.outcome(a), "200 200 200")
		expect(t, "second", w.outcome(b), "200 200")
		expect(t, "ledger", w.sent(), "0/0 0/1 0/2 1/0 1/1")
	})
	scenario(t, "stores do not wait for each other", func(t *testing.T, w *world) {
		w.up.script(0, 0, step{answered(200), time.Hour})
		w.create("slow", stop, "POST")
		b := w.create("quick", stop, "POST")
		synctest.Wait()
		expect(t, "quick", w.outcome(b), "200")
		w.pass(time.Hour)
	})
	scenario(t, "in parallel mode, at most a hundred at once", func(t *testing.T, w *world) {
		for i := range 150 {
			w.up.script(0, i, step{answered(200), time.Second})
		}
		a := w.create("s", parallel, posts(150)...)
		synctest.Wait()
		if n := len(strings.Fields(w.sent())); n != batch.MaxParallel {
			t.Errorf("%d at the same time, want %d", n, batch.MaxParallel)
		}
		w.pass(1500 * time.Millisecond)
		if n := len(strings.Fields(w.sent())); n != 150 {
			t.Errorf("%d sent after the first hundred ended, want 150", n)
		}
		w.pass(time.Second)
		expect(t, "outcome", w.outcome(a), strings.TrimSpace(strings.Repeat("200 ", 150)))
	})
}

func TestFailure(t *testing.T) {
	scenario(t, "stops on the first failure", func(t *testing.T, w *world) {
		w.up.script(0, 1, step{answered(404), 0})
		a := w.create("s", stop, posts(4)...)
		b := w.create("s", stop, "GET")
		synctest.Wait()
		expect(t, "outcome", w.outcome(a), "200 404! - -")
		expect(t, "the next batch", w.outcome(b), "200")
	})
	scenario(t, "continues after a failure", func(t *testing.T, w *world) {
		w.up.script(0, 1, step{answered(404), 0})
		a := w.create("s", goOn, posts(3)...)
		synctest.Wait()
		expect(t, "outcome", w.outcome(a), "200 404! 200")
	})
	scenario(t, "in parallel mode, requests in flight finish", func(t *testing.T, w *world) {
		w.up.script(0, 0, step{answered(200), 2 * time.Second})
		w.up.script(0, 1, step{answered(500), time.Second})
		a := w.create("s", batch.Options{Parallel: true, StopOnFailure: true}, posts(101)...)
		w.pass(3 * time.Second)
		expect(t, "outcome", w.outcome(a), "200 500! "+strings.TrimSpace(strings.Repeat("200 ", 99)))
	})
	scenario(t, "in parallel mode, a waiting request ends with its last answer", func(t *testing.T, w *world) {
		w.up.script(0, 0, step{answered(429, "Retry-After", "60"), 0})
		w.up.script(0, 1, step{answered(404), time.Second})
		a := w.create("s", batch.Options{Parallel: true, StopOnFailure: true}, posts(2)...)
		w.pass(2 * time.Second)
		expect(t, "outcome", w.outcome(a), "429! 404!")
	})
	scenario(t, "a POST in doubt is a failure like any other", func(t *testing.T, w *world) {
		w.up.script(0, 0, step{noAnswer(outbound.Doubt, 502), 0})
		a := w.create("s", stop, posts(2)...)
		synctest.Wait()
		expect(t, "outcome", w.outcome(a), "502! -")
	})
	scenario(t, "retries 5 times, 3 s apart, and the order is kept", func(t *testing.T, w *world) {
		w.up.script(0, 0, step{answered(503), 0})
		a := w.create("s", goOn, posts(2)...)
		began := time.Now()
		w.pass(15*time.Second - time.Millisecond)
		expect(t, "before", w.outcome(a), "QUEUED - -")
		w.pass(time.Millisecond)
		synctest.Wait()
		expect(t, "after", w.outcome(a), "503! 200")
		expect(t, "ledger", w.sent(), "0/0 0/0 0/0 0/0 0/0 0/0 0/1")
		for i, e := range w.up.ledger[:6] {
			if got := e.at.Sub(began); got != time.Duration(i)*3*time.Second {
				t.Errorf("attempt %d came after %v", i, got)
			}
			if e.key != w.up.ledger[0].key {
				t.Error("the Idempotency-Key changed between attempts")
			}
		}
	})
	scenario(t, "a POST in doubt is not sent again", func(t *testing.T, w *world) {
		w.up.script(0, 0, step{noAnswer(outbound.Doubt, 504), time.Second})
		a := w.create("s", goOn, posts(2)...)
		w.pass(time.Minute)
		expect(t, "outcome", w.outcome(a), "504! 200")
	})
	scenario(t, "a repeated DELETE that finds nothing is completed", func(t *testing.T, w *world) {
		w.up.script(0, 0, step{noAnswer(outbound.Doubt, 504), 0}, step{answered(404), 0})
		a := w.create("s", goOn, "DELETE")
		w.pass(time.Minute)
		expect(t, "outcome", w.outcome(a), "404")
	})
}

// TestUnreadableCredential checks that nothing is sent if the credential can't be read, and that the batch
// says why.
func TestUnreadableCredential(t *testing.T) {
	scenario(t, "ends", func(t *testing.T, w *world) {
		w.shutdown()
		w.options.Unseal = func(*storage.Claim) (string, error) { return "", errors.New("damaged") }
		w.start()
		a := w.create("s", goOn, posts(2)...)
		synctest.Wait()
		expect(t, "outcome", w.outcome(a), "- -")
		expect(t, "ledger", w.sent(), "")
		expect(t, "reason", w.status(a).Reason, "the credential that was stored with the batch can't be read")
	})
}

func TestThrottle(t *testing.T) {
	scenario(t, "waits as Retry-After says, in order, and survives a crash", func(t *testing.T, w *world) {
		w.up.script(0, 0, step{answered(429, "Retry-After", "100"), 0}, step{answered(429, "Retry-After", "100"), 0}, step{answered(200), 0})
		a := w.create("s", stop, posts(2)...)
		w.pass(50 * time.Second)
		w.crash()
		w.pass(20 * time.Second)
		w.start()
		w.pass(29 * time.Second)
		expect(t, "ledger before the wait is over", w.sent(), "0/0")
		w.pass(time.Second)
		synctest.Wait()
		expect(t, "ledger after", w.sent(), "0/0 0/0")
		w.pass(100 * time.Second)
		synctest.Wait()
		expect(t, "outcome", w.outcome(a), "200 200")
	})
	scenario(t, "a clock that was ahead does not extend the wait", func(t *testing.T, w *world) {
		w.shutdown()
		a := w.create("s", goOn, "GET")
		c, err := w.node.Claim(t.Context(), a.queue)
		if err == nil {
			ahead := time.Now().Add(24 * time.Hour)
			mark := storage.Mark{State: storage.Waiting, NotBefore: ahead, Tries: storage.Tries{ThrottledSince: ahead}, Result: batch.Result{Status: batch.Failed, Code: 429}}
			err = w.node.Release(t.Context(), c, []storage.Mark{mark}, ahead)
		}
		if err != nil {
			t.Fatal(err)
		}
		w.start()
		w.pass(2*w.policy.ThrottleLimit + time.Second) // once for the queue, and once for the request
		expect(t, "outcome", w.outcome(a), "200")
	})
	scenario(t, "a clock that was an hour ahead does not change the limit", func(t *testing.T, w *world) {
		w.shutdown()
		a := w.create("s", goOn, "GET")
		c, err := w.node.Claim(t.Context(), a.queue)
		if err == nil {
			wrong := time.Now().Add(time.Hour) // the clock of the node that made the request wait for 20 s
			mark := storage.Mark{
				State: storage.Waiting, NotBefore: wrong.Add(20 * time.Second), Result: batch.Result{Status: batch.Failed, Code: 429},
				Tries: storage.Tries{Attempts: 1, Throttles: 1, ThrottledSince: wrong, StartedAt: wrong, EndedAt: wrong},
			}
			err = w.node.Release(t.Context(), c, []storage.Mark{mark}, time.Time{})
		}
		if err != nil {
			t.Fatal(err)
		}
		w.start()
		w.pass(19 * time.Second)
		expect(t, "before the wait is over", w.outcome(a), "QUEUED -")
		w.pass(2 * time.Second)
		expect(t, "after", w.outcome(a), "200")
	})
	scenario(t, "a clock that was an hour behind does not use up the limit", func(t *testing.T, w *world) {
		w.shutdown()
		w.up.script(0, 0, step{answered(429, "Retry-After", "10"), 0}, step{answered(200), 0})
		a := w.create("s", goOn, "GET")
		c, err := w.node.Claim(t.Context(), a.queue)
		if err == nil {
			wrong := time.Now().Add(-time.Hour)
			mark := storage.Mark{
				State: storage.Waiting, NotBefore: wrong.Add(20 * time.Second), Result: batch.Result{Status: batch.Failed, Code: 429},
				Tries: storage.Tries{Attempts: 1, Throttles: 1, ThrottledSince: wrong, StartedAt: wrong, EndedAt: wrong},
			}
			err = w.node.Release(t.Context(), c, []storage.Mark{mark}, time.Time{})
		}
		if err != nil {
			t.Fatal(err)
		}
		w.start()
		w.pass(11 * time.Second)
		expect(t, "after a second answer 429", w.outcome(a), "200")
	})
	scenario(t, "a 429 after the limit is a failure", func(t *testing.T, w *world) {
		w.up.script(0, 0, step{answered(429, "Retry-After", "60"), 0})
		a := w.create("s", stop, posts(2)...)
		w.pass(20*time.Minute - time.Second)
		expect(t, "before", w.outcome(a), "QUEUED - -")
		w.pass(time.Second)
		synctest.Wait()
		expect(t, "after", w.outcome(a), "429! -")
	})
	scenario(t, "a waiting store holds no place", func(t *testing.T, w *world) {
		w.shutdown()
		w.options.QueuesAtOnce = 1
		w.start()
		w.up.script(0, 0, step{answered(429, "Retry-After", "60"), 0}, step{answered(200), 0})
		a := w.create("waits", stop, "POST")
		synctest.Wait()
		b := w.create("runs", stop, "POST")
		synctest.Wait()
		expect(t, "the other store", w.outcome(b), "200")
		w.pass(time.Minute)
		synctest.Wait()
		expect(t, "the one that waited", w.outcome(a), "200")
	})
}

func TestStop(t *testing.T) {
	scenario(t, "requests in flight finish, the rest are not executed", func(t *testing.T, w *world) {
		w.up.script(0, 1, step{answered(200), time.Minute})
		a := w.create("s", stop, posts(3)...)
		b := w.create("s", stop, "POST")
		w.pass(time.Second)
		if n := w.stopBatch(a); n != 1 {
			t.Errorf("%d batches were stopped", n)
		}
		synctest.Wait()
		expect(t, "while it ends", w.outcome(a), "IN_PROGRESS 200 - -")
		expect(t, "the next batch waits", w.outcome(b), "QUEUED -")
		w.pass(time.Minute)
		expect(t, "after", w.outcome(a), "200 200 -")
		expect(t, "the next batch", w.outcome(b), "200")
	})
	scenario(t, "a waiting request ends at once with its last answer", func(t *testing.T, w *world) {
		w.up.script(0, 0, step{answered(429, "Retry-After", "250"), 0})
		a := w.create("s", stop, posts(2)...)
		b := w.create("s", stop, posts(1)...)
		w.pass(time.Second)
		w.stopBatch(a)
		synctest.Wait()
		expect(t, "outcome", w.outcome(a), "429! -")
		expect(t, "the next batch: the upstream still wants to be left alone", w.outcome(b), "QUEUED -")
		w.pass(249 * time.Second)
		synctest.Wait()
		expect(t, "the next batch", w.outcome(b), "200")
	})
	scenario(t, "a queued batch ends at once", func(t *testing.T, w *world) {
		w.up.script(0, 0, step{answered(200), time.Minute})
		w.create("s", stop, posts(1)...)
		b := w.create("s", stop, posts(2)...)
		synctest.Wait()
		w.stopBatch(b)
		expect(t, "outcome", w.outcome(b), "- -")
		w.pass(time.Minute)
	})
	scenario(t, "requests about to leave stay, and their places are returned", func(t *testing.T, w *world) {
		w.node.SetFault(func(op string) storagetest.Fault {
			if op == "Record" {
				return storagetest.FailedNotStored
			}
			return storagetest.None
		})
		a := w.create("s", parallel, posts(5)...)
		w.pass(time.Second)
		w.stopBatch(a)
		w.node.SetFault(nil)
		w.pass(2 * time.Second)
		expect(t, "outcome", w.outcome(a), "- - - - -")
		expect(t, "ledger", w.sent(), "")
	})
	scenario(t, "a GET that waits for a place does not leave after the stop", func(t *testing.T, w *world) {
		w.shutdown()
		w.options.MaxOutbound = 1
		w.start()
		w.up.script(0, 0, step{answered(200), 20 * time.Second})
		w.create("other", stop, "GET")
		synctest.Wait()
		b := w.create("s", stop, "GET")
		w.pass(time.Second)
		w.stopBatch(b)
		w.pass(time.Minute)
		expect(t, "outcome", w.outcome(b), "-")
		expect(t, "ledger", w.sent(), "0/0")
	})
	scenario(t, "delete drops the answer, then the next batch starts", func(t *testing.T, w *world) {
		w.up.script(0, 0, step{answered(200), time.Minute})
		a := w.create("s", stop, posts(2)...)
		b := w.create("s", stop, posts(1)...)
		w.pass(time.Second)
		q, err := w.node.Delete(t.Context(), a.key)
		if err != nil {
			t.Fatal(err)
		}
		w.engine.Notify(q)
		w.pass(time.Second)
		expect(t, "the next batch waits", w.outcome(b), "QUEUED -")
		w.pass(time.Minute)
		expect(t, "the next batch", w.outcome(b), "200")
		expect(t, "ledger", w.sent(), "0/0 1/0")
	})
}

func TestShutdown(t *testing.T) {
	scenario(t, "requests in flight are recorded, nothing more starts", func(t *testing.T, w *world) {
		w.up.script(0, 1, step{answered(200), 10 * time.Second})
		a := w.create("s", stop, posts(3)...)
		w.pass(time.Second)
		w.shutdown()
		expect(t, "after", w.outcome(a), "IN_PROGRESS 200 200 -")
		w.start()
		synctest.Wait()
		expect(t, "after the restart", w.outcome(a), "200 200 200")
	})
	scenario(t, "the limit", func(t *testing.T, w *world) {
		w.up.script(0, 0, step{answered(200), time.Hour})
		w.up.script(1, 0, step{answered(200), time.Hour}, step{answered(200), 0})
		a := w.create("posts", goOn, posts(2)...)
		b := w.create("puts", goOn, "PUT")
		began := time.Now()
		synctest.Wait()
		w.shutdown()
		if d := time.Since(began); d != 30*time.Second {
			t.Errorf("shutdown took %v", d)
		}
		w.start()
		synctest.Wait()
		expect(t, "the POST", w.outcome(a), "502! 200")
		expect(t, "the PUT", w.outcome(b), "200")
		expect(t, "ledger of the POSTs", w.sentOf("0"), "0/0 0/1")
		expect(t, "ledger of the PUT", w.sentOf("1"), "1/0 1/0")
	})
	scenario(t, "the limit, in a batch that was stopped", func(t *testing.T, w *world) {
		w.up.script(0, 0, step{answered(200), time.Hour})
		a := w.create("s", goOn, posts(2)...)
		synctest.Wait()
		w.stopBatch(a)
		w.shutdown()
		w.start()
		synctest.Wait()
		expect(t, "outcome", w.outcome(a), "502! -")
		expect(t, "ledger", w.sent(), "0/0")
	})
	scenario(t, "the limit, in a parallel batch that has failed", func(t *testing.T, w *world) {
		w.up.script(0, 0, step{answered(200), time.Hour})
		w.up.script(0, 1, step{answered(404), time.Second})
		a := w.create("s", batch.Options{Parallel: true, StopOnFailure: true}, posts(3)...)
		w.pass(2 * time.Second)
		w.shutdown()
		w.start()
		synctest.Wait()
		expect(t, "outcome", w.outcome(a), "502! 404! 200")
	})
	scenario(t, "the limit, before a connection was made", func(t *testing.T, w *world) {
		w.up.script(0, 0, step{noAnswer(outbound.NotSent, 502), time.Hour}, step{answered(200), 0})
		a := w.create("s", stop, "POST")
		synctest.Wait()
		w.shutdown()
		w.start()
		synctest.Wait()
		expect(t, "outcome", w.outcome(a), "200")
	})
}

func TestCrash(t *testing.T) {
	for _, tt := range []struct{ method, want, sent string }{
		{"GET", "200 200", "0/0 0/0 0/1"},
		{"PUT", "200 200", "0/0 0/0 0/1"},
		{"DELETE", "200 200", "0/0 0/0 0/1"},
		{"POST", "502! 200", "0/0 0/1"},
		{"PATCH", "502! 200", "0/0 0/1"},
	} {
		scenario(t, tt.method+" in flight", func(t *testing.T, w *world) {
			w.up.script(0, 0, step{answered(200), time.Minute}, step{answered(200), 0})
			a := w.create("s", goOn, tt.method, "POST")
			w.pass(time.Second)
			w.crash()
			w.start()
			w.pass(2 * time.Second)
			expect(t, "outcome", w.outcome(a), tt.want)
			expect(t, "ledger", w.sent(), tt.sent)
		})
	}
	scenario(t, "stopped while its runner was dead", func(t *testing.T, w *world) {
		w.up.script(0, 0, step{answered(200), time.Minute})
		a := w.create("s", goOn, "PUT", "PUT")
		w.pass(time.Second)
		w.crash()
		w.node = w.db.Node()
		w.stopBatch(a)
		w.start()
		w.pass(2 * time.Second)
		expect(t, "outcome", w.outcome(a), "502! -")
	})
}

// TestStorageFails makes every storage operation of a run fail once: before its change is stored, and
// after it. Nothing may be lost or sent twice.
func TestStorageFails(t *testing.T) {
	for _, fault := range []storagetest.Fault{storagetest.FailedNotStored, storagetest.FailedButStored} {
		for _, op := range []string{"Runnable", "Claim", "Record", "Finish", "Release"} {
			for nth := range 4 {
				scenario(t, strings.Join([]string{op, fault.String(), string(rune('0' + nth))}, " "), func(t *testing.T, w *world) {
					count := 0
					w.node.SetFault(func(o string) storagetest.Fault {
						if o != op {
							return storagetest.None
						}
						if count++; count-1 == nth {
							return fault
						}
						return storagetest.None
					})
					w.up.script(0, 1, step{answered(429, "Retry-After", "5"), 0}, step{answered(200), 0})
					w.up.script(1, 0, step{answered(500), time.Second}, step{answered(404), 0})
					a := w.create("s", stop, posts(3)...)
					b := w.create("s", parallel, "DELETE", "GET", "POST")
					w.pass(time.Minute)
					expect(t, "first", w.outcome(a), "200 200 200")
					expect(t, "second", w.outcome(b), "404 200 200")
					if n := len(w.up.ledger); n != 8 {
						t.Errorf("%d attempts (%s), want 8", n, w.sent())
					}
				})
			}
		}
	}
}

// TestStorageDown checks that while storage is down, no request that needs an intent leaves, and answers
// are kept.
func TestStorageDown(t *testing.T) {
	scenario(t, "an hour", func(t *testing.T, w *world) {
		w.up.script(0, 0, step{answered(201), 2 * time.Second})
		a := w.create("s", stop, posts(3)...)
		w.pass(time.Second)
		w.node.SetFault(func(string) storagetest.Fault { return storagetest.FailedNotStored })
		w.pass(time.Hour)
		expect(t, "ledger", w.sent(), "0/0")
		w.node.SetFault(nil)
		w.pass(2 * time.Second)
		expect(t, "outcome", w.outcome(a), "201 200 200")
		expect(t, "ledger", w.sent(), "0/0 0/1 0/2")
	})
	scenario(t, "a GET does not leave before the PUT's answer is stored", func(t *testing.T, w *world) {
		w.up.script(0, 0, step{answered(200), 2 * time.Second})
		w.create("s", stop, "PUT", "GET")
		w.pass(time.Second)
		w.node.SetFault(func(string) storagetest.Fault { return storagetest.FailedNotStored })
		w.pass(time.Minute)
		expect(t, "ledger", w.sent(), "0/0")
		w.crash()
		w.start()
		w.pass(time.Minute)
		expect(t, "ledger after the crash", w.sent(), "0/0 0/0 0/1")
	})
}

// finishHook is storage that calls after when a batch has ended, before Finish returns.
type finishHook struct {
	Storage
	after func()
}

func (h *finishHook) Finish(ctx context.Context, c *storage.Claim, marks []storage.Mark, reason string, release bool) (*storage.Claim, error) {
	next, err := h.Storage.Finish(ctx, c, marks, reason, release)
	h.after()
	return next, err
}

// TestWakeUp checks that a batch that is created while its queue is being released runs at once, without
// waiting for a scan.
func TestWakeUp(t *testing.T) {
	scenario(t, "after the batch ends, before its queue is released", func(t *testing.T, w *world) {
		w.shutdown()
		var b *testBatch
		var once sync.Once
		w.wrap = func(s Storage) Storage {
			return &finishHook{s, func() { once.Do(func() { b = w.create("s", stop, "POST") }) }}
		}
		w.start()
		w.create("s", stop, "POST")
		synctest.Wait()
		expect(t, "the second batch", w.outcome(b), "200")
	})
}

// TestPauseAtStart checks that a pause that arrives with the intent of parallel requests returns all that
// was reserved for them, while another request of the batch is still in flight.
func TestPauseAtStart(t *testing.T) {
	scenario(t, "a pause between choosing and sending", func(t *testing.T, w *world) {
		w.up.script(0, 0, step{answered(200), time.Minute})
		for i := range 200 {
			w.up.script(0, 1+i, step{answered(200), time.Second})
		}
		a := w.create("s", parallel, posts(201)...)
		w.pass(500 * time.Millisecond)
		p := storage.PauseRequest{Key: a.key, Paused: true}
		insist(w, func() (storage.StopResult, error) { return w.node.Pause(context.Background(), p) }) // without a hint to the engine
		w.pass(time.Second)
		x := w.engine.extras
		x.mu.Lock()
		free := x.free
		x.mu.Unlock()
		if free != x.all {
			t.Errorf("%d of %d extra places are free, and only the batch's first request is in flight", free, x.all)
		}
		p.Paused = false
		insist(w, func() (storage.StopResult, error) { return w.node.Pause(context.Background(), p) })
		w.engine.Notify(a.queue)
		w.pass(2 * time.Minute)
		expect(t, "after the resume", w.outcome(a), strings.TrimSpace(strings.Repeat("200 ", 201)))
	})
}

// TestPause checks that after a pause, requests in flight finish and nothing else starts. A resumed batch
// continues where it stopped.
func TestPause(t *testing.T) {
	pause := func(w *world, p storage.PauseRequest) {
		s := insist(w, func() (storage.StopResult, error) { return w.node.Pause(context.Background(), p) })
		for _, q := range s.Queues {
			w.engine.Notify(q)
		}
	}
	for what, of := range map[string]func(m *testBatch) storage.PauseRequest{
		"a batch": func(m *testBatch) storage.PauseRequest { return storage.PauseRequest{Key: m.key} },
		"a queue": func(*testBatch) storage.PauseRequest { return storage.PauseRequest{Queue: "s"} },
	} {
		for name, o := range map[string]batch.Options{"in order": goOn, "parallel": parallel} {
			scenario(t, what+" "+name, func(t *testing.T, w *world) {
				for i := range 101 {
					w.up.script(0, i, step{answered(200), time.Second})
				}
				a := w.create("s", o, posts(101)...)
				b := w.create("s", stop, posts(1)...)
				w.pass(500 * time.Millisecond)
				p := of(a)
				p.Paused = true
				pause(w, p)
				first := len(strings.Fields(w.sent()))
				w.pass(time.Hour)
				if n := len(strings.Fields(w.sent())); n != first {
					t.Errorf("%d requests were sent, %d before the pause", n, first)
				}
				if n := w.status(a).Completed; n != first {
					t.Errorf("%d of %d answers were recorded", n, first)
				}
				w.crash()
				w.start()
				w.pass(time.Hour)
				if n := len(strings.Fields(w.sent())); n != first {
					t.Errorf("after a crash %d requests were sent, %d before the pause", n, first)
				}
				c := w.create("other", stop, posts(1)...)
				synctest.Wait()
				expect(t, "another store", w.outcome(c), "200")
				p.Paused = false
				pause(w, p)
				w.pass(102 * time.Second)
				expect(t, "after it went on", w.outcome(a), strings.TrimSpace(strings.Repeat("200 ", 101)))
				expect(t, "the next batch", w.outcome(b), "200")
			})
		}
	}
	scenario(t, "a stop ends a paused batch", func(t *testing.T, w *world) {
		w.up.script(0, 0, step{answered(200), time.Second})
		a := w.create("s", stop, posts(3)...)
		w.pass(500 * time.Millisecond)
		pause(w, storage.PauseRequest{Key: a.key, Paused: true})
		w.pass(time.Minute)
		w.stopBatch(a)
		synctest.Wait()
		expect(t, "outcome", w.outcome(a), "200 - -")
	})
}
