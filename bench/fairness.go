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
)

// counter is an upstream in this process that counts requests by store and can have a rate limit.
type counter struct {
	server   *httptest.Server
	template string
	latency  time.Duration
	limit    int // requests per second, counted from the first request; 0: none

	mu      sync.Mutex
	first   time.Time
	second  int // in which the last request arrived
	used    int // requests in that second
	refused int
	arrived map[string][]time.Time
}

func startCounter(latency time.Duration, limit int) *counter {
	u := &counter{latency: latency, limit: limit, arrived: map[string][]time.Time{}}
	u.server = httptest.NewServer(http.HandlerFunc(u.answer))
	u.template = u.server.URL + "/{storeId}"
	return u
}

func (u *counter) stop() {
	u.server.CloseClientConnections()
	u.server.Close()
}

func (u *counter) answer(w http.ResponseWriter, r *http.Request) {
	ok := u.admit(strings.Split(r.URL.Path, "/")[1], time.Now())
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		return
	}
	<-time.After(u.latency)
	if !ok {
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusTooManyRequests)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	io.WriteString(w, upstreamAnswer)
}

func (u *counter) admit(store string, now time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.arrived[store] = append(u.arrived[store], now)
	if u.first.IsZero() {
		u.first = now
	}
	if s := int(now.Sub(u.first) / time.Second); s != u.second {
		u.second, u.used = s, 0
	}
	if u.used++; u.limit > 0 && u.used > u.limit {
		u.refused++
		return false
	}
	return true
}

// since returns how many requests of a store arrived between two times.
func (u *counter) since(store string, from, to time.Time) (n int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, t := range u.arrived[store] {
		if t.After(from) && !t.After(to) {
			n++
		}
	}
	return n
}

// governor measures three stores that share a credential. The upstream allows ten calls a second and
// answers 429 to the rest. It measures both with and without a configured rate.
func (b *bench) governor(ctx context.Context) (out []figure, err error) {
	const stores = 3
	requests := 100
	if b.small {
		requests = 10
	}
	for _, mode := range []struct {
		name  string
		flags []string
	}{{"pace learned", nil}, {"--rate 600/m", []string{"--rate", "600/m"}}} {
		u := startCounter(20*time.Millisecond, 10)
		db, err := b.newDatabase(ctx, "governor"+strings.Trim(mode.name, "-/ ")[:4])
		if err != nil {
			return nil, err
		}
		svc, err := b.startService(ctx, u.template, db, mode.flags...)
		if err != nil {
			return nil, err
		}
		took, err := svc.run(ctx, scenario{stores: stores, batches: 1, requests: requests})
		svc.kill()
		u.stop()
		if err != nil {
			return nil, err
		}
		calls := stores * requests
		b.say("%d calls, 10 a second allowed, %s: %.1f s, %d refused", calls, mode.name, took.Seconds(), u.refused)
		out = append(out,
			figure{Name: fmt.Sprintf("%d calls of 3 stores, 10 a second allowed, %s", calls, mode.name), Value: value(took.Seconds()), Unit: "s", Goal: 1.1 * float64(calls) / 10},
			figure{Name: "refused calls, " + mode.name, Value: value(100 * float64(u.refused) / float64(calls)), Unit: "%", Goal: 3})
	}
	return out, nil
}

// fairness measures how much a store is slowed by many neighbors, or by neighbors with many
// requests at once.
func (b *bench) fairness(ctx context.Context) ([]figure, error) {
	var out []figure
	for _, atOnce := range []string{"4096", "50"} {
		f, err := b.newcomers(ctx, atOnce)
		if err != nil {
			return nil, err
		}
		out = append(out, f...)
	}
	f, err := b.shares(ctx)
	return append(out, f...), err
}

// newcomers measures how long the first request of an idle store takes to arrive while 200 other
// stores are busy.
func (b *bench) newcomers(ctx context.Context, atOnce string) ([]figure, error) {
	busy, arrivals := 200, 30
	if b.small {
		busy, arrivals = 60, 2
	}
	u := startCounter(20*time.Millisecond, 0)
	defer u.stop()
	db, err := b.newDatabase(ctx, "newcomers"+atOnce)
	if err != nil {
		return nil, err
	}
	svc, err := b.startService(ctx, u.template, db, "--max-outbound", "1024,stores="+atOnce)
	if err != nil {
		return nil, err
	}
	defer svc.kill()
	// Three batches of 500 requests keep a store busy for at least 30 s.
	if _, err := svc.createAll(ctx, scenario{stores: busy, batches: 3, requests: 500}, batchBody(500)); err != nil {
		return nil, err
	}
	var times []time.Duration
	for i := range arrivals {
		store := idleStore(i)
		began := time.Now()
		t, err := svc.create(ctx, store, false, batchBody(1))
		if err != nil {
			return nil, err
		}
		if err := svc.await(ctx, t); err != nil {
			return nil, err
		}
		u.mu.Lock()
		times = append(times, u.arrived[store][0].Sub(began))
		u.mu.Unlock()
	}
	name := fmt.Sprintf("first request of a new store beside %d busy ones, %s at once", busy, atOnce)
	b.say("%s: p50 %v, longest %v", name, percentile(times, 50), slices.Max(times))
	return []figure{
		{Name: name + ", p50", Value: value(inMilliseconds(percentile(times, 50))), Unit: "ms"},
		{Name: name + ", longest of " + fmt.Sprint(arrivals), Value: value(inMilliseconds(slices.Max(times))), Unit: "ms", Goal: 2000},
	}, nil
}

// shares measures how much throughput a store gets when it joins eight busy stores, each of which
// tries to keep a hundred requests in flight.
func (b *bench) shares(ctx context.Context) ([]figure, error) {
	const hogs, outbound, latency = 8, 128, 20 * time.Millisecond
	u := startCounter(latency, 0)
	defer u.stop()
	db, err := b.newDatabase(ctx, "shares")
	if err != nil {
		return nil, err
	}
	svc, err := b.startService(ctx, u.template, db, "--max-outbound", fmt.Sprint(outbound))
	if err != nil {
		return nil, err
	}
	defer svc.kill()
	window := 4 * b.length / 3
	measure := func(store string, parallel bool) (perSecond float64, err error) {
		for range 8 {
			if _, err := svc.create(ctx, store, parallel, batchBody(500)); err != nil {
				return 0, err
			}
		}
		from := time.Now().Add(window / 4)
		to := from.Add(window)
		select {
		case <-time.After(time.Until(to)):
		case <-ctx.Done():
			return 0, ctx.Err()
		}
		return rate(u.since(store, from, to), window), nil
	}
	alone, err := measure("alone", false)
	if err != nil {
		return nil, err
	}
	for h := range hogs {
		for range 20 {
			if _, err := svc.create(ctx, storeName(h), true, batchBody(500)); err != nil {
				return nil, err
			}
		}
	}
	narrow, err := measure("narrow", false)
	if err != nil {
		return nil, err
	}
	wide, err := measure("wide", true)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	var all int
	u.mu.Lock()
	stores := len(u.arrived)
	u.mu.Unlock()
	for h := range hogs {
		all += u.since(storeName(h), now.Add(-window), now)
	}
	mean := rate(all, window) / hogs
	b.say("%d stores; sequential: %.0f/s alone, %.0f/s beside %d parallel stores; parallel: %.0f/s, mean of the others %.0f/s", stores, alone, narrow, hogs, wide, mean)
	return []figure{
		{Name: "a store with sequential requests beside 8 with 100 at once: share of its rate alone", Value: value(narrow / alone), Unit: "", Least: 0.8},
		{Name: "a store with 100 at once that joins 8 such stores: share of their rate", Value: value(wide / mean), Unit: "", Least: 0.9},
	}, nil
}
