package governor

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sheafapi/sheaf/internal/storage"
)

// fastClock is storage with a clock that is two days ahead of the node's.
type fastClock struct{ schedule }

func (*fastClock) Holds(context.Context) ([]storage.Hold, error) {
	return []storage.Hold{{Credential: key, Until: storage.FromMillis(time.Now().Add(48 * time.Hour).UnixMilli())}}, nil
}

// TestHoldIsBounded checks that no stored hold applies for longer than storage.HoldLimit.
func TestHoldIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGovernor(&fastClock{}, Rate{})
		g.Poll(t.Context())
		c := g.Attach(key)
		due, ok := c.Try(t.Context(), 1, time.Now())
		if wait := time.Until(due); ok || wait > storage.HoldLimit {
			t.Errorf("Try returned %v, due in %v", ok, wait)
		}
	})
}
