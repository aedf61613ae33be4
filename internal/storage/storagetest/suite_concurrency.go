package storagetest

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

const (
	crowdQueues  = 4
	crowdBatches = 12 // in each queue
)

var concurrencyTests = []test{
	{"concurrent creators, runners and readers", func(f *fixture) {
		ctx, cancel := context.WithCancel(f.Context())
		defer cancel()
		var workers, readers sync.WaitGroup
		queues := make([]chan crowdBatch, crowdQueues)
		for i := range queues {
			queues[i] = make(chan crowdBatch, crowdBatches)
			store := fmt.Sprint("s", i)
			readers.Go(func() { f.watch(ctx, newBatch(store, 1)) })
			workers.Go(func() { f.fill(store, queues[i]) })
			workers.Go(func() { f.drain(queues[i]) })
		}
		workers.Wait()
		cancel()
		readers.Wait()
		for i := range queues {
			ended := f.search(newBatch(fmt.Sprint("s", i), 1), batch.Completed)
			expect(f.T, "ended batches", len(ended), crowdBatches)
		}
		expect(f.T, "runnable", len(f.runnable()), 0)
	}},
}

// crowdBatch is a created batch and its queue.
type crowdBatch struct {
	*storage.NewBatch
	queue storage.QueueID
}

// fill creates a queue's batches.
func (f *fixture) fill(store string, made chan<- crowdBatch) {
	defer close(made)
	for range crowdBatches {
		b := newBatch(store, 3)
		c, err := f.s.Create(f.Context(), b)
		if err != nil {
			f.Error(err)
			return
		}
		made <- crowdBatch{b, c.Queue}
	}
}

// drain runs a queue's batches and checks their order.
func (f *fixture) drain(made <-chan crowdBatch) {
	for b := range made {
		if err := f.runOne(b); err != nil {
			f.Error(err)
			return
		}
	}
}

func (f *fixture) runOne(b crowdBatch) error {
	c, err := f.s.Claim(f.Context(), b.queue)
	if err != nil {
		return err
	}
	if c.Ticket != b.Ticket {
		return fmt.Errorf("claimed %s, want %s", c.Ticket, b.Ticket)
	}
	if err := f.s.Load(f.Context(), c); err != nil {
		return err
	}
	for i := range c.Requests {
		if _, err := f.s.Record(f.Context(), c, []storage.Mark{begun(i)}); err != nil {
			return err
		}
		if _, err := f.s.Record(f.Context(), c, []storage.Mark{done(i, c.Ticket.String())}); err != nil {
			return err
		}
	}
	if _, err := f.s.Finish(f.Context(), c, nil, "", true); err != nil {
		return err
	}
	s, err := f.s.Status(f.Context(), key(b.NewBatch), everything)
	if err == nil && (s.Status != batch.Completed || s.Completed != len(c.Requests) || string(s.Results[2].Body) != b.Ticket.String()) {
		err = fmt.Errorf("an ended batch: %+v", s)
	}
	return err
}

// watch reads a creator's batches until ctx ends. It checks that the state of each one is
// consistent and never goes back.
func (f *fixture) watch(ctx context.Context, b *storage.NewBatch) {
	seen := map[batch.Ticket]int{}
	for ctx.Err() == nil {
		for _, state := range []batch.Status{batch.Completed, batch.InProgress, batch.Queued} {
			found, err := search(ctx, f.s, b, state, 100, 0)
			for _, r := range found {
				var s *storage.Status
				if s, err = f.s.Status(ctx, storage.Key{Store: b.Store, Owner: b.Owner, Ticket: r.Ticket}, everything); err != nil {
					break
				}
				if s.Completed != len(s.Results) || s.Completed < seen[r.Ticket] || s.Status < state {
					f.Errorf("a batch that was %s with %d results: %+v", state, seen[r.Ticket], s)
				}
				seen[r.Ticket] = s.Completed
			}
			if err != nil && !errors.Is(err, context.Canceled) {
				f.Error(err)
				return
			}
		}
	}
}
