package main

import (
	"context"
	"fmt"
	"io"
	"strconv"

	"github.com/sheafapi/sheaf/bench/internal/table"
)

// scaling holds the results of a number of nodes over one database.
type scaling struct {
	Nodes   int          `json:"nodes"`
	Creates float64      `json:"createsPerSecond"` // of 20 requests
	Runs    []scalingRun `json:"scenarios"`
}

// scalingRun is one scenario on a number of nodes.
type scalingRun struct {
	Scenario string    `json:"scenario"`
	Upstream string    `json:"upstream"`
	Rates    []float64 `json:"callsPerSecond"` // by round
	Median   float64   `json:"median"`
	Cost     *cost     `json:"cost"`
}

// nodes measures the throughput of different numbers of nodes over one database. Creates and polls
// go to the nodes in turn.
func (b *bench) nodes(ctx context.Context, r *report) error {
	for _, n := range b.nodeCounts {
		s := scaling{Nodes: n}
		var err error
		if s.Creates, err = b.createRate(ctx, n); err != nil {
			return fmt.Errorf("%d nodes: creates: %w", n, err)
		}
		b.say("%d nodes: %.0f creates/s", n, s.Creates)
		for _, sc := range scenarios {
			if sc.theme != "parallel" && sc.theme != "stores" {
				continue
			}
			if b.small {
				sc = sc.warmUp()
			}
			run, err := b.scale(ctx, n, sc)
			if err != nil {
				return fmt.Errorf("%d nodes: %s: %w", n, sc.name, err)
			}
			b.say("%d nodes: %s, upstream of %s: %.0f calls/s", n, sc.name, run.Upstream, run.Median)
			s.Runs = append(s.Runs, run)
		}
		r.Scaling = append(r.Scaling, s)
	}
	return nil
}

// cluster is an upstream and nodes over one new database.
type cluster struct {
	upstream *upstream
	database database
	nodes    []*service
	*client  // calls the nodes in turn
}

func (c *cluster) end() {
	for _, n := range c.nodes {
		n.kill()
	}
	c.upstream.stop()
}

func (b *bench) startNodes(ctx context.Context, n int, upstreamFlags ...string) (*cluster, error) {
	w, err := b.setUp(ctx, "nodes", upstreamFlags...)
	if err != nil {
		return nil, err
	}
	c := &cluster{upstream: w.upstream, database: w.database, nodes: []*service{w.service}}
	for len(c.nodes) < n {
		s, err := b.startService(ctx, w.upstream.template, w.database)
		if err != nil {
			c.end()
			return nil, err
		}
		c.nodes = append(c.nodes, s)
	}
	var addresses []string
	for _, s := range c.nodes {
		addresses = append(addresses, s.client.nodes...)
	}
	c.client = newClient(addresses...)
	return c, nil
}

// scale runs a scenario on n nodes, in b.rounds rounds.
func (b *bench) scale(ctx context.Context, n int, s scenario) (scalingRun, error) {
	out := scalingRun{Scenario: s.name, Upstream: milliseconds(s.latency)}
	c, err := b.startNodes(ctx, n, "-latency", s.latency.String())
	if err != nil {
		return out, err
	}
	defer c.end()
	m, err := b.startMeter(ctx, c.database, c.nodes...)
	if err != nil {
		return out, err
	}
	for range b.rounds {
		took, err := c.round(ctx, s)
		if err != nil {
			return out, err
		}
		m.count(s.calls() + s.warmUp().calls())
		out.Rates = append(out.Rates, rate(s.calls(), took))
	}
	out.Median = median(out.Rates)
	out.Cost, err = m.read(ctx)
	return out, err
}

// createRate returns how many batches of 20 requests per second n nodes create, over 8
// connections and for many stores, while the upstream never answers.
func (b *bench) createRate(ctx context.Context, n int) (float64, error) {
	const connections, stores = 8, 400
	c, err := b.startNodes(ctx, n, "-silent")
	if err != nil {
		return 0, err
	}
	defer c.end()
	body := batchBody(backlogRequests)
	if _, err := c.timeCreates(ctx, storeName(0), body, 100); err != nil { // warm-up
		return 0, err
	}
	return rateOf(ctx, connections, b.length, func(ctx context.Context, n int) error {
		_, err := c.create(ctx, storeName(n%stores), false, body)
		return err
	})
}

const scalingText = `Nodes over one database, all on this machine. Creates and polls go to them in turn. Sub-requests per second,
medians of %d rounds.
`

// printScaling writes the table of nodes, and the cost of their work.
func printScaling(w io.Writer, rounds int, all []scaling) error {
	fmt.Fprintf(w, scalingText, rounds)
	headings := []string{"nodes", "creates/s of 20"}
	for _, run := range all[0].Runs {
		headings = append(headings, run.Scenario+", "+run.Upstream)
	}
	t := table.New(headings...)
	var costs []namedCost
	for _, s := range all {
		cells := []string{strconv.Itoa(s.Nodes), whole(s.Creates)}
		for _, run := range s.Runs {
			cells = append(cells, whole(run.Median))
			costs = append(costs, namedCost{fmt.Sprintf("nodes: %d, %s, %s", s.Nodes, run.Scenario, run.Upstream), run.Cost})
		}
		t.Add(cells...)
	}
	if err := t.Print(w); err != nil {
		return err
	}
	return printCosts(w, costs)
}
