package sqlite

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage/storagetest"
)

func TestClock(t *testing.T) {
	storagetest.RunClock(t, func(t *testing.T) storagetest.Clocked {
		return clockDB{open(t, filepath.Join(t.TempDir(), "sheaf.db"))}
	})
}

type clockDB struct{ *DB }

// SetClock implements storagetest.Clocked.
func (c clockDB) SetClock(_ *testing.T, ahead time.Duration) { c.clock.Set(ahead) }

// Now implements storagetest.Clocked.
func (c clockDB) Now() time.Time { return c.clock.Now() }

// TestReservationOfUnknownAge: reservations that an earlier version made while its clock was ahead
// delay nothing.
func TestReservationOfUnknownAge(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sheaf.db")
	db := open(t, path)
	one := batch.OwnerOf("one")
	if _, err := db.Reserve(t.Context(), one, time.Hour); err != nil {
		t.Fatal(err)
	}
	script(t, path, "UPDATE holds SET set_at = 0")
	from, err := db.Reserve(t.Context(), one, time.Second)
	if ahead := time.Until(from); err != nil || ahead > time.Minute {
		t.Errorf("the next span begins in %v, want now: %v", ahead, err)
	}
}
