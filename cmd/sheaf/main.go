// Sheaf runs batches of HTTP requests against an API that has no batches of its own.
//
// The command's exit code is 0 after success and after a shutdown that was asked
// for, 2 when the command line or the environment is wrong, and 1 when anything
// else went wrong. Errors go to stderr as one line that begins with "sheaf: ".
package main

import (
	"context"
	"os"
)

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}
