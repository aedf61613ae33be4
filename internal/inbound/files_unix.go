//go:build unix

package inbound

import "syscall"

// MaxFiles returns how many files, connections included, the process may have open; 0 if that is
// unknown. Go has raised the limit as far as it may.
func MaxFiles() int {
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) != nil {
		return 0
	}
	return int(min(uint64(limit.Cur), 1<<30)) //nolint:unconvert // it is signed on some systems
}
