package engine

import (
	"math"
	"runtime/debug"
)

// usualMemory is how many bytes the process may use if the Go runtime has no limit.
const usualMemory = 512 << 20

// planMemory sets how much memory batches and answers may take. Together with the API's share they
// stay below the Go runtime's limit (GOMEMLIMIT), but the largest batch and the largest answer always
// fit.
func (o *Options) planMemory() {
	limit := debug.SetMemoryLimit(-1)
	if limit == math.MaxInt64 {
		limit = usualMemory
	}
	const header = 1 << 20                   // of an answer, with its status line
	o.LargestAnswer = 2*o.MaxAnswer + header // twice: decoding holds the body a second time
	o.LargestBatch = 2*o.MaxBody + 1<<20
	o.Answers, o.Memory = max(limit/4, o.LargestAnswer), max(limit/8, o.LargestBatch)
}
