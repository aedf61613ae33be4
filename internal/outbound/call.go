package outbound

import (
	"net/http"
	"strings"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/budget"
)

// Call is one attempt to send one request of a batch.
type Call struct {
	Store  string // replaces the placeholder in the upstream's URL
	Method string
	Path   string // as the batch's creator wrote it; batch.CheckPath has accepted it
	Body   []byte // nil: none
	Token  string // the credential, sent as a Bearer token
	Key    string // the Idempotency-Key; "": none

	// Headers are sent in addition. They replace the headers that the client would set itself:
	// User-Agent, Content-Type and Idempotency-Key.
	Headers []batch.Header

	// Memory accounts for the answer's memory; nil: it is not counted. It may already hold bytes.
	// When Do returns, it holds at least as many bytes as the answer's body has. The caller must
	// release it when it drops the body.
	Memory *budget.Share

	// Permit is called right before each write of the request, on another goroutine. If it returns
	// false, nothing more is written. It must not block. nil permits everything.
	Permit func() bool
}

// has reports whether the call has the header.
func (c *Call) has(name string) bool {
	for i := range c.Headers {
		if strings.EqualFold(c.Headers[i].Name, name) {
			return true
		}
	}
	return false
}

// Outcome says what is certain about an attempt.
type Outcome uint8

// The outcomes of an attempt.
const (
	Answered Outcome = iota + 1 // an answer came, or at least its status line
	NotSent                     // no byte of the request was written
	Doubt                       // bytes were written or may have been written, and no answer came
	TooLarge                    // the answer exceeded the limit and was not read to its end
	Withheld                    // no byte of the request was written, because Permit refused
	Refused                     // no byte of the request was written, because the request is invalid or the guard forbids the address
)

// Answer is the result of a Call.
type Answer struct {
	Outcome Outcome
	Code    int         // the status code; if no answer came, 504 after a timeout and otherwise 502
	Line    string      // the reason phrase; if no answer came, what happened, in words that callers may see
	Body    []byte      // nil: empty
	Header  http.Header // nil if no answer came

	// Incomplete means that a part of the answer is missing or can't be read. Code is still the
	// upstream's, and Line says what is missing.
	Incomplete bool
}
