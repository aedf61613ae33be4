//go:build !unix

package outbound

import "syscall"

// isQuiet can't check the socket on this platform. A connection that the upstream has closed fails
// when it is used.
func isQuiet(syscall.RawConn) bool { return true }
