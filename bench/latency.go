package main

import (
	"context"
	"sync/atomic"
	"time"
)

// createLatency measures creates of 500 requests, one after the other, while the
// store's first batch runs against a slow upstream.
func (b *bench) createLatency(ctx context.Context) ([]figure, error) {
	const creates, requests = 200, 500
	w, err := b.setUp(ctx, "create", "-latency", "1s")
	if err != nil {
		return nil, err
	}
	defer w.end()
	svc := w.service
	body := batchBody(requests)
	if _, err := svc.timeCreates(ctx, storeName(0), body, creates/10); err != nil { // warm-up
		return nil, err
	}
	times, err := svc.timeCreates(ctx, storeName(0), body, creates)
	if err != nil {
		return nil, err
	}
	b.say("create of %d requests: p50 %v", requests, percentile(times, 50))
	return []figure{
		{Name: "create of 500 requests, p50", Value: value(inMilliseconds(percentile(times, 50))), Unit: "ms", Goal: b.goal(15, 25)},
		{Name: "create of 500 requests, p99", Value: value(inMilliseconds(percentile(times, 99))), Unit: "ms"},
	}, nil
}

// timeCreates creates n batches one after the other and returns how long each took.
func (c *client) timeCreates(ctx context.Context, store string, body []byte, n int) ([]time.Duration, error) {
	times := make([]time.Duration, n)
	for i := range times {
		start := time.Now()
		if _, err := c.create(ctx, store, false, body); err != nil {
			return nil, err
		}
		times[i] = time.Since(start)
	}
	return times, nil
}

// polls measures how many polls of a finished batch of 500 requests the service
// answers over 4 connections.
func (b *bench) polls(ctx context.Context) ([]figure, error) {
	const requests = 500
	w, err := b.setUp(ctx, "polls")
	if err != nil {
		return nil, err
	}
	defer w.end()
	svc := w.service
	t, err := svc.create(ctx, storeName(0), true, batchBody(requests))
	if err != nil {
		return nil, err
	}
	if err := svc.await(ctx, t); err != nil {
		return nil, err
	}
	var figures []figure
	for _, kind := range []struct {
		name      string
		responses bool
	}{
		{"polls with responses=false", false},
		{"polls with 500 responses", true},
	} {
		perSecond, err := b.pollRate(ctx, svc.client, t, kind.responses)
		if err != nil {
			return nil, err
		}
		b.say("%s: %.0f/s", kind.name, perSecond)
		figures = append(figures, figure{Name: kind.name, Value: value(perSecond), Unit: "/s"})
	}
	return figures, nil
}

// pollRate polls for a while over 4 connections and returns the polls a second.
func (b *bench) pollRate(ctx context.Context, c *client, t ticket, responses bool) (float64, error) {
	return rateOf(ctx, 4, b.length, func(ctx context.Context, _ int) error {
		_, err := c.status(ctx, t, responses)
		return err
	})
}

// rateOf has workers call f for a while and returns the calls a second. f gets a number,
// another one each time.
func rateOf(ctx context.Context, workers int, length time.Duration, f func(ctx context.Context, n int) error) (float64, error) {
	var calls atomic.Int64
	start := time.Now()
	err := atOnce(ctx, workers, func(ctx context.Context, _ int) error {
		for time.Since(start) < length {
			if err := f(ctx, int(calls.Add(1))); err != nil {
				return err
			}
		}
		return nil
	})
	return rate(int(calls.Load()), time.Since(start)), err
}
