package api

import (
	"fmt"
	"net/http"
	"time"
)

// code is an errorCode (docs/contract.md#errors). Codes are stable.
type code string

const (
	wrongParameter       code = "WRONG_PARAMETER"
	missingToken         code = "MISSING_API_TOKEN"
	invalidToken         code = "INVALID_API_TOKEN" //nolint:gosec // not a credential
	refusedToken         code = "REFUSED_API_TOKEN" //nolint:gosec // not a credential
	notFound             code = "NOT_FOUND"
	batchNotFound        code = "BATCH_NOT_FOUND"
	methodNotAllowed     code = "METHOD_NOT_ALLOWED"
	conflict             code = "CONFLICT"
	requestTimeout       code = "REQUEST_TIMEOUT"
	payloadTooLarge      code = "PAYLOAD_TOO_LARGE"
	unsupportedMediaType code = "UNSUPPORTED_MEDIA_TYPE"
	unknownHost          code = "UNKNOWN_HOST" // sent by the command, before a call reaches this package
	rateLimited          code = "RATE_LIMITED"
	internalError        code = "INTERNAL_ERROR"
	unavailable          code = "UNAVAILABLE"
	databaseFull         code = "DATABASE_FULL"
	upstreamFailed       code = "UPSTREAM_FAILED"
	upstreamTimeout      code = "UPSTREAM_TIMEOUT"
)

// answers maps each code to its HTTP status and the header that goes with it, if any.
var answers = map[code]struct {
	http          int
	header, value string
}{
	wrongParameter:       {http: http.StatusBadRequest},
	missingToken:         {http.StatusUnauthorized, "WWW-Authenticate", "Bearer"},
	refusedToken:         {http.StatusUnauthorized, "WWW-Authenticate", `Bearer error="invalid_token"`},
	invalidToken:         {http: http.StatusForbidden},
	notFound:             {http: http.StatusNotFound},
	batchNotFound:        {http: http.StatusNotFound},
	methodNotAllowed:     {http: http.StatusMethodNotAllowed},
	requestTimeout:       {http.StatusRequestTimeout, "Connection", "close"},
	conflict:             {http: http.StatusConflict},
	payloadTooLarge:      {http: http.StatusRequestEntityTooLarge},
	unsupportedMediaType: {http: http.StatusUnsupportedMediaType},
	unknownHost:          {http: http.StatusMisdirectedRequest},
	rateLimited:          {http.StatusTooManyRequests, "Retry-After", "5"},
	internalError:        {http: http.StatusInternalServerError},
	upstreamFailed:       {http: http.StatusBadGateway},
	unavailable:          {http.StatusServiceUnavailable, "Retry-After", "1"},
	upstreamTimeout:      {http: http.StatusGatewayTimeout},
	databaseFull:         {http.StatusInsufficientStorage, "Retry-After", "60"},
}

// apiError is an answer that isn't a success.
type apiError struct {
	code    code
	message string        // a sentence for the caller
	wait    time.Duration // for Retry-After, rounded up to seconds; 0: the code's default
}

func (e *apiError) Error() string { return e.message }

// fail returns an apiError.
func fail(c code, format string, args ...any) error {
	return &apiError{code: c, message: fmt.Sprintf(format, args...)}
}

// noBatch returns the answer for a malformed, unknown or deleted ticket and for the ticket of
// another caller. The answer is always the same, so that nobody learns which tickets exist.
func noBatch() error {
	return fail(batchNotFound, "There is no batch with this ticket for this store and token.")
}
