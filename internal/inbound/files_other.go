//go:build !unix

package inbound

// MaxFiles returns 0: there is no limit that could be known.
func MaxFiles() int { return 0 }
