package main

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"time"
)

const (
	day        = moment(24 * time.Hour)
	mostInOne  = 500 // requests of a batch
	cronWindow = time.Minute
	// jobPause is the longest pause between two creates of one job.
	jobPause = 500 * time.Millisecond
)

// hours is how busy each hour of the day is: quiet nights, a peak before noon, the
// highest one in the evening.
var hours = [24]float64{
	0.6, 0.5, 0.5, 0.4, 0.4, 0.5, 0.6, 0.8, 1.1, 1.4, 1.6, 1.5,
	1.3, 1.2, 1.2, 1.2, 1.2, 1.2, 1.3, 1.6, 1.8, 1.5, 1.0, 0.8,
}

// busiestHour is the one with the most work.
func busiestHour() int {
	most := 0
	for h := range hours {
		if hours[h] > hours[most] {
			most = h
		}
	}
	return most
}

// batch is one batch of the day and what becomes of it.
type batch struct {
	created  moment // its create reaches a node for the first time
	head     moment // the store's earlier batches have ended, and its own create is durable
	first    moment // its first call leaves, if calls is not 0
	end      moment // its end is durable; 0: it is not
	store    int32
	next     int32 // of the store, in order; none: it is the last
	size     int16
	begun    int16 // requests whose intent is durable
	done     int16 // requests whose answer is durable, or that were in doubt
	doubt    int16 // of these, in doubt: under way when the node was lost
	calls    int16 // that left
	parallel bool
	refused  bool // the store had too many unfinished batches
}

// workload draws a day's batches, in the order of their creates. It depends on the
// seed and the workload's own options only.
func (o *options) workload() []batch {
	r := rand.New(rand.NewPCG(o.Seed, 1))
	stores, clock := zipf(o.Stores, o.Skew), newWeighted(len(hours), func(i int) float64 { return hours[i] })
	var batches []batch
	for requests := 0; requests < o.Requests; {
		store := int32(stores.draw(r))
		at := moment(clock.draw(r)) * moment(time.Hour)
		if r.Float64() < o.Cron {
			at += moment(r.Int64N(int64(cronWindow)))
		} else {
			at += moment(r.Int64N(int64(time.Hour)))
		}
		for range geometric(r, o.Job) {
			b := batch{created: at, store: store, next: none, size: int16(logUniform(r, mostInOne)), parallel: r.Float64() < o.Parallel}
			b.size = int16(min(int(b.size), o.Requests-requests))
			if requests += int(b.size); b.size == 0 {
				break
			}
			batches = append(batches, b)
			at += moment(r.Int64N(int64(jobPause)))
		}
	}
	slices.SortStableFunc(batches, func(a, b batch) int { return cmp.Compare(a.created, b.created) })
	return batches
}
