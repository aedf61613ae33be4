package main

import (
	"math"
	"slices"
	"time"
)

// percentile returns the smallest of the times that at least p percent of them don't exceed (the
// nearest rank), or 0 if there are none.
func percentile(times []time.Duration, p float64) time.Duration {
	if len(times) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(times))
	rank := int(math.Ceil(p / 100 * float64(len(sorted))))
	return sorted[min(max(rank, 1), len(sorted))-1]
}

// median returns the middle value, or the mean of the two in the middle. It returns 0 if there are
// no values.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

// rate returns n per second, for n things in the time took.
func rate(n int, took time.Duration) float64 { return float64(n) / took.Seconds() }

func inMilliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
