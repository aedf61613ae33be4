package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// The values of Error.Code. They are stable. Servers may send others.
const (
	WrongParameter       = "WRONG_PARAMETER"
	MissingAPIToken      = "MISSING_API_TOKEN"
	InvalidAPIToken      = "INVALID_API_TOKEN" //nolint:gosec // not a credential
	RefusedAPIToken      = "REFUSED_API_TOKEN" //nolint:gosec // not a credential
	NotFound             = "NOT_FOUND"
	BatchNotFound        = "BATCH_NOT_FOUND"
	MethodNotAllowed     = "METHOD_NOT_ALLOWED"
	Conflict             = "CONFLICT"
	RequestTimeout       = "REQUEST_TIMEOUT"
	PayloadTooLarge      = "PAYLOAD_TOO_LARGE"
	UnsupportedMediaType = "UNSUPPORTED_MEDIA_TYPE"
	RateLimited          = "RATE_LIMITED"
	InternalError        = "INTERNAL_ERROR"
	Unavailable          = "UNAVAILABLE"
)

// Error is an unsuccessful answer from the server.
type Error struct {
	StatusCode int           // the HTTP status code
	Code       string        // errorCode; empty if the answer isn't from the batch API
	Message    string        // errorMessage, or a description of the answer
	RetryAfter time.Duration // the wait that the server asks for; 0: none
}

// Error returns the code and the message.
func (e *Error) Error() string {
	if e.Code == "" {
		return e.Message
	}
	return e.Code + ": " + e.Message
}

// maxErrorBody is how many bytes of an unsuccessful answer are read.
const maxErrorBody = 64 << 10

func newError(resp *http.Response) *Error {
	e := &Error{StatusCode: resp.StatusCode, RetryAfter: retryAfter(resp.Header, time.Now())}
	text, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody)) // if this fails, the error has only the status
	var body struct {
		Message string `json:"errorMessage"`
		Code    string `json:"errorCode"`
	}
	if json.Unmarshal(text, &body) == nil && body.Message != "" {
		e.Code, e.Message = body.Code, body.Message
		return e
	}
	e.Message = fmt.Sprintf("%s answered %s, which isn't an answer from the batch API; check the server's URL", resp.Request.URL.Host, resp.Status)
	return e
}

// RequestError means that a request of a batch did not succeed. See Into.
type RequestError struct{ Response *Response }

// Error names the request and its result.
func (e *RequestError) Error() string {
	r := e.Response
	if r.Status == NotExecuted {
		return strings.TrimSpace(fmt.Sprintf("request %s was not executed: %s", r.name(), r.Reason))
	}
	return fmt.Sprintf("request %s failed: %d %s", r.name(), r.StatusCode, r.StatusLine)
}

var errTimeout = errors.New("timeout waiting for an answer")

// transportError means that no complete answer arrived.
type transportError struct {
	server string
	err    error
}

func (e *transportError) Error() string { return fmt.Sprintf("call %s: %v", e.server, e.err) }
func (e *transportError) Unwrap() error { return e.err }

// unwrapURL removes the URL from an error, because it contains the query.
func unwrapURL(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}
