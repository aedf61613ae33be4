package telemetry

import (
	"fmt"
	"testing"
	"time"

	"github.com/sheafapi/sheaf/internal/outbound"
	"pgregory.net/rapid"
)

// TestHealthWindow: only attempts older than the window are forgotten.
func TestHealthWindow(t *testing.T) {
	var h recent
	begin := time.Unix(1_900_000_000, 0)
	for i := range 60 { // ten minutes, one attempt in each slot
		h.add(codeOf(outbound.Answered, 200+100*(i%4)), 20*time.Millisecond, begin.Add(time.Duration(i)*slot))
	}
	seen := h.health(begin.Add(59 * slot))
	if seen.Requests != slots || fmt.Sprint(seen.Codes) != "map[2xx:7 3xx:7 4xx:8 5xx:8]" {
		t.Errorf("%+v", seen)
	}
	if d := seen.Median; d < 20*time.Millisecond || d > 24*time.Millisecond {
		t.Errorf("the median is %v", d)
	}
	if seen := h.health(begin.Add(time.Hour)); seen.Requests != 0 || seen.Median != 0 || len(seen.Codes) != 0 {
		t.Errorf("an hour later: %+v", seen)
	}
}

// TestQuantiles: the median and the 99th percentile are off by at most one bucket.
func TestQuantiles(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var h recent
		now := time.Unix(1_900_000_000, 0)
		n := rapid.IntRange(1, 300).Draw(t, "n")
		most := time.Duration(0)
		for range n {
			d := time.Duration(rapid.Int64Range(int64(firstBucket), int64(30*time.Second)).Draw(t, "took"))
			most = max(most, d)
			h.add(success, d, now)
		}
		seen := h.health(now)
		if seen.Requests != n || seen.Median > seen.P99 || float64(seen.P99) > float64(most)*bucketRatio*1.001 {
			t.Fatalf("%+v, the longest took %v", seen, most)
		}
	})
}

// TestCodes: every code has a class.
func TestCodes(t *testing.T) {
	for code, want := range map[int]string{101: "1xx", 200: "2xx", 304: "3xx", 404: "4xx", 429: "throttled", 503: "5xx", 999: "other", 99: "other"} {
		if got := codeNames[codeOf(outbound.Answered, code)]; got != want {
			t.Errorf("%d is %s, want %s", code, got, want)
		}
	}
	if got := codeNames[codeOf(outbound.Doubt, 502)]; got != "none" {
		t.Errorf("no answer is %s", got)
	}
}
