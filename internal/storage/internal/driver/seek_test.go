package driver

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// TestSeek: the result excludes no row that it should include, and includes few that it should
// exclude.
func TestSeek(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rows := rapid.SliceOfNDistinct(rapid.Int64Range(1, 100_000), 0, 50, rapid.ID[int64]).Draw(t, "rows")
		slices.Sort(rows)
		limit := rapid.Int64Range(0, 100_001).Draw(t, "limit") // rows above it lie beyond
		newest := int64(0)
		if len(rows) > 0 {
			newest = rows[len(rows)-1]
		}
		calls := 0
		got, err := Seek(newest, func(id int64) (int64, bool, error) {
			calls++
			i, ok := slices.BinarySearch(rows, id)
			if !ok {
				i--
			}
			if i < 0 {
				return 0, false, nil
			}
			return rows[i], rows[i] > limit, nil
		})
		if err != nil || calls > 20 {
			t.Fatalf("%d calls, %v", calls, err)
		}
		for _, r := range rows {
			if r <= limit && r >= got {
				t.Fatalf("row %d is left out: %d", r, got)
			}
			if r > limit+seekStep && r < got && got-r > seekStep {
				t.Fatalf("row %d is left in: %d", r, got)
			}
		}
	})
}
