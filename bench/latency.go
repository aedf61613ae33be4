package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// createLatency measures creates of 500 requests, one after the other, while the store's first
// batch runs against a slow upstream.
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
		{Name: "create of 500 requests, p50", Value: value(inMilliseconds(percentile(times, 50))), Unit: "ms", Goal: b.goal(5, 12)},
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

// The amounts of polls.
const (
	pollRequests    = 500
	pollAnswer      = 1 << 10 // bytes of each answer's body
	pollConnections = 64
	pollReaders     = 200
)

// polls measures how many polls of a finished batch the service answers, without and with its
// responses. For comparison with the latter, it also measures a server that only copies as many
// bytes. The drivers are cheap, because they share the machine with the service.
func (b *bench) polls(ctx context.Context) ([]figure, error) {
	w, err := b.setUp(ctx, "polls", "-answer", strconv.Itoa(pollAnswer))
	if err != nil {
		return nil, err
	}
	defer w.end()
	svc := w.service
	t, err := svc.create(ctx, storeName(0), true, batchBody(pollRequests))
	if err != nil {
		return nil, err
	}
	if err := svc.await(ctx, t); err != nil {
		return nil, err
	}
	whole, err := svc.status(ctx, t, true)
	if err != nil {
		return nil, err
	}
	copier, err := b.startUpstream(ctx, "-answer", strconv.Itoa(len(whole)))
	if err != nil {
		return nil, err
	}
	defer copier.stop()

	target := batchPath(t.store, "ticket="+t.id)
	polls, err := b.pollRate(ctx, svc.nodes[0], target+"&responses=false", pollConnections)
	if err != nil {
		return nil, err
	}
	b.say("polls with responses=false: %.0f/s", polls)
	var full, bare []float64
	for range b.rounds {
		for _, side := range []struct {
			rates        *[]float64
			node, target string
		}{{&bare, strings.TrimSuffix(copier.template, "/api/v3/{storeId}"), "/"}, {&full, svc.nodes[0], target}} {
			r, err := b.pollRate(ctx, side.node, side.target, 4)
			if err != nil {
				return nil, err
			}
			*side.rates = append(*side.rates, r)
		}
	}
	few := svc.memory().peak
	if _, err := b.pollRate(ctx, svc.nodes[0], target, pollReaders); err != nil {
		return nil, err
	}
	many := svc.memory().peak
	b.say("polls with %d responses of 1 KiB: %.0f/s; copying their bytes: %.0f/s", pollRequests, median(full), median(bare))
	return []figure{
		{Name: fmt.Sprintf("polls with responses=false, %d connections", pollConnections), Value: value(polls), Unit: "/s", Least: b.goal(20_000, 0)},
		{Name: fmt.Sprintf("polls with %d responses of 1 KiB, 4 connections", pollRequests), Value: value(median(full)), Unit: "/s"},
		{Name: "for comparison: a server that only copies the same number of bytes", Value: value(median(bare)), Unit: "/s"},
		{Name: "memory at the peak, 4 readers", Value: megabytes(few), Unit: "MB"},
		{Name: fmt.Sprintf("memory at the peak, %d readers", pollReaders), Value: megabytes(many), Unit: "MB", Goal: 300},
	}, nil
}

// pollRate polls for b.length over a number of connections and returns the polls per second.
func (b *bench) pollRate(ctx context.Context, node, target string, connections int) (float64, error) {
	pollers := make([]*poller, connections)
	for i := range pollers {
		p, err := newPoller(node, target)
		if err != nil {
			return 0, err
		}
		defer p.conn.Close()
		pollers[i] = p
	}
	var calls atomic.Int64
	start := time.Now()
	err := atOnce(ctx, connections, func(ctx context.Context, worker int) error {
		for time.Since(start) < b.length && ctx.Err() == nil {
			if err := pollers[worker].poll(); err != nil {
				return err
			}
			calls.Add(1)
		}
		return nil
	})
	return rate(int(calls.Load()), time.Since(start)), err
}

// rateOf calls f from a number of workers for the given time and returns the calls per second. Each
// call gets a different number.
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
