package database

import (
	"context"
	"log/slog"
	"time"
)

const (
	purgeInterval = time.Minute
	// mostPurges limits the steps of one purge, in case every step reports that more remains.
	mostPurges = 10_000
)

// Purger removes expired batches; see storage.Operations.
type Purger interface {
	Purge(ctx context.Context, retention time.Duration) (more bool, err error)
}

// Expire removes batches that ended longer than retention ago, once a minute and a small step at a
// time, until ctx ends. It logs errors and tries again in the next minute.
func Expire(ctx context.Context, db Purger, retention time.Duration, log *slog.Logger) {
	tick := time.NewTicker(purgeInterval)
	defer tick.Stop()
	for {
		more, err := true, error(nil)
		for n := 0; n < mostPurges && more && err == nil && ctx.Err() == nil; n++ {
			more, err = db.Purge(ctx, retention)
		}
		if err != nil && ctx.Err() == nil {
			log.Error("could not remove expired batches; retrying in a minute", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
