package driver

import (
	"context"
	"fmt"

	"github.com/sheafapi/sheaf/internal/storage"
)

// Failure returns the error of a call in the form that the contract requires. what names what the
// call was doing. Errors of package storage stay as they are. Otherwise, if ctx has ended, its
// error replaces err. For all other errors, explain adds advice, and isDamage and isRefusal
// classify them.
func Failure(ctx context.Context, what string, err error, explain func(error) error, isDamage, isRefusal func(error) bool) error {
	switch {
	case err == nil || storage.Certain(err):
		return err
	case ctx.Err() != nil:
		return fmt.Errorf("%s: %w", what, ctx.Err())
	}
	named := fmt.Errorf("%s: %w", what, explain(err))
	switch {
	case isDamage(err):
		return &storage.DamagedError{Err: named}
	case isRefusal(err):
		return &storage.RefusedError{Err: named}
	}
	return named
}
