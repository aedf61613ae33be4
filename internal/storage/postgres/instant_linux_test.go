//go:build postgres

package postgres

import "time"

// ago returns the instant that was d ago.
func ago(d time.Duration) instant { return instant{nowInstant().boot - d} }
