package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// small returns options for a day that takes little time to simulate.
func small(t *testing.T, args ...string) *options {
	t.Helper()
	o, _, err := parse(append([]string{"-stores", "300", "-requests", "200000", "-nodes", "3"}, args...), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// checkDay sees to it that every batch ran whole, each store's one after the other, and
// that no request was sent twice.
func checkDay(t *testing.T, s *sim) {
	t.Helper()
	if s.open != 0 {
		t.Fatalf("%d batches never ended", s.open)
	}
	byStore := make([][]*batch, len(s.stores))
	for i := range s.batches {
		b := &s.batches[i]
		if b.refused {
			t.Fatalf("batch %d was refused", i)
		}
		if b.done != b.size || b.calls > b.size || b.calls < b.size-b.doubt {
			t.Errorf("batch %d of %d requests: %d recorded, %d sent, %d in doubt", i, b.size, b.done, b.calls, b.doubt)
		}
		byStore[b.store] = append(byStore[b.store], b)
	}
	for store, batches := range byStore {
		slices.SortStableFunc(batches, func(a, b *batch) int { return cmp.Compare(a.head, b.head) })
		for i := 1; i < len(batches); i++ {
			if b, before := batches[i], batches[i-1]; b.calls > 0 && b.first < before.end || b.end < before.end {
				t.Errorf("store %d: a batch began at %v, the one before ended at %v", store, time.Duration(b.first), time.Duration(before.end))
			}
		}
	}
	for i := range s.nodes {
		nd := &s.nodes[i]
		if !nd.lost && (nd.running != 0 || nd.outbound != s.o.MaxOutbound || nd.extra != s.o.MaxOutbound*3/4) {
			t.Errorf("node %d ends with %d stores running, %d and %d places", i, nd.running, nd.outbound, nd.extra)
		}
	}
}

// Creates of one store stay in order when nothing is lost.
func TestOrder(t *testing.T) {
	o := small(t, "-stores-at-once", "5", "-max-outbound", "40", "-node-calls", "500")
	s := newSim(o, 3, o.workload())
	s.run()
	checkDay(t, s)
	last := make([]moment, o.Stores)
	for i := range s.batches {
		if b := &s.batches[i]; b.first < last[b.store] {
			t.Fatalf("batch %d began before the one that was created before it ended", i)
		} else {
			last[b.store] = b.end
		}
	}
}

// A loss at any moment loses no batch and sends nothing twice.
func TestLoss(t *testing.T) {
	for _, args := range [][]string{
		{},
		{"-stores-at-once", "4", "-max-outbound", "30", "-node-calls", "400"},
		{"-limit", "20"},
		{"-nodes", "2", "-database-commits", "300", "-commit-time", "500ms"},
	} {
		o := small(t, append(args, "-latency", "500ms", "-latency-p99", "3s")...)
		batches := o.workload()
		doubt, repeats, owned := 0, 0, 0
		for i := range 12 {
			at := moment(20*time.Hour) + moment(i)*moment(7*time.Second)
			s := newSim(o, o.Nodes[0], slices.Clone(batches))
			s.plan(int16(i%o.Nodes[0]), loss{at: at, after: moment(3 * time.Second)})
			s.run()
			checkDay(t, s)
			doubt, repeats, owned = doubt+s.outcome.doubt, repeats+s.outcome.repeats, owned+len(s.outcome.owned)
		}
		if owned == 0 || doubt == 0 {
			t.Errorf("%v: the losses hit nothing: %d stores, %d requests", args, owned, doubt)
		}
		t.Logf("%v: %d stores, %d requests in doubt, %d creates repeated", args, owned, doubt, repeats)
	}
}

// A store that a lost node ran goes on when others may take it over, and not before.
func TestTakeover(t *testing.T) {
	o := unbounded(2)
	o.latencies = always(time.Second)
	batches := []batch{{created: 0, store: 0, next: none, size: 100}, {created: 1, store: 1, next: none, size: 100}}
	s := newSim(o, 2, batches)
	s.plan(0, loss{at: moment(10*time.Second + time.Second/2), after: moment(15 * time.Second)})
	s.run()
	checkDay(t, s)
	if s.outcome.doubt != 1 || !s.outcome.owned[0] || len(s.outcome.owned) != 1 {
		t.Errorf("in doubt %d, owned %v: want one request of store 0", s.outcome.doubt, s.outcome.owned)
	}
	// 11 requests were sent until the loss, one of them in doubt; 89 are left.
	if want := 25*time.Second + time.Second/2 + 89*time.Second; time.Duration(batches[0].end) != want {
		t.Errorf("store 0 ended after %v, want %v", time.Duration(batches[0].end), want)
	}
	if want := 100 * time.Second; time.Duration(batches[1].end-1) != want {
		t.Errorf("store 1 ended after %v, want %v", time.Duration(batches[1].end-1), want)
	}
}

// Stores that share one place take turns of 2 s.
func TestTurns(t *testing.T) {
	const stores = 5
	o := unbounded(stores)
	o.StoresAtOnce, o.latencies = 1, always(100*time.Millisecond)
	var batches []batch
	for i := range int32(stores) {
		batches = append(batches, batch{created: moment(i), store: i, next: none, size: 500})
	}
	s := simulateBatches(t, o, 1, batches)
	checkDay(t, s)
	for i, b := range batches {
		// A turn ends with the first answer after 2 s.
		if want := time.Duration(i) * 2100 * time.Millisecond; time.Duration(b.first).Round(time.Millisecond) != want {
			t.Errorf("store %d began after %v, want %v", i, time.Duration(b.first), want)
		}
	}
}

// Parallel batches leave a quarter of the outbound places to everybody's first call.
func TestQuarter(t *testing.T) {
	o := unbounded(3)
	o.MaxOutbound, o.latencies = 40, always(time.Second)
	batches := []batch{
		{created: 0, store: 0, next: none, size: 500, parallel: true},
		{created: 1, store: 1, next: none, size: 3},
		{created: 2, store: 2, next: none, size: 500, parallel: true},
	}
	s := simulateBatches(t, o, 1, batches)
	checkDay(t, s)
	if got := time.Duration(batches[1].end - batches[1].created); got != 3*time.Second {
		t.Errorf("an in-order batch of 3 took %v beside parallel ones, want 3s", got)
	}
	// 30 extra places and one first call for each of the two.
	if s.peak() != 33 {
		t.Errorf("%d calls under way at most, want 33", s.peak())
	}
}

// A parallel batch has at most 100 requests under way.
func TestWidth(t *testing.T) {
	o := unbounded(1)
	o.latencies = always(time.Second)
	batches := []batch{{store: 0, next: none, size: 500, parallel: true}}
	s := simulateBatches(t, o, 1, batches)
	if got := time.Duration(batches[0].end); got != 5*time.Second || s.peak() != mostParallel {
		t.Errorf("500 requests took %v with %d under way, want 5s with %d", got, s.peak(), mostParallel)
	}
}

func TestLimit(t *testing.T) {
	o := unbounded(2)
	o.Limit, o.latencies = 10, always(time.Millisecond)
	batches := []batch{{store: 0, next: none, size: 101, parallel: true}, {store: 1, next: none, size: 101}}
	simulateBatches(t, o, 1, batches)
	for i, b := range batches {
		if got := time.Duration(b.end); got < 10*time.Second || got > 10*time.Second+10*time.Millisecond {
			t.Errorf("batch %d: 101 requests at 10 a second took %v", i, got)
		}
	}
}

func TestQuota(t *testing.T) {
	o := unbounded(1)
	o.MaxQueued, o.latencies = 2, always(time.Minute)
	batches := make([]batch, 5)
	for i := range batches {
		batches[i] = batch{created: moment(i), next: none, size: 1}
	}
	s := simulateBatches(t, o, 1, batches)
	for i, b := range s.batches {
		if refused := i >= 2; b.refused != refused {
			t.Errorf("batch %d refused: %v", i, b.refused)
		}
	}
}

// The same seed is the same day, whatever runs beside it; another seed is another.
func TestDeterministic(t *testing.T) {
	day := func(seed string) string {
		var out bytes.Buffer
		args := []string{"-stores", "100", "-requests", "50000", "-nodes", "1,2,3", "-json", "-seed", seed}
		if err := run(args, &out, io.Discard); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	first := day("1")
	if day("1") != first {
		t.Error("two runs of one seed differ")
	}
	if day("2") == first {
		t.Error("two seeds give the same day")
	}
	var r report
	if err := json.Unmarshal([]byte(first), &r); err != nil || len(r.Days) != 3 || len(r.Days[1].Losses) != 2 || len(r.Days[0].Losses) != 0 {
		t.Errorf("%v: unexpected report %s", err, first)
	}
}

func TestWorkload(t *testing.T) {
	o := small(t)
	requests, parallel := 0, 0
	sizes := make([]int, o.Stores)
	batches := o.workload()
	for i, b := range batches {
		requests += int(b.size)
		sizes[b.store] += int(b.size)
		if b.parallel {
			parallel++
		}
		if b.size < 1 || b.size > mostInOne || b.created < 0 || i > 0 && b.created < batches[i-1].created {
			t.Fatalf("batch %d: %+v", i, b)
		}
	}
	if requests != o.Requests {
		t.Errorf("%d requests, want %d", requests, o.Requests)
	}
	if share := float64(parallel) / float64(len(batches)); share < 0.25 || share > 0.35 {
		t.Errorf("%.2f of the batches are parallel, want 0.3", share)
	}
	if sizes[0] < 20*sizes[299] {
		t.Errorf("the largest store has %d requests, the smallest %d", sizes[0], sizes[299])
	}
}

func TestAgenda(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	var a agenda
	var last event
	for range 50_000 {
		if r.IntN(3) > 0 {
			a.add(event{at: last.at + moment(r.IntN(50))})
			continue
		}
		e, ok := a.next()
		if !ok {
			continue
		}
		if e.before(&last) {
			t.Fatalf("event %+v came after %+v", e, last)
		}
		last = e
	}
}

func TestFlags(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"-nodes 0", "from 1 to 64"},
		{"-nodes 2,x", "from 1 to 64"},
		{"-stores 0", "at least one store"},
		{"-parallel 1.5", "from 0 to 1"},
		{"-latency 2s", "-latency-p99"},
		{"-lost-at 25h", "within the day"},
		{"-max-outbound 0", "at least one place"},
		{"-node-calls -1", "negative"},
		{"more", "no arguments"},
	} {
		if _, _, err := parse(strings.Fields(c.args), io.Discard); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.args, err, c.want)
		}
	}
}

func TestReport(t *testing.T) {
	var out bytes.Buffer
	if err := run([]string{"-stores", "100", "-requests", "20000", "-nodes", "1,2"}, &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"the 1 largest", "11 to 100", "kill -9", "cut off", "20:00:30", "Needed: 2 nodes"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the report lacks %q:\n%s", want, out.String())
		}
	}
}
