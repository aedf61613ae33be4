package engine

import (
	"math"
	"runtime/debug"
)

// usualMemory is the memory limit of the process, in bytes, if GOMEMLIMIT is not set.
const usualMemory = 512 << 20

// planMemory sets how much memory batches and answers may take. Together with the API's share, this
// stays below the Go runtime's limit (GOMEMLIMIT), unless the largest batch or the largest answer
// needs more.
func (o *Options) planMemory() {
	limit := debug.SetMemoryLimit(-1)
	if limit == math.MaxInt64 {
		limit = usualMemory
	}
	const header = 1 << 20                   // bytes of an answer's status line and header
	o.LargestAnswer = 2*o.MaxAnswer + header // twice: decoding holds the body a second time
	o.LargestBatch = 2*o.MaxBody + 1<<20
	o.Answers, o.Memory = max(limit/4, o.LargestAnswer), max(limit/8, o.LargestBatch)
}
