package engine

import (
	"fmt"
	"testing"
	"time"
)

// TestRepeated: the first of failures that repeat is told, and then a count, once a minute.
func TestRepeated(t *testing.T) {
	var r repeated
	now := time.Unix(1_900_000_000, 0)
	var told []int
	for range 150 { // one a second, for two and a half minutes
		if n, tell := r.count(now); tell {
			told = append(told, n)
		}
		now = now.Add(time.Second)
	}
	if fmt.Sprint(told) != "[1 60 60]" {
		t.Errorf("told: %v", told)
	}
}
