package main

import (
	"context"
	"fmt"
)

// observe measures what metrics and the usual log cost: the same work by a service with them and
// by one without, in turn.
func (b *bench) observe(ctx context.Context) ([]figure, error) {
	var out []figure
	for _, s := range scenarios {
		if s.latency > 0 || s.theme == "stores" {
			continue
		}
		s.batches *= 3 // longer rounds: what is looked for is smaller than what machines differ by from one moment to the next
		if b.small {
			s.batches, s.requests = 1, 50
		}
		ratio, err := b.observed(ctx, s)
		if err != nil {
			return nil, err
		}
		out = append(out, figure{Name: "metrics and the usual log: the time for " + s.name + ", three times as many batches, of that without them", Value: value(ratio), Goal: 1.03})
	}
	return out, nil
}

// observed returns the median of the rounds' ratios.
func (b *bench) observed(ctx context.Context, s scenario) (float64, error) {
	u, err := b.startUpstream(ctx)
	if err != nil {
		return 0, err
	}
	defer u.stop()
	var services [2]*service // with, and without
	for i, flags := range [][]string{{"--log-level", "info"}, {"--metrics", "off", "--log-level", "error"}} {
		db, err := b.newDatabase(ctx, fmt.Sprintf("observe-%s-%d", s.theme, i))
		if err != nil {
			return 0, err
		}
		if services[i], err = b.startService(ctx, u.template, db, flags...); err != nil {
			return 0, err
		}
		defer services[i].kill()
	}
	for _, service := range services {
		if _, err := service.run(ctx, s); err != nil {
			return 0, fmt.Errorf("warm-up: %w", err)
		}
	}
	var ratios []float64
	for round := range 2 * b.rounds {
		var took [2]float64
		for turn := range 2 {
			i := (round + turn) % 2 // each is the first one as often
			d, err := services[i].run(ctx, s)
			if err != nil {
				return 0, err
			}
			took[i] = d.Seconds()
		}
		ratios = append(ratios, took[0]/took[1])
		b.say("%s, round %d: %.3f s with metrics and log, %.3f s without", s.name, round+1, took[0], took[1])
	}
	return median(ratios), nil
}
