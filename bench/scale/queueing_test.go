package main

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

// exponential returns the distribution with this mean.
func exponential(mean time.Duration) distribution {
	return func(u float64) time.Duration { return time.Duration(-math.Log(u) * float64(mean)) }
}

func always(d time.Duration) distribution { return func(float64) time.Duration { return d } }

// poisson returns batches of one request that come at random, this many a second. Each
// belongs to the store that of names.
func poisson(n int, perSecond float64, of func(i int) int32) []batch {
	r := rand.New(rand.NewPCG(7, 7))
	batches := make([]batch, n)
	at := 0.0
	for i := range batches {
		at += r.ExpFloat64() / perSecond * 1e9
		batches[i] = batch{created: moment(at), store: of(i), next: none, size: 1}
	}
	return batches
}

// unbounded returns options in which nothing costs time but what a test sets.
func unbounded(stores int) *options {
	return &options{Seed: 3, Stores: stores, StoresAtOnce: 1 << 20, MaxOutbound: 1 << 20, Connections: 2, latencies: always(0)}
}

// simulateBatches runs the batches, all of which have to end.
func simulateBatches(t *testing.T, o *options, nodes int, batches []batch) *sim {
	t.Helper()
	s := newSim(o, nodes, batches)
	s.run()
	if s.open != 0 {
		t.Fatalf("%d batches never ended", s.open)
	}
	return s
}

// meanOf returns the mean of a time over all batches but the first tenth.
func meanOf(batches []batch, of func(b *batch) moment) float64 {
	sum, skip := 0.0, len(batches)/10
	for i := skip; i < len(batches); i++ {
		sum += float64(of(&batches[i])) / 1e9
	}
	return sum / float64(len(batches)-skip)
}

func near(t *testing.T, what string, got, want float64) {
	t.Helper()
	t.Logf("%s: %.3f ms, by theory %.3f", what, got*1e3, want*1e3)
	if math.Abs(got-want) > 0.04*want {
		t.Errorf("%s: mean of %.3f ms, want %.3f", what, got*1e3, want*1e3)
	}
}

// One store is one server: calls of random length that come at random wait as in M/M/1.
func TestStoreIsMM1(t *testing.T) {
	const mean = 10 * time.Millisecond
	for _, busy := range []float64{0.3, 0.7, 0.85} {
		o := unbounded(1)
		o.latencies = exponential(mean)
		s := simulateBatches(t, o, 3, poisson(600_000, busy/mean.Seconds(), func(int) int32 { return 0 }))
		wait := meanOf(s.batches, func(b *batch) moment { return b.first - b.created })
		near(t, "M/M/1", wait, busy/(1-busy)*mean.Seconds())
	}
}

// A node's places are as many servers: stores wait for them as in M/M/c.
func TestPlacesAreMMc(t *testing.T) {
	const mean, places, busy, n = 10 * time.Millisecond, 4, 0.8, 400_000
	o := unbounded(n)
	o.StoresAtOnce, o.latencies = places, exponential(mean)
	s := simulateBatches(t, o, 1, poisson(n, busy*places/mean.Seconds(), func(i int) int32 { return int32(i) }))
	wait := meanOf(s.batches, func(b *batch) moment { return b.first - b.created })
	near(t, "M/M/4", wait, erlangC(places, busy*places)/(places*(1-busy))*mean.Seconds())
}

// The same places spread over nodes are as good, but for the time that an offer takes.
func TestNodesShareWork(t *testing.T) {
	const mean, busy, n = 100 * time.Millisecond, 0.8, 100_000
	o := unbounded(n)
	o.StoresAtOnce, o.latencies = 2, exponential(mean)
	s := simulateBatches(t, o, 2, poisson(n, busy*4/mean.Seconds(), func(i int) int32 { return int32(i) }))
	wait := meanOf(s.batches, func(b *batch) moment { return b.first - b.created })
	if ideal := erlangC(4, busy*4) / (4 * (1 - busy)) * mean.Seconds(); wait < 0.95*ideal || wait > 1.15*ideal+offerDelay.seconds() {
		t.Errorf("mean wait of %.1f ms, with all places on one node %.1f", wait*1e3, ideal*1e3)
	}
}

func (m moment) seconds() float64 { return float64(m) / 1e9 }

// erlangC returns the chance to wait for one of c servers at this offered load.
func erlangC(c int, load float64) float64 {
	term, sum := 1.0, 0.0
	for k := range c {
		sum += term
		term *= load / float64(k+1)
	}
	last := term * float64(c) / (float64(c) - load)
	return last / (sum + last)
}

// A node's processor takes the same time for each call: M/D/1.
func TestProcessorIsMD1(t *testing.T) {
	const busy, n, calls, latency = 0.8, 400_000, 1000.0, 5 * time.Millisecond
	o := unbounded(n)
	o.NodeCalls, o.latencies = calls, always(latency)
	s := simulateBatches(t, o, 1, poisson(n, busy*calls, func(i int) int32 { return int32(i) }))
	wait := meanOf(s.batches, func(b *batch) moment { return b.end - b.created - moment(latency) })
	near(t, "M/D/1", wait, busy/(2*(1-busy))/calls+1/calls)
	if got := s.busiest().Hour * 3600 / s.now.seconds(); math.Abs(got-busy) > 0.02 {
		t.Errorf("the node was busy for %.3f of the time, want %.2f", got, busy)
	}
}

// What waits is committed together: the database does not fall behind, however many
// stores run: 200 stores would need over 16,000 commits a second.
func TestCommitsAreGrouped(t *testing.T) {
	const stores = 200
	o := unbounded(stores)
	o.Connections, o.latencies = 8, always(10*time.Millisecond)
	o.DatabaseCommits, o.CommitTime = 1000, 2*time.Millisecond
	batches := make([]batch, stores)
	for i := range batches {
		batches[i] = batch{created: moment(i) * moment(10*time.Millisecond), store: int32(i), next: none, size: 500}
	}
	s := simulateBatches(t, o, 1, batches)
	if s.commitCount >= stores*500/2 {
		t.Errorf("%d commits for %d requests", s.commitCount, stores*500)
	}
	// A request is a call and two waits for a commit at the most.
	took := meanOf(s.batches, func(b *batch) moment { return b.end - b.created })
	if least, most := 500*0.012, 500*0.016; took < least || took > most {
		t.Errorf("a batch took %.1f s, want between %.1f and %.1f", took, least, most)
	}
}
