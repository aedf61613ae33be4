package outbound

import (
	"net/http"
	"strings"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/budget"
)

// Call is one attempt at one sub-request.
type Call struct {
	Store  string // put into the upstream's address template
	Method string
	Path   string // as the batch's creator wrote it and batch.CheckPath let it pass
	Body   []byte // nil: none
	Token  string // the credential, sent as a Bearer token
	Key    string // the Idempotency-Key; empty: none

	// Headers are sent too. One that the client would set itself (User-Agent, Content-Type,
	// Idempotency-Key) takes its place.
	Headers []batch.Header

	// Memory is what the answer takes its memory from while it is read; nil: memory is not
	// counted. It may hold bytes already. It is the caller's again when Do has returned: it
	// holds at least as many bytes as the answer's body then, and is to be released when the
	// body is dropped.
	Memory *budget.Share

	// Permit is asked right before each write of the request, from another goroutine;
	// nil: always. What it refuses is not written. It must not block.
	Permit func() bool
}

// has reports whether the caller has given the header.
func (c *Call) has(name string) bool {
	for i := range c.Headers {
		if strings.EqualFold(c.Headers[i].Name, name) {
			return true
		}
	}
	return false
}

// Outcome is what is certain about an attempt.
type Outcome uint8

// The outcomes of an attempt.
const (
	Answered Outcome = iota + 1 // an answer came, at least its status line
	NotSent                     // no byte of the request was written
	Doubt                       // bytes were written and no answer came
	TooLarge                    // the answer was larger than the limit; reading it was given up
	Withheld                    // no byte of the request was written, because Permit refused
	Refused                     // no byte of the request was written, and none will be: it can't be sent as it is
)

// Answer is what came of a Call.
type Answer struct {
	Outcome Outcome
	Code    int         // the status code; without an answer 504 after a timeout, else 502
	Line    string      // the reason phrase; without an answer what happened, in words a caller may see
	Body    []byte      // the body as it came; nil: empty
	Header  http.Header // nil without an answer

	// Incomplete means that a part of the answer didn't come or can't be read. Code is still the
	// upstream's, and Line says what is missing.
	Incomplete bool
}
