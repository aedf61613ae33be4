package api

import (
	"context"
	"errors"
	"time"

	"github.com/sheafapi/sheaf/internal/api/reply"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// storageFailed returns the answer for an error of storage, and logs the error if it is unexpected.
// It returns an error that already is an answer unchanged.
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
		s.Logger.Error("a stored batch is damaged", "operation", op, "store", c.Store, "ticket", ticket, "request_id", c.id, "error", damaged.Err)
		return fail(internalError, "The stored data of batch %s is damaged and can't be read. Other batches are not affected. The operator can restore it from a backup.", ticket)
	}
	s.report(c, op, ticket, err)
	return fail(unavailable, "The service can't reach its database. Retry in a second.")
}

// busy returns the answer if err means that memory or storage is busy with other calls; otherwise nil.
func busy(err error) error {
	switch {
	case errors.Is(err, reply.ErrNoMemory):
		return fail(unavailable, "Too many large batches are being created or read. Retry in a second, or read a status with responses=false.")
	case errors.Is(err, storage.ErrTooManyCalls):
		return &apiError{code: rateLimited, wait: time.Second, message: "Too many of your calls are waiting for the database. Wait for their answers, and make fewer calls at the same time."}
	case errors.Is(err, storage.ErrBusy):
		return fail(unavailable, "The database is busy with other calls. Nothing was changed. Retry in a second.")
	}
	return nil
}

// report logs a failure of storage. If the operation failed only because the client is gone, report
// breaks the connection instead.
func (s *API) report(c *call, op string, ticket batch.Ticket, err error) {
	if c.R.Context().Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) {
		reply.Abort()
	}
	attrs := []any{"operation", op, "store", c.Store, "request_id", c.id, "error", err}
	if ticket != (batch.Ticket{}) {
		attrs = append(attrs, "ticket", ticket)
	}
	s.Logger.Error("storage failed; the caller was asked to retry", attrs...)
}
