package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/sheafapi/sheaf/bench/internal/table"
)

// What the long queue consists of.
const (
	backlogRequests = 20 // a batch
	backlogStores   = 100
	idleStores      = 100
	modelRequests   = 2 // a finished batch
)

// backlog measures the cost of a long queue and, on PostgreSQL, of a long history. It compares
// the times of creates, and of claims in idle queues, with those in an empty database. It also
// measures the memory, and how long a restart after kill -9 takes. The upstream never answers
// the queued stores, so that nothing leaves their queues.
func (b *bench) backlog(ctx context.Context) ([]figure, error) {
	upstream := startBell()
	defer upstream.stop()
	db, err := b.newDatabase(ctx, "backlog")
	if err != nil {
		return nil, err
	}
	flags := []string{"--request-timeout", "1h"}
	svc, err := b.startService(ctx, upstream.template, db, flags...)
	if err != nil {
		return nil, err
	}
	defer svc.kill()
	idle := svc.memory()
	last, err := b.fill(ctx, svc, db)
	if err != nil {
		return nil, err
	}
	full := svc.memory()
	compared, err := b.compareBacklog(ctx, svc, upstream, flags...)
	if err != nil {
		return nil, err
	}

	svc.kill()
	again, err := b.startService(ctx, upstream.template, db, flags...)
	if err != nil {
		return nil, fmt.Errorf("restart: %w", err)
	}
	defer again.kill()
	// The service takes over the queues. Creates must work in the meantime.
	if _, err := again.timeCreates(ctx, heldStore(0), batchBody(backlogRequests), b.times/10); err != nil {
		return nil, fmt.Errorf("after the restart: %w", err)
	}
	restarted := again.memory()
	if err := again.checkQueued(ctx, last); err != nil {
		return nil, fmt.Errorf("after the restart: %w", err)
	}
	b.say("%d batches queued: ready again after %v", b.queued, again.started)
	if b.plans != "" {
		again.kill()
		if err := b.writePlans(ctx, db, upstream); err != nil {
			return nil, fmt.Errorf("plans: %w", err)
		}
	}
	return slices.Concat(compared, []figure{
		{Name: "restart to ready, " + b.backlogName(), Value: value(again.started.Seconds()), Unit: "s", Goal: 3},
		{Name: "memory, idle", Value: megabytes(idle.resident), Unit: "MB"},
		{Name: "memory, " + b.backlogName() + ", above idle", Value: megabytes(above(full.resident, idle.resident)), Unit: "MB", Goal: 100},
		{Name: "memory, restarted with " + b.backlogName() + ", above idle", Value: megabytes(above(restarted.resident, idle.resident)), Unit: "MB", Goal: 100},
	}), nil
}

// backlogName describes the size of the backlog.
func (b *bench) backlogName() string {
	name := table.Thousands(b.queued) + " queued"
	if b.cluster != nil {
		name += ", " + table.Thousands(b.finished) + " finished"
	}
	return name
}

// compareBacklog alternately times a service with a backlog and one with an empty database.
func (b *bench) compareBacklog(ctx context.Context, svc *service, upstream *bell, flags ...string) ([]figure, error) {
	db, err := b.newDatabase(ctx, "empty")
	if err != nil {
		return nil, err
	}
	empty, err := b.startService(ctx, upstream.template, db, flags...)
	if err != nil {
		return nil, err
	}
	defer empty.kill()
	var without, with samples
	for range b.rounds {
		if err := b.timeBoth(ctx, &without, empty, upstream); err != nil {
			return nil, err
		}
		if err := b.timeBoth(ctx, &with, svc, upstream); err != nil {
			return nil, err
		}
	}
	return b.compareTimes(without, with), nil
}

// samples are the measured times of creates and of claims.
type samples struct{ create, claim []time.Duration }

// timeBoth times creates in a store whose queue doesn't move, and claims in idle queues, each
// after a warm-up.
func (b *bench) timeBoth(ctx context.Context, t *samples, svc *service, upstream *bell) error {
	body := batchBody(backlogRequests)
	for _, warmUp := range []bool{true, false} {
		n := b.times
		if warmUp {
			n /= 2
		}
		creates, err := svc.timeCreates(ctx, heldStore(0), body, n)
		if err != nil {
			return err
		}
		claims, err := upstream.timeClaims(ctx, svc.client, idleStores, n)
		if err != nil {
			return err
		}
		if !warmUp {
			t.create, t.claim = append(t.create, creates...), append(t.claim, claims...)
		}
	}
	return nil
}

// compareTimes reports the times without and with the backlog.
func (b *bench) compareTimes(without, with samples) []figure {
	var figures []figure
	for _, kind := range []struct {
		name          string
		without, with []time.Duration
	}{
		{"create of 20 requests", without.create, with.create},
		{"create to arrival of an idle queue's request", without.claim, with.claim},
	} {
		for _, side := range []struct {
			name  string
			times []time.Duration
		}{{"empty database", kind.without}, {b.backlogName(), kind.with}} {
			for _, p := range []float64{50, 99} {
				figures = append(figures, figure{
					Name:  fmt.Sprintf("%s, %s, p%.0f", kind.name, side.name, p),
					Value: value(inMilliseconds(percentile(side.times, p))), Unit: "ms",
				})
			}
		}
		figures = append(figures, figure{
			Name:  kind.name + ", p50, " + b.backlogName() + " : empty database",
			Value: value(percentile(kind.with, 50).Seconds() / percentile(kind.without, 50).Seconds()), Unit: "times", Goal: 1.5,
		})
	}
	return figures
}

// fill adds the history (on PostgreSQL only) and then the queues. It returns the last batch of
// every queue.
func (b *bench) fill(ctx context.Context, svc *service, db database) ([]ticket, error) {
	if db.url != "" {
		if err := b.fillHistory(ctx, svc.client, db); err != nil {
			return nil, err
		}
	}
	last, err := b.fillQueues(ctx, svc.client, batchBody(backlogRequests))
	if err == nil && db.url != "" {
		err = db.exec(ctx, "ANALYZE", "CHECKPOINT")
	}
	return last, err
}

// fillHistory adds finished batches, also to the queues that are measured.
func (b *bench) fillHistory(ctx context.Context, c *client, db database) error {
	body := batchBody(modelRequests)
	err := atOnce(ctx, 8, func(ctx context.Context, worker int) error {
		for store := worker; store < idleStores; store += 8 {
			t, err := c.create(ctx, idleStore(store), false, body)
			if err != nil {
				return err
			}
			if err := c.await(ctx, t); err != nil {
				return err
			}
		}
		for store := worker; store < backlogStores; store += 8 { // so that their queues exist
			if _, err := c.create(ctx, heldStore(store), false, body); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return db.addHistory(ctx, b.finished, func(done int) { b.say("%s finished batches are in the tables", table.Thousands(done)) })
}

// fillQueues creates the queued batches over 8 connections, each of which has its own stores.
// It returns the last batch of every store.
func (b *bench) fillQueues(ctx context.Context, c *client, body []byte) ([]ticket, error) {
	const connections = 8
	b.say("queueing %s batches", table.Thousands(b.queued))
	last := make([]ticket, backlogStores)
	err := atOnce(ctx, connections, func(ctx context.Context, worker int) (err error) {
		for range b.queued / backlogStores {
			for store := worker; store < backlogStores; store += connections {
				if last[store], err = c.create(ctx, heldStore(store), false, body); err != nil {
					return err
				}
			}
		}
		return nil
	})
	return last, err
}

// checkQueued checks that batches exist and are QUEUED.
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
