package postgres

import (
	"sync/atomic"
	"time"

	"github.com/sheafapi/sheaf/internal/storage"
	"github.com/sheafapi/sheaf/internal/storage/internal/driver"
)

// clock translates between this node's clock and the database's, so that nodes whose
// clocks differ agree on moments. A node whose clock is right within tolerance keeps
// its moments to the millisecond.
type clock struct {
	node   driver.Clock
	offset atomic.Int64 // milliseconds that the database's clock was ahead
	skew   atomic.Int64 // of the node's clock at that time
	steps  driver.Steps // of the database's clock
}

// tolerance is how far a clock may be off before it is corrected.
const tolerance = 500 * time.Millisecond

// set takes in what the database's clock said between two moments of the node's.
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

// ahead returns by how many milliseconds the database's clock is ahead. A node's clock that
// was set since the database was asked does not change that.
func (c *clock) ahead() int64 {
	offset := c.offset.Load()
	if step := c.node.Skew() - time.Duration(c.skew.Load()); step.Abs() > tolerance {
		offset -= step.Milliseconds()
	}
	return offset
}

// out returns a moment of the node's as the database keeps it.
func (c *clock) out(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return storage.Millis(t) + c.ahead()
}

// in returns a moment of the database's as the node sees it.
func (c *clock) in(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return storage.FromMillis(ms - c.ahead())
}
