//go:build !unix

package private

import "os"

// NoFollow is the flag of os.OpenFile that refuses a symbolic link, where a system has one.
const NoFollow = 0

func isLink(error) bool { return false }

// isOurs is always true: these systems have no owner that a file mode refers to.
func isOurs(os.FileInfo) bool { return true }
