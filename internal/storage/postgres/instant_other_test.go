//go:build postgres && !linux

package postgres

import "time"

// ago returns the instant that was d ago.
func ago(d time.Duration) instant { return instant{time.Now().Add(-d)} }
