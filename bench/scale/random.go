package main

import (
	"math"
	"math/rand/v2"
	"sort"
	"time"
)

// uniform returns the n-th number of a seed, in (0, 1). It does not depend on which
// numbers were asked for before: two runs of one day that differ in a single thing
// compare batch by batch.
func uniform(seed, n uint64) float64 {
	x := n + seed*0x9e3779b97f4a7c15 // SplitMix64, by Sebastiano Vigna
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	x ^= x >> 31
	return (float64(x>>11) + 0.5) / (1 << 53)
}

// distribution returns the time that a share u of all times does not exceed.
type distribution func(u float64) time.Duration

// mostLatency is where the service would give an attempt up.
const mostLatency = 30 * time.Second

// logNormal returns the distribution with this median and 99th percentile: most
// answers near the median, a few that take many times as long.
func logNormal(p50, p99 time.Duration) distribution {
	const normal99 = 2.3263478740408408 // standard deviations
	middle := math.Log(float64(p50))
	sigma := (math.Log(float64(p99)) - middle) / normal99
	return func(u float64) time.Duration {
		d := math.Exp(middle + sigma*math.Sqrt2*math.Erfinv(2*u-1))
		return time.Duration(min(d, float64(mostLatency)))
	}
}

// weighted draws indices, each as often as its weight says.
type weighted []float64 // sums of the weights up to each

func newWeighted(n int, weight func(i int) float64) weighted {
	sums := make(weighted, n)
	sum := 0.0
	for i := range sums {
		sum += weight(i)
		sums[i] = sum
	}
	return sums
}

func (w weighted) draw(r *rand.Rand) int {
	x := r.Float64() * w[len(w)-1]
	return min(sort.SearchFloat64s(w, x), len(w)-1)
}

// zipf draws stores: the k-th largest has a share of 1/k^skew.
func zipf(stores int, skew float64) weighted {
	return newWeighted(stores, func(i int) float64 { return math.Pow(float64(i+1), -skew) })
}

// logUniform draws a number from 1 to most: as many between 1 and 10 as between 10
// and 100.
func logUniform(r *rand.Rand, most int) int {
	return min(int(math.Exp(r.Float64()*math.Log(float64(most+1)))), most)
}

// geometric draws a number from 1 up with this mean.
func geometric(r *rand.Rand, mean float64) int {
	if mean <= 1 {
		return 1
	}
	return 1 + int(math.Log(1-r.Float64())/math.Log(1-1/mean))
}
