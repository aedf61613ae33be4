//go:build postgres

package postgres

import (
	"fmt"
	"testing"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
	"github.com/sheafapi/sheaf/internal/storage/storagetest"
)

// TestServerClock changes the server's clock while the node's clock is right.
func TestServerClock(t *testing.T) {
	storagetest.RunClock(t, func(t *testing.T) storagetest.Clocked {
		return serverClock{open(t, migrated.New(t), Options{timing: &still})}
	})
}

type serverClock struct{ *DB }

// SetClock implements storagetest.Clocked. The node notices the change at its next renewal.
func (c serverClock) SetClock(t *testing.T, ahead time.Duration) {
	t.Helper()
	_, err := c.pool.Exec(t.Context(), fmt.Sprintf(`CREATE OR REPLACE FUNCTION sheaf_now() RETURNS bigint LANGUAGE sql VOLATILE AS
		$$ SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint + %d $$`, ahead.Milliseconds()))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.renew(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// Now implements storagetest.Clocked.
func (c serverClock) Now() time.Time { return time.Now() }

// TestNodeClock changes a node's clock while the server's clock is right. Stored times keep their
// meaning at once, before the node reads the server's clock again.
func TestNodeClock(t *testing.T) {
	url := migrated.New(t)
	a, b := open(t, url, Options{timing: &still}), open(t, url, Options{timing: &still})
	for _, ahead := range []time.Duration{time.Hour, -time.Hour} {
		a.clock.node.Set(ahead)
		one := batch.OwnerOf(ahead.String())
		err := a.Hold(t.Context(), storage.Hold{Credential: one, Until: a.clock.node.Now().Add(time.Minute)})
		if err != nil {
			t.Fatal(err)
		}
	}
	holds, err := b.Holds(t.Context())
	if err != nil || len(holds) != 2 {
		t.Fatal(holds, err)
	}
	for _, h := range holds {
		if left := time.Until(h.Until); (left - time.Minute).Abs() > 20*time.Second {
			t.Errorf("a node whose clock was set holds for %v, want a minute", left)
		}
	}
}
