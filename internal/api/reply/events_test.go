package reply

import (
	"testing"

	"github.com/sheafapi/sheaf/internal/batch"
	"pgregory.net/rapid"
)

// TestEventIDs: an event's id says which responses the client has. Any other text stands for none.
func TestEventIDs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s batch.Set
		for _, i := range rapid.SliceOf(rapid.IntRange(0, batch.MaxRequests-1)).Draw(t, "indexes") {
			s.Add(i)
		}
		if got := decodeSet(encodeSet(&s)); got != s {
			t.Fatalf("%v became %v", s, got)
		}
		decodeSet(rapid.String().Draw(t, "text"))
		decodeSet("r" + rapid.StringMatching(`[A-Za-z0-9_-]*`).Draw(t, "text"))
	})
}
