package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// code is an errorCode of the wire contract ("Base"). Codes are stable.
type code string

const (
	wrongParameter       code = "WRONG_PARAMETER"
	missingToken         code = "MISSING_API_TOKEN"
	invalidToken         code = "INVALID_API_TOKEN" //nolint:gosec // a word, no credential
	refusedToken         code = "REFUSED_API_TOKEN" //nolint:gosec // a word, no credential
	notFound             code = "NOT_FOUND"
	batchNotFound        code = "BATCH_NOT_FOUND"
	methodNotAllowed     code = "METHOD_NOT_ALLOWED"
	conflict             code = "CONFLICT"
	requestTimeout       code = "REQUEST_TIMEOUT"
	payloadTooLarge      code = "PAYLOAD_TOO_LARGE"
	unsupportedMediaType code = "UNSUPPORTED_MEDIA_TYPE"
	unknownHost          code = "UNKNOWN_HOST" // answered by the command, before a call gets here
	rateLimited          code = "RATE_LIMITED"
	internalError        code = "INTERNAL_ERROR"
	unavailable          code = "UNAVAILABLE"
	databaseFull         code = "DATABASE_FULL"
	upstreamFailed       code = "UPSTREAM_FAILED"
	upstreamTimeout      code = "UPSTREAM_TIMEOUT"
)

// http returns how a code is answered: the status, and a header that goes with it.
func (c code) http() (status int, header, value string) {
	switch c {
	case wrongParameter:
		return http.StatusBadRequest, "", ""
	case missingToken:
		return http.StatusUnauthorized, "WWW-Authenticate", "Bearer"
	case refusedToken:
		return http.StatusUnauthorized, "WWW-Authenticate", `Bearer error="invalid_token"`
	case invalidToken:
		return http.StatusForbidden, "", ""
	case notFound, batchNotFound:
		return http.StatusNotFound, "", ""
	case methodNotAllowed:
		return http.StatusMethodNotAllowed, "", ""
	case conflict:
		return http.StatusConflict, "", ""
	case requestTimeout:
		return http.StatusRequestTimeout, "Connection", "close"
	case payloadTooLarge:
		return http.StatusRequestEntityTooLarge, "", ""
	case unsupportedMediaType:
		return http.StatusUnsupportedMediaType, "", ""
	case unknownHost:
		return http.StatusMisdirectedRequest, "", ""
	case rateLimited:
		return http.StatusTooManyRequests, "Retry-After", "5"
	case databaseFull:
		return http.StatusInsufficientStorage, "Retry-After", "60"
	case upstreamFailed:
		return http.StatusBadGateway, "", ""
	case upstreamTimeout:
		return http.StatusGatewayTimeout, "", ""
	case unavailable:
		return http.StatusServiceUnavailable, "Retry-After", "1"
	case internalError:
	}
	return http.StatusInternalServerError, "", ""
}

// apiError is an answer other than success.
type apiError struct {
	code    code
	message string        // a sentence for the caller
	wait    time.Duration // of rateLimited: what Retry-After says, in whole seconds; 0: the code's own
}

func (e *apiError) Error() string { return e.message }

// fail returns an error to answer with.
func fail(c code, format string, args ...any) error {
	return &apiError{code: c, message: fmt.Sprintf(format, args...)}
}

// fail answers with an error.
func (c *call) fail(err error) {
	e := &apiError{code: internalError, message: "The service failed to answer this request. Its log says more."}
	errors.As(err, &e)
	status, header, value := e.code.http()
	if header != "" {
		c.w.Header().Set(header, value)
	}
	if e.wait > 0 {
		c.w.Header().Set("Retry-After", strconv.Itoa(int((e.wait+time.Second-1)/time.Second)))
	}
	body := append([]byte(nil), `{"errorMessage":`...)
	body = batch.AppendString(body, e.message)
	body = append(body, `,"errorCode":`...)
	body = batch.AppendString(body, string(e.code))
	c.send(status, append(body, '}'))
}

// noBatch answers for unknown, foreign and deleted batches and malformed tickets: all
// alike, so that nobody learns which tickets exist.
func noBatch() error {
	return fail(batchNotFound, "There is no batch with this ticket for this store and token.")
}

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
		s.Logger.Error("what is stored of a batch can't be read", "operation", op, "store", c.store, "ticket", ticket, "request_id", c.id, "error", damaged.Err)
		return fail(internalError, "What is stored of batch %s is damaged and can't be read. Other batches are not affected; the service's operator can restore it from a backup.", ticket)
	}
	s.report(c, op, ticket, err)
	return fail(unavailable, "The service can't reach its database at the moment. Ask again in a second.")
}

// busy returns the answer for a call that storage had no turn for; nil: that is not the error.
func busy(err error) error {
	switch {
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
	if c.r.Context().Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) {
		abort()
	}
	attrs := []any{"operation", op, "store", c.store, "request_id", c.id, "error", err}
	if ticket != (batch.Ticket{}) {
		attrs = append(attrs, "ticket", ticket)
	}
	s.Logger.Error("storage failed; the caller was told to come back", attrs...)
}
