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
	if _, err := svc.timeCreates(ctx, "empty", body, creates/10); err != nil { // warm-up
		return nil, err
	}
	before, err := svc.timeCreates(ctx, "empty", body, creates)
	if err != nil {
		return nil, err
	}
	if err := b.fillQueues(ctx, svc, body); err != nil {
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

// fillQueues creates the queued batches over 8 connections.
func (b *bench) fillQueues(ctx context.Context, c *service, body []byte) error {
	const connections = 8
	b.say("queueing %d batches", backlogBatches)
	return atOnce(ctx, connections, func(ctx context.Context, worker int) error {
		for i := worker; i < backlogBatches; i += connections {
			if _, err := c.create(ctx, storeName(i%backlogStores), false, body); err != nil {
				return err
			}
		}
		return nil
	})
}
