//go:build !unix

package inbound

// MaxFiles returns 0, because the limit is unknown on this platform.
func MaxFiles() int { return 0 }
