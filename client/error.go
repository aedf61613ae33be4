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

// The values of Error.Code. They are stable; a server may have more.
const (
	WrongParameter       = "WRONG_PARAMETER"
	MissingAPIToken      = "MISSING_API_TOKEN"
	InvalidAPIToken      = "INVALID_API_TOKEN" //nolint:gosec // a word, no credential
	RefusedAPIToken      = "REFUSED_API_TOKEN" //nolint:gosec // a word, no credential
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

// Error is an answer of the server other than success.
type Error struct {
	StatusCode int           // the HTTP status
	Code       string        // errorCode; empty where the answer is none of the batch API's
	Message    string        // errorMessage, or the status line
	RetryAfter time.Duration // when the server says to ask again; 0: it does not
}

// Error returns the code and the message.
func (e *Error) Error() string {
	if e.Code == "" {
		return e.Message
	}
	return e.Code + ": " + e.Message
}

// mostRefusal bounds what is read of an answer other than success.
const mostRefusal = 64 << 10

func newError(resp *http.Response) *Error {
	e := &Error{StatusCode: resp.StatusCode, RetryAfter: retryAfter(resp.Header, time.Now())}
	text, _ := io.ReadAll(io.LimitReader(resp.Body, mostRefusal)) // a part of it is as good
	var body struct {
		Message string `json:"errorMessage"`
		Code    string `json:"errorCode"`
	}
	if json.Unmarshal(text, &body) == nil && body.Message != "" {
		e.Code, e.Message = body.Code, body.Message
		return e
	}
	e.Message = fmt.Sprintf("%s answered %s, which is no answer of the batch API: is the address right?", resp.Request.URL.Host, resp.Status)
	return e
}

// RequestError says that a request of a batch was no success. See Into.
type RequestError struct{ Response *Response }

// Error tells which request, and what became of it.
func (e *RequestError) Error() string {
	r := e.Response
	if r.Status == NotExecuted {
		return strings.TrimSpace(fmt.Sprintf("request %s was not executed: %s", r.name(), r.Reason))
	}
	return fmt.Sprintf("request %s failed: %d %s", r.name(), r.StatusCode, r.StatusLine)
}

var errTimeout = errors.New("no answer came in time")

// transportError says that no whole answer came.
type transportError struct {
	server string
	err    error
}

func (e *transportError) Error() string { return fmt.Sprintf("ask %s: %v", e.server, e.err) }
func (e *transportError) Unwrap() error { return e.err }

// unwrapURL takes the address off an error: it holds the query.
func unwrapURL(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}
