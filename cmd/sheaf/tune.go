package main

import (
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
)

// How the Go runtime is set up, unless the environment says something else. What it
// brings is in docs/performance.md.
const (
	// diskThreads is how many threads run Go code beyond one for each CPU: the
	// database's writer holds one while the disk syncs.
	diskThreads = 1
	// gcPercent lets the heap, which is small, grow to five times its live size
	// before it is collected (Go's own: twice), and
	gcPercent = 400
	// memoryLimit, in bytes, takes that back where much is alive.
	memoryLimit = 512 << 20
)

// tune sets the Go runtime up.
func tune(environ []string) {
	isSet := func(name string) bool {
		return slices.ContainsFunc(environ, func(e string) bool { return strings.HasPrefix(e, name+"=") })
	}
	if !isSet("GOMAXPROCS") {
		runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + diskThreads)
	}
	if !isSet("GOGC") && !isSet("GOMEMLIMIT") {
		debug.SetGCPercent(gcPercent)
		debug.SetMemoryLimit(memoryLimit)
	}
}
