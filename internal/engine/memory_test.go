package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sheafapi/sheaf/internal/cpu"
	"github.com/sheafapi/sheaf/internal/outbound"
	"github.com/sheafapi/sheaf/internal/storage"
)

// large is an upstream whose answers take memory like those of package outbound.
type large struct {
	reachable
	size  int64
	calls atomic.Int64
}

func (u *large) Do(ctx context.Context, c *outbound.Call) outbound.Answer {
	u.calls.Add(1)
	if err := c.Memory.Grow(ctx, u.size-c.Memory.Held()); err != nil {
		return outbound.Answer{Outcome: outbound.Doubt, Code: 502}
	}
	a := answered(200)
	a.Body = bytes.Repeat([]byte("x"), int(u.size))
	return a
}

// slowDisk is storage that can't store more than a number of bytes of answers at once.
type slowDisk struct {
	Storage
	bytes int
}

func (s *slowDisk) check(marks []storage.Mark) error {
	answers := 0
	for i := range marks {
		if len(marks[i].Result.Body) > 0 {
			answers++
		}
	}
	if answers > 1 && storage.Size(marks) > s.bytes {
		return errors.New("the database took too long")
	}
	return nil
}

func (s *slowDisk) Record(ctx context.Context, c *storage.Claim, marks []storage.Mark) (storage.Signals, error) {
	if err := s.check(marks); err != nil {
		return storage.Signals{}, err
	}
	return s.Storage.Record(ctx, c, marks)
}

func (s *slowDisk) Finish(ctx context.Context, c *storage.Claim, marks []storage.Mark, reason string, release bool) (*storage.Claim, error) {
	if err := s.check(marks); err != nil {
		return nil, err
	}
	return s.Storage.Finish(ctx, c, marks, reason, release)
}

// gets returns the methods of n GET requests.
func gets(n int) []string { return slices.Repeat([]string{"GET"}, n) }

// TestAnswersShareMemory checks that while storage fails, requests are sent only as long as there is memory
// for their answers. When storage works again, all requests end.
func TestAnswersShareMemory(t *testing.T) {
	scenario(t, "", func(t *testing.T, w *world) {
		w.shutdown()
		up := &large{size: 100 << 10}
		w.options = Options{Answers: 2 << 20, LargestAnswer: 200 << 10, Upstream: up}
		w.start()
		var stuck atomic.Bool
		stuck.Store(true)
		w.node.SetGate(func(_ context.Context, op string) error {
			if stuck.Load() && op == "Record" {
				return errors.New("the disk is full")
			}
			return nil
		})
		for i := range 10 {
			w.create(fmt.Sprint("s", i), parallel, gets(500)...)
		}
		w.pass(time.Minute)
		if u := w.engine.answers.Usage(); u.Held > 2<<20 || up.calls.Load() < 10 {
			t.Errorf("memory in use after %d requests: %+v", up.calls.Load(), u)
		}
		// This is how many of the 5,000 answers fit in memory or wait for memory.
		if n := up.calls.Load(); n > 1000 {
			t.Errorf("%d requests were sent without memory for their answers", n)
		}
		stuck.Store(false)
		w.pass(10 * time.Minute)
		for i := range 10 {
			expect(t, "outcome", w.outcome(w.batches[i]), strings.TrimSpace(strings.Repeat("200 ", 500)))
		}
	})
}

// TestLargeAnswersTakeTurns checks that a large answer waits while large tasks of other stores use the
// processors. Small answers don't wait.
func TestLargeAnswersTakeTurns(t *testing.T) {
	scenario(t, "", func(t *testing.T, w *world) {
		w.shutdown()
		w.options = Options{Upstream: &large{size: cpu.Large}, CPU: cpu.New(2)}
		w.start()
		leave, err := w.options.CPU.Enter(t.Context(), cpu.Large, "hog")
		if err != nil {
			t.Fatal(err)
		}
		m := w.create("large", stop, "GET")
		w.pass(time.Second)
		expect(t, "while large work runs", w.outcome(m), "QUEUED -")
		leave()
		w.pass(time.Second)
		expect(t, "afterwards", w.outcome(m), "200")
	})
}

// TestPortions checks that if storage can't store many large answers in time, it gets fewer at a time until
// it can.
func TestPortions(t *testing.T) {
	scenario(t, "", func(t *testing.T, w *world) {
		w.shutdown()
		w.options = Options{Upstream: &large{size: 300 << 10}}
		w.wrap = func(s Storage) Storage { return &slowDisk{s, 700 << 10} }
		w.start()
		b := w.create("s", parallel, gets(60)...)
		w.pass(5 * time.Minute)
		expect(t, "outcome", w.outcome(b), strings.TrimSpace(strings.Repeat("200 ", 60)))
	})
}

// loads is storage that checks that memory is reserved before a batch is loaded.
type loads struct {
	Storage
	t      *testing.T
	engine func() *Engine
	n      *atomic.Int64
}

func (s loads) Load(ctx context.Context, c *storage.Claim) error {
	s.n.Add(1)
	if len(c.Requests)+len(c.Marks) > 0 {
		s.t.Error("a claim came with its requests")
	}
	if u := s.engine().batches.Usage(); u.Held < c.Bytes || u.Held > u.Total {
		s.t.Errorf("a batch of %d bytes is loaded with this memory in use: %+v", c.Bytes, u)
	}
	return s.Storage.Load(ctx, c)
}

// TestMemoryBeforeLoad checks that loaded batches fit in memory, no matter how many stores have large
// batches.
func TestMemoryBeforeLoad(t *testing.T) {
	scenario(t, "", func(t *testing.T, w *world) {
		w.shutdown()
		var n atomic.Int64
		w.wrap = func(s Storage) Storage {
			return loads{s, t, func() *Engine { return w.engine }, &n}
		}
		w.options = Options{Memory: 1 << 20}
		w.start()
		for i := range 30 {
			w.up.script(i, 0, step{answered(200), time.Second})
			w.create(fmt.Sprint("s", i), stop, posts(300)...)
		}
		synctest.Wait()
		w.pass(10 * time.Minute)
		for i := range 30 {
			expect(t, "outcome", w.outcome(w.batches[i]), strings.TrimSpace(strings.Repeat("200 ", 300)))
		}
		if n.Load() < 30 {
			t.Errorf("%d batches were loaded", n.Load())
		}
	})
}
