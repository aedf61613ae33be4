package sheaf

import (
	"math"
	"runtime/debug"
)

// usualMemory is how many bytes the process may use where the Go runtime has no limit.
const usualMemory = 512 << 20

// memoryPlan says how many bytes each consumer of memory may take. All of them together, with
// those of the API, stay below the runtime's limit.
type memoryPlan struct {
	answers, largestAnswer int64 // of the upstream, until they are recorded
	batches, largestBatch  int64 // that run, without answers
}

// planMemory divides the runtime's memory limit (GOMEMLIMIT, see runtime/debug). What one
// answer and one batch may need is there in any case.
func planMemory(o *Options) memoryPlan {
	limit := debug.SetMemoryLimit(-1)
	if limit == math.MaxInt64 {
		limit = usualMemory
	}
	const header = 1 << 20 // of an answer, with its line; its body is there twice while it is decoded
	p := memoryPlan{largestAnswer: 2*o.Limits.MaxAnswer + header, largestBatch: 2*o.Limits.MaxBody + 1<<20}
	p.answers, p.batches = max(limit/4, p.largestAnswer), max(limit/8, p.largestBatch)
	return p
}
