//go:build postgres && !linux

package postgres

import "time"

// ago returns the moment that long before now.
func ago(d time.Duration) instant { return instant{time.Now().Add(-d)} }
