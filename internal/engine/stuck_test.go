package engine

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// createPair stores a batch of two POSTs. The second one sends a value from the answer to the first one.
func (w *world) createPair() *testBatch {
	n := len(w.batches)
	return w.createLinked("s", goOn, []batch.Request{
		{Method: "POST", Path: fmt.Sprintf("%d/0", n)},
		{Method: "POST", Path: fmt.Sprintf("%d/1", n), Body: []byte(`{"x":null}`), Links: &batch.Links{
			DependsOn: []int{0}, Refs: []batch.Ref{{Where: batch.InBody, Name: "/x", From: 0, Path: "/id"}},
		}},
	})
}

// deleteBatch deletes a batch and notifies the engine.
func (w *world) deleteBatch(m *testBatch) {
	q := insist(w, func() (storage.QueueID, error) { return w.node.Delete(context.Background(), m.key) })
	w.engine.Notify(q)
}

// TestDeletedWhileItWaits deletes a batch with dependent requests while it waits for its next attempt. The
// batch ends, and the next batch of its store runs.
func TestDeletedWhileItWaits(t *testing.T) {
	begin := func(w *world) {
		parent := answered(200)
		parent.Body = []byte(`{"id":7}`)
		w.up.script(0, 0, step{answer: parent})
		w.up.script(0, 1, step{answer: answered(429, "Retry-After", "60")}, step{answer: answered(200)})
	}
	scenario(t, "it is claimed at once", func(t *testing.T, w *world) {
		begin(w)
		a := w.createPair()
		w.pass(time.Second)
		w.deleteBatch(a)
		b := w.create("s", stop, "POST")
		w.pass(2 * time.Minute)
		expect(t, "the next batch", w.outcome(b), "200")
		expect(t, "ledger", w.sent(), "0/0 0/1 1/0")
	})
	scenario(t, "it is claimed after a crash", func(t *testing.T, w *world) {
		begin(w)
		a := w.createPair()
		w.pass(time.Second)
		w.crash()
		w.deleteFrom(w.db.Node().Delete, a)
		w.start()
		b := w.create("s", stop, "POST")
		w.pass(2 * time.Minute)
		expect(t, "the next batch", w.outcome(b), "200")
	})
	scenario(t, "it is deleted between the claim and the reading of its answers", func(t *testing.T, w *world) {
		begin(w)
		a := w.createPair()
		w.pass(time.Second)
		deleted := false
		w.node.SetGate(func(ctx context.Context, op string) error {
			if op == "Results" && !deleted {
				deleted = true
				w.node.SetGate(nil)
				_, err := w.node.Delete(ctx, a.key)
				return err
			}
			return nil
		})
		b := w.create("s", stop, "POST")
		w.pass(2 * time.Minute)
		expect(t, "the next batch", w.outcome(b), "200")
		if !deleted {
			t.Error("the engine did not read the answers")
		}
	})
	scenario(t, "the node shuts down at once", func(t *testing.T, w *world) {
		begin(w)
		a := w.createPair()
		w.pass(time.Second)
		w.deleteBatch(a)
		synctest.Wait()
		began := time.Now()
		w.shutdown()
		if took := time.Since(began); took > 0 {
			t.Errorf("the shutdown took %v", took)
		}
		w.start()
	})
}

// deleteFrom deletes a batch through another node.
func (w *world) deleteFrom(del func(context.Context, storage.Key) (storage.QueueID, error), m *testBatch) {
	insist(w, func() (storage.QueueID, error) { return del(context.Background(), m.key) })
}

// TestStuckBatchReturnsItsPlaces checks that a batch returns the only outbound place if it chooses a
// request to start and then can't read an answer that another request needs.
func TestStuckBatchReturnsItsPlaces(t *testing.T) {
	scenario(t, "", func(t *testing.T, w *world) {
		w.shutdown()
		w.options.MaxOutbound = 1
		w.start()
		parent := answered(200)
		parent.Body = []byte(`{"id":7}`)
		w.up.script(0, 0, step{answer: parent})
		w.up.script(0, 1, step{answer: answered(503)})
		w.up.script(0, 2, step{answer: answered(503)})
		a := w.createLinked("s", parallel, []batch.Request{
			{Method: "GET", Path: "0/0"},
			{Method: "PUT", Path: "0/1", Body: []byte(`{"x":null}`), Links: &batch.Links{
				DependsOn: []int{0}, Refs: []batch.Ref{{Where: batch.InBody, Name: "/x", From: 0, Path: "/id"}},
			}},
			{Method: "GET", Path: "0/2"},
		})
		w.pass(time.Second)
		expect(t, "ledger", w.sent(), "0/0 0/1 0/2")
		w.crash()
		w.wrap = func(s Storage) Storage {
			return &errorStorage{Storage: s, op: "Results", err: &storage.DamagedError{Err: storage.ErrDamaged}, times: -1}
		}
		w.start()
		w.pass(time.Minute) // until both requests are due, and the dead node's queue has a new owner
		if len(w.quarantined()) != 1 {
			t.Fatalf("the batch was not quarantined: %s", w.outcome(a))
		}
		b := w.create("other", stop, "GET")
		w.pass(time.Second)
		expect(t, "another store's batch", w.outcome(b), "200")
	})
}
