package main

import (
	"cmp"
	"slices"
	"time"
)

// summary describes many times.
type summary struct {
	P50     time.Duration `json:"p50"`
	P95     time.Duration `json:"p95"`
	P99     time.Duration `json:"p99"`
	Longest time.Duration `json:"longest"`
}

// summarise sorts the times.
func summarise(times []time.Duration) summary {
	if len(times) == 0 {
		return summary{}
	}
	slices.Sort(times)
	rank := func(percent int) time.Duration { return times[(len(times)*percent+99)/100-1] }
	return summary{rank(50), rank(95), rank(99), times[len(times)-1]}
}

// class is a part of the stores, by their size.
type class struct {
	Name     string  `json:"name"`
	Stores   int     `json:"stores"`
	Batches  int     `json:"batches"`
	Requests int     `json:"requests"`
	First    summary `json:"toFirstRequest"` // from the create's arrival
	End      summary `json:"toEnd"`          // from the create's arrival
	Others   summary `json:"notForItself"`   // to the first request, since the store's earlier batch ended
}

// The classes' shares of all stores: the largest thousandth, the next up to a
// hundredth, up to a tenth, and the rest.
var shares = []float64{0.001, 0.01, 0.1, 1}

// classes measures how long batches waited. Stores have their number by their size.
func (s *sim) classes() []class {
	bounds := make([]int32, 0, len(shares))
	for _, share := range shares {
		bounds = append(bounds, int32(max(1, share*float64(len(s.stores)))))
	}
	out := make([]class, len(bounds))
	type times struct{ first, end, others []time.Duration }
	all := make([]times, len(bounds))
	for i := range s.batches {
		b := &s.batches[i]
		c := 0
		for b.store >= bounds[c] {
			c++
		}
		out[c].Batches++
		out[c].Requests += int(b.size)
		if b.end == 0 {
			continue
		}
		t := &all[c]
		t.end = append(t.end, time.Duration(b.end-b.created))
		if b.calls > 0 {
			t.first = append(t.first, time.Duration(b.first-b.created))
			t.others = append(t.others, time.Duration(b.first-max(b.head, b.created)))
		}
	}
	from := int32(0)
	for i := range out {
		out[i].Name, out[i].Stores = className(i, int(from), int(bounds[i])), int(bounds[i]-from)
		out[i].First, out[i].End, out[i].Others = summarise(all[i].first), summarise(all[i].end), summarise(all[i].others)
		from = bounds[i]
	}
	return slices.DeleteFunc(out, func(c class) bool { return c.Stores == 0 })
}

// load is how busy something was, as a share of its time.
type load struct {
	Day    float64 `json:"day"`
	Hour   float64 `json:"busiestHour"`
	Minute float64 `json:"busiestMinute"`
}

// load returns how busy a server was. What happened after the day counts in the
// minutes only.
func (s *server) load() load {
	var l load
	hour := make([]time.Duration, len(s.busy)/60+1)
	total := time.Duration(0)
	for minute, busy := range s.busy {
		l.Minute = max(l.Minute, share(busy, time.Minute))
		hour[minute/60] += busy
		total += busy
	}
	l.Hour = share(slices.Max(hour), time.Hour)
	l.Day = share(total, max(24*time.Hour, time.Duration(len(s.busy))*time.Minute))
	return l
}

func share(part, whole time.Duration) float64 { return float64(part) / float64(whole) }

// busiest returns the load of the node that had the busiest minute.
func (s *sim) busiest() load {
	loads := make([]load, len(s.nodes))
	for i := range s.nodes {
		loads[i] = s.nodes[i].sender.load()
	}
	return slices.MaxFunc(loads, func(a, b load) int { return cmp.Compare(a.Minute, b.Minute) })
}

// peak returns the most calls that a node had under way.
func (s *sim) peak() int {
	most := 0
	for i := range s.nodes {
		most = max(most, s.nodes[i].peak)
	}
	return most
}

// dayReport is what one simulated day of some nodes came to.
type dayReport struct {
	Nodes    int          `json:"nodes"`
	Classes  []class      `json:"classes"`
	Node     load         `json:"busiestNode"`
	Database load         `json:"database"`
	Commits  int          `json:"commits"`
	Peak     int          `json:"mostCallsUnderWayOnANode"`
	Refused  int          `json:"refusedBatches"`
	Late     int          `json:"endedAfterTheDay"`
	Open     int          `json:"neverEnded"`
	Losses   []lossReport `json:"losses,omitempty"`
	Enough   bool         `json:"enough"`
}

// lossReport is what the loss of one node in the busiest hour came to.
type lossReport struct {
	Kind     string        `json:"kind"`
	Takeover time.Duration `json:"takeoverAfter"`
	Owned    int           `json:"storesRunning"`       // on the node
	Affected int           `json:"storesAffected"`      // with a batch that began or ended over 1 s later
	Batches  int           `json:"batchesAffected"`     // of these
	Doubt    int           `json:"requestsInDoubt"`     // under way on the node
	Repeats  int           `json:"createsRepeated"`     // without an answer from the node
	Extra    summary       `json:"extraToEnd"`          // of the affected batches, to their end
	First    time.Duration `json:"longestExtraToFirst"` // of any batch, to its first request
	Node     load          `json:"busiestNode"`         // of those that are left
	Unended  int           `json:"neverEnded"`          // batches
	Settled  time.Duration `json:"settledAfter"`        // since the loss, until the last affected batch ended
}

// noticeable is the extra time from which a batch counts as affected.
const noticeable = time.Second

// compare tells a day with a loss from the same day without it.
func (l *lossReport) compare(with, without []batch, at moment) {
	stores := map[int32]bool{}
	var extra []time.Duration
	for i := range with {
		a, b := &with[i], &without[i]
		if a.end == 0 || b.end == 0 {
			continue
		}
		late := time.Duration(a.end - b.end)
		if a.calls > 0 && b.calls > 0 {
			first := time.Duration(a.first - b.first)
			l.First = max(l.First, first)
			late = max(late, first)
		}
		if late > noticeable {
			stores[a.store] = true
			extra = append(extra, max(late, time.Duration(a.end-b.end)))
			l.Settled = max(l.Settled, time.Duration(a.end-at))
		}
	}
	l.Affected, l.Batches, l.Extra = len(stores), len(extra), summarise(extra)
}
