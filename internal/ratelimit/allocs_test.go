//go:build !race

package ratelimit

import "testing"

// TestAllocs checks that reading answers allocates nothing, also if they have the usual fields.
func TestAllocs(t *testing.T) {
	for name, h := range map[string][]string{
		"no such field": {"Content-Type", "application/json", "Date", "Mon, 30 Nov 2026 04:00:00 GMT"},
		"some remain":   {"X-RateLimit-Limit", "10", "X-RateLimit-Remaining", "9", "X-RateLimit-Reset", "1796011200", "RateLimit", `"default";r=9;t=30`},
		"none remain":   {"X-RateLimit-Remaining", "0", "X-RateLimit-Reset", "30", "Retry-After", "30"},
	} {
		header := fields(h...)
		n := testing.AllocsPerRun(100, func() {
			_ = Exhausted(header, now)
			_, _ = Refused(429, header, now)
			_, _ = Refused(403, header, now)
		})
		if n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}
