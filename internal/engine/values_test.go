package engine

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
)

// linkedReads returns n GETs, and one that depends on all of them and takes a value from the answers to
// the first few.
func linkedReads(n, few int) []batch.Request {
	out := make([]batch.Request, n+1)
	last := &batch.Links{}
	for i := range n {
		out[i] = batch.Request{Method: "GET", Path: fmt.Sprint("r/", i)}
		last.DependsOn = append(last.DependsOn, i)
	}
	for i := range few {
		last.Refs = append(last.Refs, batch.Ref{Where: batch.InHeader, Name: fmt.Sprint("X-", i), From: i, Path: "/id"})
	}
	out[n] = batch.Request{Method: "GET", Path: fmt.Sprint("r/", n), Links: last}
	return out
}

// linkedWorld starts a world with an upstream that answers the requests of linkedReads. Calls of the storage
// operation named stuck block until their context ends.
func linkedWorld(w *world, n int) (up *linkedUpstream, stuck *atomic.Value) {
	w.shutdown()
	up, stuck = &linkedUpstream{codes: make([]int, n+1)}, new(atomic.Value)
	for i := range up.codes {
		up.codes[i] = 200
	}
	w.options.Upstream = up
	w.start()
	w.node.SetGate(func(ctx context.Context, op string) error {
		if op != stuck.Load() {
			return nil
		}
		<-ctx.Done()
		return ctx.Err()
	})
	return up, stuck
}

// TestAnswersAreRecordedBeforeValuesAreTaken checks that a request that takes values from answers is sent
// only once these answers are recorded. A node that shuts down doesn't wait for that.
func TestAnswersAreRecordedBeforeValuesAreTaken(t *testing.T) {
	scenario(t, "", func(t *testing.T, w *world) {
		up, stuck := linkedWorld(w, 1)
		stuck.Store("Record")
		w.createLinked("t", goOn, linkedReads(1, 1))
		w.pass(10 * time.Second)
		if n := len(up.made()); n != 1 {
			t.Errorf("%d requests were sent before the first answer was recorded", n)
		}
		stuck.Store("")
		w.shutdown()
		w.start()
		w.pass(10 * time.Second)
		if n := len(up.made()); n < 2 {
			t.Errorf("only %d requests were sent", n)
		}
	})
}

// TestOnlyNeededAnswersAreRead checks that when a batch is claimed again, only the answers from which its next
// request takes values are read.
func TestOnlyNeededAnswersAreRead(t *testing.T) {
	scenario(t, "", func(t *testing.T, w *world) {
		const n, few = 12, 3
		up, _ := linkedWorld(w, n)
		up.bodies = answerPage
		up.codes[n] = 429
		b := w.createLinked("s", goOn, linkedReads(n, few))
		w.pass((n + 5) * time.Second)
		if len(up.made()) <= n {
			t.Fatal("the last request was not sent")
		}
		w.crash()
		w.start()
		again := 0
		w.node.SetGate(func(_ context.Context, op string) error {
			if op == "Results" {
				again++
			}
			return nil
		})
		up.mu.Lock()
		up.codes[n] = 200
		up.mu.Unlock()
		w.await(t, b)
		if again != few {
			t.Errorf("answers were read %d times after the restart, want %d", again, few)
		}
		if h := up.made()[len(up.made())-1].headers; len(h) != few || h[2].Value != "2" {
			t.Errorf("the last request was sent with %v", h)
		}
	})
}

// TestShutdownEndsTheReadingOfAnswers checks that a node shuts down at once while it reads recorded answers.
func TestShutdownEndsTheReadingOfAnswers(t *testing.T) {
	scenario(t, "", func(t *testing.T, w *world) {
		up, _ := linkedWorld(w, 1)
		up.codes[1] = 429
		b := w.createLinked("s", goOn, linkedReads(1, 1))
		w.pass(2500 * time.Millisecond)
		w.crash()
		w.start()
		reads := 0
		w.node.SetGate(func(ctx context.Context, op string) error {
			if op != "Results" {
				return nil
			}
			reads++
			<-ctx.Done()
			return ctx.Err()
		})
		w.pass(time.Minute)
		synctest.Wait()
		began := time.Now()
		w.shutdown()
		if took := time.Since(began); took > 0 || reads == 0 {
			t.Errorf("the shutdown took %v; answers were read %d times", took, reads)
		}
		up.codes[1] = 200
		w.start()
		w.await(t, b)
		expect(t, "outcome", w.outcome(b), "200 200")
	})
}
