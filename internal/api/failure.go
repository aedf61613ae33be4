package api

import (
	"context"
	"errors"
	"time"

	"github.com/sheafapi/sheaf/internal/api/reply"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// storageFailed returns the answer for an error of storage, and logs it. An error that is an
// answer already stays as it is.
func (s *API) storageFailed(c *call, op string, ticket batch.Ticket, err error) error {
	if answer := (*apiError)(nil); errors.As(err, &answer) {
		return err
	}
	if errors.Is(err, storage.ErrNotFound) {
		return noBatch()
	}
	if busy := busy(err); busy != nil {
		return busy
	}
	if damaged, ok := errors.AsType[*storage.DamagedError](err); ok {
		s.Logger.Error("what is stored of a batch can't be read", "operation", op, "store", c.Store, "ticket", ticket, "request_id", c.id, "error", damaged.Err)
		return fail(internalError, "What is stored of batch %s is damaged and can't be read. Other batches are not affected; the service's operator can restore it from a backup.", ticket)
	}
	s.report(c, op, ticket, err)
	return fail(unavailable, "The service can't reach its database at the moment. Ask again in a second.")
}

// busy returns the answer for a call that storage had no turn for; nil: that is not the error.
func busy(err error) error {
	switch {
	case errors.Is(err, reply.ErrNoMemory):
		return fail(unavailable, "Too many large batches are being created or read. Retry in a second, or read a status with responses=false.")
	case errors.Is(err, storage.ErrTooManyCalls):
		return &apiError{code: rateLimited, wait: time.Second, message: "Too many of your calls wait for the database. Wait for their answers, and make fewer calls at the same time."}
	case errors.Is(err, storage.ErrBusy):
		return fail(unavailable, "The database is busy with other calls. Nothing was changed. Retry in a second.")
	}
	return nil
}

// report logs a failure of storage. When the client is gone, the operation only ended
// for that reason, and there is nobody to answer.
func (s *API) report(c *call, op string, ticket batch.Ticket, err error) {
	if c.R.Context().Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) {
		reply.Abort()
	}
	attrs := []any{"operation", op, "store", c.Store, "request_id", c.id, "error", err}
	if ticket != (batch.Ticket{}) {
		attrs = append(attrs, "ticket", ticket)
	}
	s.Logger.Error("storage failed; the caller was told to come back", attrs...)
}
