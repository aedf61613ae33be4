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

// growth holds the curves of the service's times and memory over its batches and stores.
type growth struct {
	Batches []batchesPoint `json:"batches"`
	Stores  []storesPoint  `json:"stores"`
}

// batchesPoint holds the measurements with a number of batches in the database.
type batchesPoint struct {
	Batches int      `json:"batches"`
	Create  quantile `json:"createMilliseconds"` // of 20 requests
	Claim   quantile `json:"claimMilliseconds"`  // from the create to the arrival of an idle queue's request
	Status  quantile `json:"statusMilliseconds"` // without responses
	Memory  int64    `json:"memoryBytes"`        // of the service, after these calls; -1: not known
}

// storesPoint holds the measurements with a number of busy stores, each with one call that takes
// growthLatency.
type storesPoint struct {
	Stores  int     `json:"stores"`
	Longest float64 `json:"longestWaitSeconds"` // from a create's answer to the arrival of its call
	Ideal   float64 `json:"idealWaitSeconds"`   // the longest wait if only the limit on calls in flight caused waits
	Peak    int64   `json:"peakBytes"`          // of the service; -1: not known
}

// quantile holds quantiles of a distribution, in milliseconds.
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

// database returns the name of the kind of database.
func (b *bench) database() string {
	if b.cluster != nil {
		return onPostgres
	}
	return onSQLite
}

// growBatches measures with more and more finished batches, spread over the idle stores. It
// restarts the service for each number.
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
		at := batchesPoint{Batches: size}
		if at.Create, at.Claim, at.Status, err = b.timeAll(ctx, svc, upstream, ticket); err != nil {
			return err
		}
		at.Memory = svc.memory().resident
		b.say("%s batches: create %.2f ms, claim %.2f ms, status %.2f ms", table.Thousands(size), at.Create.P50, at.Claim.P50, at.Status.P50)
		g.Batches = append(g.Batches, at)
	}
	return nil
}

// models runs one batch in each of the measured stores. The history consists of copies of these
// batches.
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

// addHistory adds finished batches. No service may have the database open.
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

// growStores keeps a number of stores busy at once and measures how long each waits.
func (b *bench) growStores(ctx context.Context, stores int) (g storesPoint, err error) {
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
	return storesPoint{
		Stores: stores, Longest: longest.Seconds(), Ideal: float64((stores-1)/growthOutbound) * growthLatency.Seconds(), Peak: svc.memory().peak,
	}, nil
}

const growthText = `Growth by the number of finished batches in the database, in milliseconds: creates of 20 requests, claims (from the create to the
arrival of the request), and polls without responses. Growth by the number of stores at work at once, each with one call that takes %v.
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
	t = table.New("stores at work", "longest wait", "ideal wait of the last store", "peak memory")
	for _, at := range g.Stores {
		t.Add(table.Thousands(at.Stores), fmt.Sprintf("%.2f s", at.Longest), fmt.Sprintf("%.0f s", at.Ideal), memoryText(at.Peak))
	}
	return t.Print(w)
}

// figures returns the figures that have goals.
func (g *growth) figures() []figure {
	peak := slices.MaxFunc(g.Stores, func(a, b storesPoint) int { return a.Stores - b.Stores })
	return []figure{{
		Name: fmt.Sprintf("memory with %s stores at work", table.Thousands(peak.Stores)), Value: megabytes(peak.Peak), Unit: "MB", Goal: 400,
	}}
}
