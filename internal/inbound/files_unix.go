//go:build unix

package inbound

import "syscall"

// MaxFiles returns how many files the process may have open, including connections; 0 if that is
// unknown. The Go runtime has already raised the soft limit to the hard limit.
func MaxFiles() int {
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) != nil {
		return 0
	}
	return int(min(uint64(limit.Cur), 1<<30)) //nolint:unconvert // Cur is signed on some systems
}
