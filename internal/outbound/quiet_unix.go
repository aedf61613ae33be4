//go:build unix

package outbound

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// isQuiet reports whether a socket is open and has no data to read.
func isQuiet(socket syscall.RawConn) bool {
	quiet := false
	err := socket.Control(func(fd uintptr) {
		var b [1]byte
		_, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		quiet = err == unix.EAGAIN
	})
	return err == nil && quiet
}
