// Sheaf runs batches of HTTP requests against an API that has no batch endpoint.
//
// The exit code is 0 after success and after a shutdown by a signal, 2 after a mistake on the command
// line or in the environment, and 1 after other errors. Client commands have more codes (exitCodes).
// An error is one line on stderr that begins with "sheaf: ".
package main

import (
	"context"
	"os"
)

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}
