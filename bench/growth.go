package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sheafapi/sheaf/bench/internal/table"
)

// growth are the curves of what the service costs over what it holds and does.
type growth struct {
	Batches []grownBatches `json:"batches"`
	Stores  []grownStores  `json:"stores"`
}

// grownBatches is what was measured with a number of batches in the database.
type grownBatches struct {
	Batches int      `json:"batches"`
	Create  quantile `json:"createMilliseconds"` // of 20 requests
	Claim   quantile `json:"claimMilliseconds"`  // from the create to the arrival of an idle queue's request
	Status  quantile `json:"statusMilliseconds"` // without responses
	Memory  int64    `json:"memoryBytes"`        // of the service, after that; -1: not known
}

// grownStores is what was measured with a number of stores at work, each with one call
// that takes growthLatency.
type grownStores struct {
	Stores  int     `json:"stores"`
	Longest float64 `json:"longestWaitSeconds"` // from a create's answer to the arrival of its call
	Ideal   float64 `json:"idealWaitSeconds"`   // of the last one, if nothing but the bound on calls under way cost time
	Peak    int64   `json:"peakBytes"`          // of the service; -1: not known
}

// quantile is a distribution, in milliseconds.
type quantile struct{ P50, P99 float64 }

func quantiles(times []time.Duration) quantile {
	return quantile{inMilliseconds(percentile(times, 50)), inMilliseconds(percentile(times, 99))}
}

const (
	growthLatency  = time.Second
	growthOutbound = 1024 // the service's default for --max-outbound
	growthLimit    = 10 * time.Minute
)

// growth measures the curves.
func (b *bench) growth(ctx context.Context, r *report) error {
	batches, stores := []int{1_000, 10_000, 100_000, 1_000_000}, []int{1, 10, 100, 1_000, 10_000}
	if b.small {
		batches, stores = []int{1_000, 2_000}, []int{1, 20}
	}
	r.Growth = &growth{}
	if err := b.growBatches(ctx, r.Growth, batches); err != nil {
		return err
	}
	for _, n := range stores {
		g, err := b.growStores(ctx, n)
		if err != nil {
			return fmt.Errorf("%d stores: %w", n, err)
		}
		b.say("%s stores at work: the longest wait is %.2f s", table.Thousands(n), g.Longest)
		r.Growth.Stores = append(r.Growth.Stores, g)
	}
	if b.plots != "" {
		return r.Growth.plot(b.plots, b.database())
	}
	return nil
}

// database names what is measured.
func (b *bench) database() string {
	if b.cluster != nil {
		return onPostgres
	}
	return onSQLite
}

// growBatches measures with more and more finished batches, as many over all stores of
// the theme backlog, and a service that was just started.
func (b *bench) growBatches(ctx context.Context, g *growth, sizes []int) error {
	upstream := startBell()
	defer upstream.stop()
	db, err := b.newDatabase(ctx, "growth")
	if err != nil {
		return err
	}
	svc, err := b.startService(ctx, upstream.template, db)
	if err != nil {
		return err
	}
	defer func() { svc.kill() }()
	ticket, err := b.models(ctx, svc.client)
	if err != nil {
		return err
	}
	there := idleStores
	for _, size := range sizes {
		svc.kill()
		if err := b.addHistory(ctx, db, size-there); err != nil {
			return err
		}
		there = size
		if svc, err = b.startService(ctx, upstream.template, db); err != nil {
			return err
		}
		at := grownBatches{Batches: size}
		if at.Create, at.Claim, at.Status, err = b.timeAll(ctx, svc, upstream, ticket); err != nil {
			return err
		}
		at.Memory = svc.memory().resident
		b.say("%s batches: create %.2f ms, claim %.2f ms, status %.2f ms", table.Thousands(size), at.Create.P50, at.Claim.P50, at.Status.P50)
		g.Batches = append(g.Batches, at)
	}
	return nil
}

// models makes the finished batches that the history is copied from, one in each of the
// stores that are measured.
func (b *bench) models(ctx context.Context, c *client) (t ticket, err error) {
	for store := range idleStores {
		if t, err = c.create(ctx, idleStore(store), false, batchBody(modelRequests)); err != nil {
			return t, err
		}
		if err := c.await(ctx, t); err != nil {
			return t, err
		}
	}
	return t, nil
}

// addHistory adds finished batches while no service has the database open.
func (b *bench) addHistory(ctx context.Context, db database, n int) error {
	say := func(done int) { b.say("%s more finished batches are in the tables", table.Thousands(done)) }
	if db.url != "" {
		return db.addHistory(ctx, n, say)
	}
	return addSQLiteHistory(ctx, strings.TrimPrefix(db.flags[1], "sqlite:"), n, say)
}

// timeAll times creates, claims and polls, each after a warm-up.
func (b *bench) timeAll(ctx context.Context, svc *service, upstream *bell, t ticket) (create, claim, status quantile, err error) {
	for _, n := range []int{b.times / 2, b.times} {
		creates, err := svc.timeCreates(ctx, heldStore(0), batchBody(backlogRequests), n)
		if err != nil {
			return create, claim, status, err
		}
		claims, err := upstream.timeClaims(ctx, svc.client, idleStores, n)
		if err != nil {
			return create, claim, status, err
		}
		polls := make([]time.Duration, n)
		for i := range polls {
			start := time.Now()
			if _, err := svc.status(ctx, t, false); err != nil {
				return create, claim, status, err
			}
			polls[i] = time.Since(start)
		}
		create, claim, status = quantiles(creates), quantiles(claims), quantiles(polls)
	}
	return create, claim, status, nil
}

// growStores has as many stores at work at once and times how long each waits.
func (b *bench) growStores(ctx context.Context, stores int) (g grownStores, err error) {
	ctx, cancel := context.WithTimeout(ctx, growthLimit)
	defer cancel()
	var mu sync.Mutex
	arrived := map[string]time.Time{}
	all := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		at := time.Now()
		io.Copy(io.Discard, r.Body)
		mu.Lock()
		arrived[strings.Split(r.URL.Path, "/")[1]] = at
		if len(arrived) == stores {
			close(all)
		}
		mu.Unlock()
		pause(r.Context(), growthLatency)
		w.WriteHeader(http.StatusCreated)
		io.WriteString(w, upstreamAnswer)
	}))
	defer server.Close()
	db, err := b.newDatabase(ctx, fmt.Sprint("stores-", stores))
	if err != nil {
		return g, err
	}
	svc, err := b.startService(ctx, server.URL+"/{storeId}", db)
	if err != nil {
		return g, err
	}
	defer svc.kill()
	body := batchBody(1)
	created := make([]time.Time, stores)
	const connections = 8
	err = atOnce(ctx, connections, func(ctx context.Context, worker int) error {
		for store := worker; store < stores; store += connections {
			if _, err := svc.create(ctx, storeName(store), false, body); err != nil {
				return err
			}
			created[store] = time.Now()
		}
		return nil
	})
	if err != nil {
		return g, err
	}
	select {
	case <-all:
	case <-ctx.Done():
		return g, fmt.Errorf("%d of %d calls arrived", len(arrived), stores)
	}
	mu.Lock()
	defer mu.Unlock()
	longest := time.Duration(0)
	for store, at := range created {
		longest = max(longest, arrived[storeName(store)].Sub(at))
	}
	return grownStores{
		Stores: stores, Longest: longest.Seconds(), Ideal: float64((stores-1)/growthOutbound) * growthLatency.Seconds(), Peak: svc.memory().peak,
	}, nil
}

const growthText = `Growth: by the number of finished batches in the database (creates of 20 requests; claims from the create to the arrival of the
request; polls without responses; milliseconds), and by the number of stores at work at once, each with one call that takes %v.
`

// print writes the tables.
func (g *growth) print(w io.Writer) error {
	fmt.Fprintf(w, growthText, growthLatency)
	t := table.New("batches", "create p50", "p99", "claim p50", "p99", "status p50", "p99", "memory")
	for _, at := range g.Batches {
		row := []string{table.Thousands(at.Batches)}
		for _, q := range []quantile{at.Create, at.Claim, at.Status} {
			row = append(row, fmt.Sprintf("%.2f", q.P50), fmt.Sprintf("%.2f", q.P99))
		}
		t.Add(append(row, memoryText(at.Memory))...)
	}
	if err := t.Print(w); err != nil {
		return err
	}
	t = table.New("stores at work", "longest wait", "the last store's wait, if all come at once", "peak memory")
	for _, at := range g.Stores {
		t.Add(table.Thousands(at.Stores), fmt.Sprintf("%.2f s", at.Longest), fmt.Sprintf("%.0f s", at.Ideal), memoryText(at.Peak))
	}
	return t.Print(w)
}

// figures are what the goals speak of.
func (g *growth) figures() []figure {
	peak := slices.MaxFunc(g.Stores, func(a, b grownStores) int { return a.Stores - b.Stores })
	return []figure{{
		Name: fmt.Sprintf("memory with %s stores at work", table.Thousands(peak.Stores)), Value: megabytes(peak.Peak), Unit: "MB", Goal: 400,
	}}
}
