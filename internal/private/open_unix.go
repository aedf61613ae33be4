//go:build unix

package private

import (
	"errors"
	"os"
	"syscall"
)

// NoFollow is the flag of os.OpenFile that refuses symbolic links.
const NoFollow = syscall.O_NOFOLLOW

// isLink reports whether a file could not be opened because it is a symbolic link.
func isLink(err error) bool { return errors.Is(err, syscall.ELOOP) }

// isOurs reports whether a file belongs to the user that this process runs as.
func isOurs(info os.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(stat.Uid) == os.Geteuid()
}
