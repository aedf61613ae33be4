//go:build postgres

package postgres

import "time"

// ago returns the moment that long before now.
func ago(d time.Duration) instant { return instant{nowInstant().boot - d} }
