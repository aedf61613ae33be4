package main

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"strings"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

// Settings of the Go runtime, unless the environment overrides them. Their effects are
// described in docs/performance.md#experiments.
const (
	// diskThreads are threads for Go code in addition to one per CPU, because the database's writer
	// holds one while the disk syncs.
	diskThreads = 1
	// gcPercent lets the heap grow to five times its live size before a collection (Go's default:
	// twice), but by at most garbagePercent of the memory limit. So a small heap is rarely collected,
	// and a large one leaves room for memory outside the runtime.
	gcPercent      = 400
	garbagePercent = 20
	// memoryPercent is the runtime's share of the control group's memory limit. The rest is for
	// memory outside the runtime.
	memoryPercent = 90
	// memoryLimit is the limit in bytes if the control group has none.
	memoryLimit = 512 << 20
)

// tune configures the Go runtime. The service divides the memory limit among its parts.
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

// sentinel is an object whose finalizer runs after each collection. Its pointer keeps it apart from
// tiny objects, which may never be collected alone.
type sentinel struct{ _ *sentinel }

// paceCollections lets the heap grow by gcPercent before each collection, but by at most limit bytes.
func paceCollections(limit int64) {
	last := gcPercent
	debug.SetGCPercent(last)
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	var pace func(s *sentinel)
	pace = func(s *sentinel) {
		metrics.Read(live)
		percent := min(gcPercent, int(100*limit/max(int64(live[0].Value.Uint64()), 1)))
		if percent = max(percent, 10); percent != last {
			last = percent
			debug.SetGCPercent(percent)
		}
		runtime.SetFinalizer(s, pace)
	}
	runtime.SetFinalizer(&sentinel{}, pace)
}

// groupLimit returns the runtime's memory limit, from the process's control group.
func groupLimit() int64 {
	limit, err := memlimit.FromCgroup()
	if err != nil || limit == 0 || limit >= 1<<62 {
		return memoryLimit
	}
	return int64(limit) / 100 * memoryPercent
}
