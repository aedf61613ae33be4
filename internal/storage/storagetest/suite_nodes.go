package storagetest

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// Cluster is a database that several nodes share.
type Cluster interface {
	// Node returns a new live node, which is closed when the test ends.
	Node(t *testing.T) storage.Storage
	// Die makes a node's process die. When it returns, the database considers the node dead. The
	// node's Storage is not used afterwards.
	Die(t *testing.T, n storage.Storage)
	// Expire makes the database consider a node dead that is alive. When it returns, others may
	// claim the node's queues.
	Expire(t *testing.T, n storage.Storage)
}

// RunNodes is the conformance suite for databases that several nodes share. Each call of open
// returns a new, empty one.
func RunNodes(t *testing.T, open func(t *testing.T) Cluster) {
	for _, tt := range slices.Concat(nodeTests, expiryTests, hintTests) {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := open(t)
			tt.run(t, c, &fixture{t, c.Node(t)}, &fixture{t, c.Node(t)})
		})
	}
}

// nodeTest checks a sentence of the contract about two nodes.
type nodeTest struct {
	name string
	run  func(t *testing.T, c Cluster, a, b *fixture)
}

var nodeTests = []nodeTest{
	{"nodes see the same batches and settings", func(t *testing.T, _ Cluster, a, b *fixture) {
		x := newBatch("s", 1)
		q := a.create(x)
		expect(t, "outcome", b.outcome(x), "QUEUED -")
		expect(t, "runnable", b.runnable(), []storage.Runnable{{Queue: q}})
		y := newBatch("s", 1)
		expect(t, "the queue", b.create(y), q)
		expect(t, "found", a.search(x, batch.Queued), []batch.Ticket{x.Ticket, y.Ticket})
		a.putSetting("name", "value")
		b.expectSetting("name", "value")
	}},
	{"a live node's queue is not claimed by another", func(t *testing.T, _ Cluster, a, b *fixture) {
		x := newBatch("s", 1)
		c := a.claimed(x)
		b.create(newBatch("s", 1))
		_, err := b.s.Claim(t.Context(), c.Queue)
		expectError(t, "Claim", err, storage.ErrNotOwner)
		for _, n := range []*fixture{a, b} {
			expect(t, "runnable", len(n.runnable()), 0)
		}
		a.record(c, done(0, ""))
		c = a.finish(c)
		_, err = b.s.Claim(t.Context(), c.Queue)
		expectError(t, "Claim after a finish", err, storage.ErrNotOwner)
		_, err = b.s.Claim(t.Context(), a.create(newBatch("t", 1)))
		expectError(t, "Claim of another queue", err, nil)
	}},
	{"a released queue is free for other nodes", func(t *testing.T, _ Cluster, a, b *fixture) {
		x := newBatch("s", 2)
		first := a.claimed(x)
		a.release(first, time.Time{}, begun(0))
		second := b.claim(first.Queue)
		expectLarger(t, second, first)
		expectMarks(t, second.Marks, begun(0))
		a.expectStale(first)
		if _, err := b.s.Finish(t.Context(), second, nil, "", false); err != nil {
			t.Fatal(err)
		}
		a.claimed(newBatch("s", 1))
	}},
	{"every node sees the time of a release", func(t *testing.T, _ Cluster, a, b *fixture) {
		c := a.claimed(newBatch("s", 1))
		a.release(c, moment(5))
		for _, n := range []*fixture{a, b} {
			expect(t, "runnable", n.runnable(), []storage.Runnable{{Queue: c.Queue, NotBefore: moment(5)}})
		}
	}},
	{"a dead node's queues are free, with all that it recorded", func(t *testing.T, c Cluster, a, b *fixture) {
		x, other := newBatch("s", 3), newBatch("t", 1)
		first := a.claimed(x)
		kept := b.claimed(other)
		a.record(first, done(0, "kept"), begun(1))
		_, err := b.s.Claim(t.Context(), first.Queue)
		expectError(t, "Claim before", err, storage.ErrNotOwner)
		c.Die(t, a.s)
		expect(t, "runnable", b.runnable(), []storage.Runnable{{Queue: first.Queue}})
		second := b.claim(first.Queue)
		expectLarger(t, second, first)
		expect(t, "ticket", second.Ticket, x.Ticket)
		expect(t, "credential", string(second.Credential), string(x.Credential))
		expectMarks(t, second.Marks, unread(done(0, "kept")), begun(1))
		b.expectStale(first)
		b.record(kept, begun(0))
		b.finish(second, done(1, ""))
		expect(t, "outcome", b.outcome(x), "COMPLETED 200 200 -")
	}},
	{"a closed node's queues are free", func(t *testing.T, _ Cluster, a, b *fixture) {
		first := a.claimed(newBatch("s", 1))
		if err := a.s.Close(); err != nil {
			t.Fatal(err)
		}
		expect(t, "runnable", b.runnable(), []storage.Runnable{{Queue: first.Queue}})
		if a.s.Authorized(first) {
			t.Error("a closed node may send")
		}
		second := b.claim(first.Queue)
		expectLarger(t, second, first)
		b.expectStale(first)
		b.authorize(second)
	}},
	{"a node that starts also takes over", func(t *testing.T, c Cluster, a, _ *fixture) {
		first := a.claimed(newBatch("s", 1))
		c.Die(t, a.s)
		late := &fixture{t, c.Node(t)}
		second := late.claim(first.Queue)
		expectLarger(t, second, first)
		late.authorize(second)
	}},
	{"a dead node's queue does not wait for an earlier release", func(t *testing.T, c Cluster, a, b *fixture) {
		first := a.claimed(newBatch("s", 1))
		a.release(first, moment(5), waiting(0))
		a.claim(first.Queue)
		c.Die(t, a.s)
		expect(t, "runnable", b.runnable(), []storage.Runnable{{Queue: first.Queue}})
	}},
	{"a stop through another node reaches the runner", func(t *testing.T, _ Cluster, a, b *fixture) {
		x := newBatch("s", 1)
		c := a.claimed(x)
		expect(t, "stopped", b.stop(byTicket(x)), storage.StopResult{Count: 1, Queues: []storage.QueueID{c.Queue}})
		expect(t, "told", a.record(c), storage.Signals{Stopped: true})
		b.delete(x)
		expect(t, "told", a.record(c), storage.Signals{Stopped: true, Deleted: true})
	}},
	{"a stopped batch of a dead node is ended by the next runner", func(t *testing.T, c Cluster, a, b *fixture) {
		x := newBatch("s", 1)
		q := a.claimed(x).Queue
		c.Die(t, a.s)
		expect(t, "stopped", b.stop(byTicket(x)), storage.StopResult{Count: 1, Queues: []storage.QueueID{q}})
		expect(t, "outcome", b.outcome(x), "QUEUED -")
		next := b.claim(q)
		expect(t, "told", next.Signals, storage.Signals{Stopped: true})
		b.finish(next)
		expect(t, "outcome", b.outcome(x), "COMPLETED -")
	}},
	{"of concurrent first values through many nodes, one is stored", func(t *testing.T, _ Cluster, a, b *fixture) {
		expectOneFirst(t, a.s, b.s)
	}},
	{"of concurrent creates with one key through many nodes, one is stored", func(t *testing.T, _ Cluster, a, b *fixture) {
		for range 10 {
			dedup := uuid.New()
			made := make([]storage.CreateResult, 8)
			errs := together(len(made), func(i int) (err error) {
				x := newBatch("s", 1)
				x.DedupKey = dedup
				made[i], err = []*fixture{a, b}[i%2].s.Create(t.Context(), x)
				return err
			})
			originals := 0
			for i, c := range made {
				expectError(t, "Create", errs[i], nil)
				expect(t, "ticket", c.Ticket, made[0].Ticket)
				if !c.Duplicate {
					originals++
				}
			}
			expect(t, "creates that stored", originals, 1)
		}
		expect(t, "batches", len(a.search(newBatch("s", 1), batch.Queued)), 10)
	}},
	{"of concurrent claims through many nodes, one gets the queue", func(t *testing.T, _ Cluster, a, b *fixture) {
		for i := range 10 {
			q := a.create(newBatch(fmt.Sprint("s", i), 1))
			errs := together(2, func(i int) error {
				_, err := []*fixture{a, b}[i].s.Claim(t.Context(), q)
				return err
			})
			if (errs[0] == nil) == (errs[1] == nil) {
				t.Errorf("got %v and %v, want one success", errs[0], errs[1])
			}
			for _, err := range errs {
				if err != nil {
					expectError(t, "Claim", err, storage.ErrNotOwner)
				}
			}
		}
	}},
}

// together makes n concurrent calls of fn and returns their errors.
func together(n int, fn func(i int) error) []error {
	errs := make([]error, n)
	ended := make(chan struct{})
	for i := range n {
		go func() {
			errs[i] = fn(i)
			ended <- struct{}{}
		}()
	}
	for range n {
		<-ended
	}
	return errs
}

func expectLarger(t *testing.T, second, first *storage.Claim) {
	t.Helper()
	if second.Queue != first.Queue || second.Epoch <= first.Epoch {
		t.Errorf("queue %d, epoch %d comes after queue %d, epoch %d", second.Queue, second.Epoch, first.Queue, first.Epoch)
	}
}
