package main

import (
	"context"
	"fmt"
)

// observe measures what metrics and the usual log cost: the same work by a service with them and
// by one without, in turn. The CPU time tells more than the time: what is looked for is smaller than
// what a machine differs by from one moment to the next.
func (b *bench) observe(ctx context.Context) ([]figure, error) {
	var out []figure
	for _, s := range scenarios {
		if s.latency > 0 || s.theme == "stores" {
			continue
		}
		s.batches *= 3
		if b.small {
			s.batches, s.requests = 1, 50
		}
		took, busy, err := b.observed(ctx, s)
		if err != nil {
			return nil, err
		}
		name := "metrics and the usual log, " + s.name + ", three times as many batches: "
		out = append(out, figure{Name: name + "time, relative to without", Value: value(took), Goal: 1.03})
		if busy > 0 { // only Linux tells
			out = append(out, figure{Name: name + "Sheaf's CPU time, relative to without", Value: value(busy), Goal: 1.03})
		}
	}
	return out, nil
}

// observed returns the medians of the rounds' ratios, of time and of the service's CPU time.
func (b *bench) observed(ctx context.Context, s scenario) (took, busy float64, err error) {
	u, err := b.startUpstream(ctx)
	if err != nil {
		return 0, 0, err
	}
	defer u.stop()
	var services [2]*service // with, and without
	for i, flags := range [][]string{{"--log-level", "info"}, {"--metrics", "off", "--log-level", "error"}} {
		db, err := b.newDatabase(ctx, fmt.Sprintf("observe-%s-%d", s.theme, i))
		if err != nil {
			return 0, 0, err
		}
		if services[i], err = b.startService(ctx, u.template, db, flags...); err != nil {
			return 0, 0, err
		}
		defer services[i].kill()
		if _, err := services[i].run(ctx, s); err != nil {
			return 0, 0, fmt.Errorf("warm-up: %w", err)
		}
	}
	var times, busies []float64
	for round := range 2 * b.rounds {
		var took, busy [2]float64
		for turn := range 2 {
			i := (round + turn) % 2 // each is the first one as often
			before := processTime(services[i].cmd.Process.Pid)
			d, err := services[i].run(ctx, s)
			if err != nil {
				return 0, 0, err
			}
			took[i], busy[i] = d.Seconds(), (processTime(services[i].cmd.Process.Pid) - before).Seconds()
		}
		times = append(times, took[0]/took[1])
		if busy[1] > 0 {
			busies = append(busies, busy[0]/busy[1])
		}
		b.say("%s, round %d: %.3f s, %.2f s of CPU with metrics and log; %.3f s, %.2f s without", s.name, round+1, took[0], busy[0], took[1], busy[1])
	}
	if len(busies) > 0 {
		busy = median(busies)
	}
	return median(times), busy, nil
}
