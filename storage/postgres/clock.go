package postgres

import (
	"sync/atomic"
	"time"

	"github.com/sheafapi/sheaf/batch"
)

// clock translates between this node's clock and the database's, so that nodes whose
// clocks differ agree on moments. A node whose clock is right within tolerance keeps
// its moments to the millisecond.
type clock struct {
	offset atomic.Int64 // milliseconds that the database's clock is ahead
}

// tolerance is how far a clock may be off before it is corrected.
const tolerance = 500 * time.Millisecond

// set takes in what the database's clock said between two moments of the node's.
func (c *clock) set(before time.Time, database int64, after time.Time) {
	middle := before.Add(after.Sub(before) / 2).UnixMilli()
	uncertain := after.Sub(before).Milliseconds() / 2
	offset := database - middle
	if off := offset - c.offset.Load(); max(off, -off) > uncertain+tolerance.Milliseconds() {
		c.offset.Store(offset)
	}
}

// out returns a moment of the node's as the database keeps it.
func (c *clock) out(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return batch.Millis(t) + c.offset.Load()
}

// in returns a moment of the database's as the node sees it.
func (c *clock) in(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return batch.FromMillis(ms - c.offset.Load())
}
