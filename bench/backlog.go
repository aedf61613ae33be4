package main

import (
	"context"
	"fmt"
)

// What the long queue consists of.
const (
	backlogBatches  = 10_000
	backlogRequests = 20 // a batch
	backlogStores   = 100
)

// backlog measures what 10,000 queued batches cost: the memory they take, how much
// longer a create takes, and how long a restart after kill -9 takes. The upstream
// never answers, so that nothing leaves the queue.
func (b *bench) backlog(ctx context.Context) ([]figure, error) {
	const database, creates = "backlog.db", 200
	flags := []string{"--request-timeout", "1h"}
	u, svc, end, err := b.setUp(ctx, database, []string{"-silent"}, flags)
	if err != nil {
		return nil, err
	}
	defer end()
	idle := svc.memory()

	body := batchBody(backlogRequests)
	if _, err := svc.timeCreates(ctx, "empty", body, creates); err != nil { // warm-up
		return nil, err
	}
	before, err := svc.timeCreates(ctx, "empty", body, creates)
	if err != nil {
		return nil, err
	}
	last, err := b.fillQueues(ctx, svc.client, body)
	if err != nil {
		return nil, err
	}
	full := svc.memory()
	after, err := svc.timeCreates(ctx, storeName(0), body, creates)
	if err != nil {
		return nil, err
	}

	svc.kill()
	again, err := b.startService(ctx, u.template, database, flags...)
	if err != nil {
		return nil, fmt.Errorf("restart: %w", err)
	}
	defer again.kill()
	// It takes the queues up; creates meanwhile have to work.
	if _, err := again.timeCreates(ctx, storeName(0), body, creates/10); err != nil {
		return nil, fmt.Errorf("after the restart: %w", err)
	}
	restarted := again.memory()
	if err := again.checkQueued(ctx, last); err != nil {
		return nil, fmt.Errorf("after the restart: %w", err)
	}
	b.say("%d batches queued: ready again after %v", backlogBatches, again.started)

	p50, p99 := percentile(before, 50), percentile(before, 99)
	full50, full99 := percentile(after, 50), percentile(after, 99)
	return []figure{
		{Name: "create of 20 requests, nothing queued, p50", Value: value(inMilliseconds(p50)), Unit: "ms"},
		{Name: "create of 20 requests, nothing queued, p99", Value: value(inMilliseconds(p99)), Unit: "ms"},
		{Name: "create of 20 requests, 10,000 queued, p50", Value: value(inMilliseconds(full50)), Unit: "ms"},
		{Name: "create of 20 requests, 10,000 queued, p99", Value: value(inMilliseconds(full99)), Unit: "ms"},
		{Name: "create p50, 10,000 queued : nothing queued", Value: value(full50.Seconds() / p50.Seconds()), Unit: "times", Goal: 1.5},
		{Name: "restart to ready, 10,000 queued", Value: value(again.started.Seconds()), Unit: "s", Goal: 3},
		{Name: "memory, idle", Value: megabytes(idle.resident), Unit: "MB"},
		{Name: "memory, 10,000 queued, above idle", Value: megabytes(above(full.resident, idle.resident)), Unit: "MB", Goal: 100},
		{Name: "memory, restarted with 10,000 queued, above idle", Value: megabytes(above(restarted.resident, idle.resident)), Unit: "MB", Goal: 100},
	}, nil
}

// fillQueues creates the queued batches over 8 connections, each for stores of its own.
// It returns the last batch of every store.
func (b *bench) fillQueues(ctx context.Context, c *client, body []byte) ([]ticket, error) {
	const connections = 8
	b.say("queueing %d batches", backlogBatches)
	last := make([]ticket, backlogStores)
	err := atOnce(ctx, connections, func(ctx context.Context, worker int) (err error) {
		for range backlogBatches / backlogStores {
			for store := worker; store < backlogStores; store += connections {
				if last[store], err = c.create(ctx, storeName(store), false, body); err != nil {
					return err
				}
			}
		}
		return nil
	})
	return last, err
}

// checkQueued sees to it that batches are there and wait.
func (c *client) checkQueued(ctx context.Context, tickets []ticket) error {
	for _, t := range tickets {
		status, err := c.batchStatus(ctx, t)
		if err != nil {
			return err
		}
		if status != "QUEUED" {
			return fmt.Errorf("a batch of %s is %s instead of QUEUED", t.store, status)
		}
	}
	return nil
}
