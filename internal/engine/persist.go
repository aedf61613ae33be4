package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sheafapi/sheaf/internal/outage"
	"github.com/sheafapi/sheaf/internal/storage"
)

// Limits on how long persist retries an operation while other operations work.
const (
	// mostRefusals is how often storage may refuse a call before persist gives up.
	mostRefusals = 5
	// mostFailing is how long a call may fail in other ways before persist gives up.
	mostFailing = 10 * time.Minute
)

// persist calls a storage operation, which must be safe to repeat, until storage answers. The pauses
// between the calls grow. persist returns final errors (see isFinal) at once. It gives up when ctx
// ends, or with a givenUpError if only this operation keeps failing. The first failure is logged,
// and then one a minute.
func (e *Engine) persist(ctx context.Context, what, about string, id any, op func(context.Context) error) error {
	const longest = time.Second
	began, refusals := time.Now(), 0
	var failures outage.Log
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, longest) {
		err := op(ctx)
		switch {
		case err == nil:
			if n := failures.Recovered(); n > 0 {
				e.Logger.Info("storage works again", "operation", what, about, id, "failures", n)
			}
			return nil
		case isFinal(err), ctx.Err() != nil:
			return err
		}
		if storage.Refused(err) {
			refusals++
		}
		if refusals == mostRefusals || time.Since(began) > mostFailing && e.Storage.Ping(ctx) == nil {
			return &givenUpError{what, err}
		}
		if n, due := failures.Failed(time.Now()); due {
			e.Logger.Error("storage failed; retrying until it works", "operation", what, about, id, "error", err,
				"since_last_log", n, "for", time.Since(began).Round(time.Second).String())
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

// givenUpError is the error of an operation that keeps failing while storage works otherwise.
type givenUpError struct {
	what string
	err  error
}

func (e *givenUpError) Error() string { return fmt.Sprintf("storage could not %s: %v", e.what, e.err) }

// isGivenUp reports whether an operation on a batch has failed permanently although the node owns the
// queue. The batch can't continue.
func isGivenUp(err error) bool {
	_, givenUp := errors.AsType[*givenUpError](err)
	return givenUp || isFinal(err) && !errors.Is(err, storage.ErrNotOwner)
}

// isFinal reports whether storage would answer the same call with the same error again.
func isFinal(err error) bool {
	return storage.Certain(err) && !errors.Is(err, storage.ErrBusy) && !errors.Is(err, storage.ErrTooManyCalls)
}
