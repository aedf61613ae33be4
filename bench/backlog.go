package main

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// What the long queue consists of.
const (
	backlogRequests = 20 // a batch
	backlogStores   = 100
	idleStores      = 100
	modelRequests   = 2 // of the finished batches
)

// backlog measures what a long queue costs, and on PostgreSQL a long history beside it:
// how much longer a create takes, and a request of an idle queue until it arrives, the
// memory, and how long a restart after kill -9 takes. The upstream never answers the
// queued stores, so that nothing leaves their queues.
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
	before, err := b.timeBoth(ctx, svc, upstream, heldPrefix+"empty")
	if err != nil {
		return nil, err
	}
	last, err := b.fill(ctx, svc, db)
	if err != nil {
		return nil, err
	}
	full := svc.memory()
	after, err := b.timeBoth(ctx, svc, upstream, heldStore(0))
	if err != nil {
		return nil, err
	}

	svc.kill()
	again, err := b.startService(ctx, upstream.template, db, flags...)
	if err != nil {
		return nil, fmt.Errorf("restart: %w", err)
	}
	defer again.kill()
	// It takes the queues up; creates meanwhile have to work.
	if _, err := again.timeCreates(ctx, heldStore(0), batchBody(backlogRequests), bothTimes/10); err != nil {
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
	return slices.Concat(b.compareTimes(before, after), []figure{
		{Name: "restart to ready, " + b.backlogName(), Value: value(again.started.Seconds()), Unit: "s", Goal: 3},
		{Name: "memory, idle", Value: megabytes(idle.resident), Unit: "MB"},
		{Name: "memory, " + b.backlogName() + ", above idle", Value: megabytes(above(full.resident, idle.resident)), Unit: "MB", Goal: 100},
		{Name: "memory, restarted with " + b.backlogName() + ", above idle", Value: megabytes(above(restarted.resident, idle.resident)), Unit: "MB", Goal: 100},
	}), nil
}

// backlogName says how much there is.
func (b *bench) backlogName() string {
	name := thousands(b.queued) + " queued"
	if b.cluster != nil {
		name += ", " + thousands(b.finished) + " finished"
	}
	return name
}

// thousands returns a number as people write it.
func thousands(n int) string {
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%s,%03d", thousands(n/1000), n%1000)
}

// bothTimes is how many creates, and how many claims, are timed.
const bothTimes = 200

// times are those of creates and of claims.
type times struct{ create, claim []time.Duration }

// timeBoth times creates in a store whose queue does not move, and claims of idle queues.
func (b *bench) timeBoth(ctx context.Context, svc *service, upstream *bell, store string) (t times, err error) {
	body := batchBody(backlogRequests)
	if _, err = svc.timeCreates(ctx, store, body, bothTimes/2); err != nil { // warm-up
		return t, err
	}
	if t.create, err = svc.timeCreates(ctx, store, body, bothTimes); err != nil {
		return t, err
	}
	if _, err = upstream.timeClaims(ctx, svc.client, idleStores, bothTimes/2); err != nil { // warm-up
		return t, err
	}
	t.claim, err = upstream.timeClaims(ctx, svc.client, idleStores, bothTimes)
	return t, err
}

// compareTimes reports the times with nothing queued and with the backlog.
func (b *bench) compareTimes(before, after times) []figure {
	var figures []figure
	for _, kind := range []struct {
		name          string
		before, after []time.Duration
	}{
		{"create of 20 requests", before.create, after.create},
		{"create to arrival of an idle queue's request", before.claim, after.claim},
	} {
		for _, side := range []struct {
			name  string
			times []time.Duration
		}{{"nothing queued", kind.before}, {b.backlogName(), kind.after}} {
			for _, p := range []float64{50, 99} {
				figures = append(figures, figure{
					Name:  fmt.Sprintf("%s, %s, p%.0f", kind.name, side.name, p),
					Value: value(inMilliseconds(percentile(side.times, p))), Unit: "ms",
				})
			}
		}
		figures = append(figures, figure{
			Name:  kind.name + ", p50, " + b.backlogName() + " : nothing queued",
			Value: value(percentile(kind.after, 50).Seconds() / percentile(kind.before, 50).Seconds()), Unit: "times", Goal: 1.5,
		})
	}
	return figures
}

// fill adds the history, on PostgreSQL, and then the queues. It returns the last batch
// of every queue.
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

// fillHistory adds finished batches, to the queues that are measured, too.
func (b *bench) fillHistory(ctx context.Context, c *client, db database) error {
	body := batchBody(modelRequests)
	err := atOnce(ctx, 8, func(ctx context.Context, worker int) error {
		for store := worker; store < 10*idleStores; store += 8 {
			t, err := c.create(ctx, idleStore(store), false, body)
			if err != nil {
				return err
			}
			if err := c.await(ctx, t); err != nil {
				return err
			}
		}
		for store := worker; store < backlogStores; store += 8 { // so that their queues are there
			if _, err := c.create(ctx, heldStore(store), false, body); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return db.addHistory(ctx, b.finished, func(done int) { b.say("%s finished batches are in the tables", thousands(done)) })
}

// fillQueues creates the queued batches over 8 connections, each for stores of its own.
// It returns the last batch of every store.
func (b *bench) fillQueues(ctx context.Context, c *client, body []byte) ([]ticket, error) {
	const connections = 8
	b.say("queueing %s batches", thousands(b.queued))
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
