package reply

import (
	"context"
	"errors"
	"time"

	"github.com/sheafapi/sheaf/internal/budget"
)

// MemoryWait is how long a call may wait for memory. The wait must be short, because the server
// doesn't notice that a client is gone while its body isn't being read.
const MemoryWait = 10 * time.Second

// ErrNoMemory means that a call could not get memory in time, because other calls hold it.
var ErrNoMemory = errors.New("too many large batches are being created or read")

// Hold is the memory that a call has taken from a budget. Release it with Free.
type Hold struct {
	c     *Call
	of    *budget.Budget
	share *budget.Share // nil: nothing has been taken
}

// Hold returns a Hold on a budget, which holds nothing yet.
func (c *Call) Hold(of *budget.Budget) Hold { return Hold{c: c, of: of} }

// Need makes the call hold exactly the given number of bytes, and waits for them if necessary. Its
// error is ErrNoMemory.
func (h *Hold) Need(bytes int64) error {
	held := int64(0)
	if h.share != nil {
		held = h.share.Held()
	}
	if bytes <= held {
		h.Cut(bytes)
		return nil
	}
	if h.share == nil {
		h.share = h.of.Share(h.c.Store + string(h.c.Owner[:]))
	}
	if h.share.TryGrow(bytes - held) {
		return nil
	}
	ctx, cancel := context.WithTimeout(h.c.R.Context(), MemoryWait)
	defer cancel()
	if h.share.Grow(ctx, bytes-held) != nil {
		return ErrNoMemory
	}
	return nil
}

// Cut gives back what the call holds beyond the given number of bytes.
func (h *Hold) Cut(bytes int64) {
	if h.share != nil {
		h.share.Shrink(h.share.Held() - max(bytes, 0))
	}
}

// Free gives back all memory. The Hold can be used again.
func (h *Hold) Free() { h.Cut(0) }
