package main

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"strings"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

// How the Go runtime is set up, unless the environment says something else. What it
// brings is in docs/performance.md#experiments.
const (
	// diskThreads is how many threads run Go code beyond one for each CPU: the
	// database's writer holds one while the disk syncs.
	diskThreads = 1
	// gcPercent lets the heap grow to five times its live size before it is collected (Go's
	// own: twice), but only by garbagePercent of the memory limit: a small heap is collected
	// seldom, and a large one leaves room for what the runtime does not see.
	gcPercent      = 400
	garbagePercent = 20
	// memoryPercent is how much of what the process's control group may use the runtime's
	// memory limit is. The rest is for what the runtime does not see.
	memoryPercent = 90
	// memoryLimit is the limit in bytes where no group has one.
	memoryLimit = 512 << 20
)

// tune sets the Go runtime up. The service divides its memory limit among those that need
// memory.
func tune(environ []string) {
	isSet := func(name string) bool {
		return slices.ContainsFunc(environ, func(e string) bool { return strings.HasPrefix(e, name+"=") })
	}
	if !isSet("GOMAXPROCS") {
		runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + diskThreads)
	}
	if !isSet("GOMEMLIMIT") {
		debug.SetMemoryLimit(groupLimit())
	}
	if !isSet("GOGC") {
		paceCollections(min(debug.SetMemoryLimit(-1), 1<<40) / 100 * garbagePercent)
	}
}

// sentinel is an object that becomes garbage again and again: its finalizer runs after each
// collection. Its pointer keeps it apart from tiny objects, which may never be collected alone.
type sentinel struct{ _ *sentinel }

// paceCollections lets the heap grow by gcPercent, but by at most so many bytes, before each
// collection.
func paceCollections(most int64) {
	last := gcPercent
	debug.SetGCPercent(last)
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	var pace func(s *sentinel)
	pace = func(s *sentinel) {
		metrics.Read(live)
		percent := min(gcPercent, int(100*most/max(int64(live[0].Value.Uint64()), 1)))
		if percent = max(percent, 10); percent != last {
			last = percent
			debug.SetGCPercent(percent)
		}
		runtime.SetFinalizer(s, pace)
	}
	runtime.SetFinalizer(&sentinel{}, pace)
}

// groupLimit returns the memory limit that the process's control group leaves to the runtime.
func groupLimit() int64 {
	limit, err := memlimit.FromCgroup()
	if err != nil || limit == 0 || limit >= 1<<62 {
		return memoryLimit
	}
	return int64(limit) / 100 * memoryPercent
}
