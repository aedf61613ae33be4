package main

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// scenario is the work of both the plain client and the service: POSTs to the same upstream.
type scenario struct {
	theme    string
	name     string
	latency  time.Duration // of the upstream
	stores   int
	batches  int // a store
	requests int // a batch
	parallel bool
	workers  int     // calls of a store that the plain client makes at the same time
	goal     float64 // the minimum ratio of the service's calls per second to the plain client's
	postgres float64 // the goal on PostgreSQL
}

const (
	parallelName   = "4 stores × 5 parallel batches × 500"
	storesName     = "50 stores × 200, one by one"
	sequentialName = "1 store, one by one"
)

var scenarios = []scenario{
	{theme: "parallel", name: parallelName, stores: 4, batches: 5, requests: 500, parallel: true, workers: 100, goal: 0.90, postgres: 0.60},
	{theme: "parallel", name: parallelName, latency: 5 * time.Millisecond, stores: 4, batches: 5, requests: 500, parallel: true, workers: 100, goal: 0.65, postgres: 0.50},
	{theme: "stores", name: storesName, stores: 50, batches: 1, requests: 200, workers: 1, goal: 0.60, postgres: 0.40},
	{theme: "stores", name: storesName, latency: 5 * time.Millisecond, stores: 50, batches: 1, requests: 200, workers: 1, goal: 0.50, postgres: 0.40},
	{theme: "sequential", name: sequentialName, stores: 1, batches: 4, requests: 500, workers: 1, goal: 0.30, postgres: 0.15},
	{theme: "sequential", name: sequentialName, latency: 5 * time.Millisecond, stores: 1, batches: 1, requests: 500, workers: 1, goal: 0.88, postgres: 0.82},
}

// calls returns how many POSTs the scenario makes.
func (s scenario) calls() int { return s.stores * s.batches * s.requests }

// warmUp returns a tenth of the scenario, with one batch per store. Both sides run it before each
// round, so that connections are open and caches are filled.
func (s scenario) warmUp() scenario {
	s.requests = max(s.batches*s.requests/10, 1)
	s.batches = 1
	return s
}

// compare measures both sides in turn, in b.rounds rounds, with one upstream and one service.
func (b *bench) compare(ctx context.Context, s scenario) (comparison, error) {
	c := comparison{Scenario: s.name, Upstream: milliseconds(s.latency), Calls: s.calls(), Goal: b.goal(s.goal, s.postgres)}
	w, err := b.setUp(ctx, s.theme+"-"+s.latency.String(), "-latency", s.latency.String())
	if err != nil {
		return c, err
	}
	defer w.end()
	m, err := b.startMeter(ctx, w.database, w.service)
	if err != nil {
		return c, err
	}
	for round := range b.rounds {
		plain, err := b.plain(ctx, w.upstream.template, s)
		if err != nil {
			return c, err
		}
		took, err := w.service.round(ctx, s)
		if err != nil {
			return c, err
		}
		m.count(s.calls() + s.warmUp().calls())
		c.Plain = append(c.Plain, rate(s.calls(), plain))
		c.Service = append(c.Service, rate(s.calls(), took))
		b.say("%s, upstream of %s, round %d: plain %.0f calls/s, service %.0f calls/s",
			s.name, c.Upstream, round+1, c.Plain[round], c.Service[round])
	}
	c.Peak = w.service.memory().peak
	c.conclude()
	c.Cost, err = m.read(ctx)
	return c, err
}

// round runs a scenario after its warm-up.
func (c *client) round(ctx context.Context, s scenario) (time.Duration, error) {
	if _, err := c.run(ctx, s.warmUp()); err != nil {
		return 0, fmt.Errorf("warm-up: %w", err)
	}
	return c.run(ctx, s)
}

// run runs the scenario on the service and returns how long that took: from the first create until
// every batch has been seen COMPLETED and every answer has been read once. The time doesn't include
// encoding the creates and decoding the answers.
func (c *client) run(ctx context.Context, s scenario) (time.Duration, error) {
	body := batchBody(s.requests)
	start := time.Now()
	tickets, err := c.createAll(ctx, s, body)
	if err != nil {
		return 0, err
	}
	answers := make([][]byte, len(tickets))
	for i, t := range tickets {
		if err := c.await(ctx, t); err != nil {
			return 0, err
		}
		if answers[i], err = c.status(ctx, t, true); err != nil {
			return 0, err
		}
	}
	took := time.Since(start)
	for _, a := range answers {
		if err := checkAnswers(a, s.requests); err != nil {
			return 0, err
		}
	}
	return took, nil
}

// createAll creates the scenario's batches over 4 connections, those of each store one after the
// other. It returns them in the order in which they should end: every store's first batch, then
// every store's second, and so on.
func (c *client) createAll(ctx context.Context, s scenario, body []byte) ([]ticket, error) {
	const connections = 4
	tickets := make([]ticket, s.stores*s.batches)
	err := atOnce(ctx, connections, func(ctx context.Context, worker int) error {
		for round := range s.batches {
			for store := worker; store < s.stores; store += connections {
				t, err := c.create(ctx, storeName(store), s.parallel, body)
				if err != nil {
					return err
				}
				tickets[round*s.stores+store] = t
			}
		}
		return nil
	})
	return tickets, err
}

// atOnce runs f n times at once and returns the first error, which also cancels the context of the
// others.
func atOnce(ctx context.Context, n int, f func(ctx context.Context, worker int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var workers sync.WaitGroup
	for i := range n {
		workers.Go(func() {
			if err := f(ctx, i); err != nil {
				cancel(err)
			}
		})
	}
	workers.Wait()
	return context.Cause(ctx)
}
