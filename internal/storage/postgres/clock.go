package postgres

import (
	"sync/atomic"
	"time"

	"github.com/sheafapi/sheaf/internal/storage"
	"github.com/sheafapi/sheaf/internal/storage/internal/driver"
)

// clock translates between this node's clock and the database's, so that nodes whose clocks differ
// agree on times. If the node's clock is right within tolerance, its times don't change.
type clock struct {
	node   driver.Clock
	offset atomic.Int64 // how many milliseconds the database's clock was ahead
	skew   atomic.Int64 // the skew of the node's clock when offset was measured
	steps  driver.Steps // of the database's clock
}

// tolerance is how far a clock may be off before it is corrected.
const tolerance = 500 * time.Millisecond

// set updates the offset from a time of the database's clock that was read between two times of the
// node's.
func (c *clock) set(before time.Time, database int64, after time.Time) {
	skew := c.node.Skew()
	middle := before.Add(after.Sub(before) / 2).UnixMilli()
	uncertain := after.Sub(before) / 2
	offset := database - middle
	if off := offset - c.ahead(); max(off, -off) > (uncertain + tolerance).Milliseconds() {
		c.offset.Store(offset)
		c.skew.Store(int64(skew))
	}
	if uncertain < tolerance {
		c.steps.Note(time.Duration(offset)*time.Millisecond + skew)
	}
}

// ahead returns by how many milliseconds the database's clock is ahead. It corrects for steps of
// the node's clock since the offset was measured.
func (c *clock) ahead() int64 {
	offset := c.offset.Load()
	if step := c.node.Skew() - time.Duration(c.skew.Load()); step.Abs() > tolerance {
		offset -= step.Milliseconds()
	}
	return offset
}

// out converts a time of the node's clock to the stored form.
func (c *clock) out(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return storage.Millis(t) + c.ahead()
}

// in is the inverse of out.
func (c *clock) in(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return storage.FromMillis(ms - c.ahead())
}
