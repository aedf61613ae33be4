package governor

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// ahead is storage whose clock is an hour ahead of the node's.
type ahead struct{ schedule }

func (*ahead) Holds(context.Context) ([]storage.Hold, error) {
	return []storage.Hold{{Credential: key, Until: batch.FromMillis(time.Now().Add(time.Hour).UnixMilli())}}, nil
}

// TestHoldIsBounded: a hold that lies further ahead than any may does not count longer than
// the longest.
func TestHoldIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGovernor(&ahead{}, Rate{})
		g.Poll(t.Context())
		c := g.Attach(key)
		due, ok := c.Try(t.Context(), 1, time.Now())
		if left := time.Until(due); ok || left > storage.HoldLimit {
			t.Errorf("Try said %v, and to come again in %v", ok, left)
		}
	})
}
