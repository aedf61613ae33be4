// Package batch holds the vocabulary of the service (batch, request, result) and the wire format: it
// decodes create bodies, encodes statuses and checks paths and headers. It does no I/O and imports no
// other package of the module.
package batch

import (
	"crypto/sha256"
	"encoding/hex"
	"math/bits"

	"github.com/google/uuid"
)

// Limits on a batch and its requests (docs/contract.md#create-a-batch).
const (
	MaxRequests = 500      // requests in one batch
	MaxID       = 256      // bytes of a request's id
	MaxPath     = 8 << 10  // bytes of a request's path
	MaxGroupID  = 256      // bytes of a group's name
	MaxParallel = 100      // requests in flight per parallel batch
	MaxProblems = 20       // problems that are reported for a body
	MaxStoreID  = 64       // bytes of a store's id
	MaxToken    = 16 << 10 // bytes of a caller's token

	DefaultMaxBody = 10 << 20 // bytes of a create's body, unless an option sets another limit
)

// Ticket identifies a batch to its creator. It is random (UUID version 4), so it can't be guessed.
type Ticket = uuid.UUID

// Owner is the SHA-256 of the token that created a batch. Compare owners only with crypto/subtle.
type Owner [sha256.Size]byte

// OwnerOf returns the owner that a token identifies.
func OwnerOf(token string) Owner { return sha256.Sum256([]byte(token)) }

// Request is one HTTP call of a batch, as its creator wrote it.
type Request struct {
	ID     string // the creator's name for it; empty: none
	Method string // GET, HEAD, POST, PUT, PATCH or DELETE
	Path   string // unchanged: relative to the store's root, with the query
	Body   []byte // the bytes to send; nil: no body
	Links  *Links // its optional fields; nil: none
}

// Safe reports whether the method only reads (RFC 9110, section 9.2.1). A safe request may leave
// before its intent is durable.
func (r *Request) Safe() bool { return r.Method == "GET" || r.Method == "HEAD" }

// Repeatable reports whether the method is idempotent (RFC 9110, section 9.2.2), so that sending the
// request again does no harm. POST and PATCH aren't.
func (r *Request) Repeatable() bool { return r.Method != "POST" && r.Method != "PATCH" }

// Status is the state of a batch as its creator sees it.
type Status uint8

// The states of a batch, in their order.
const (
	Queued     Status = iota + 1 // no request has ended yet
	InProgress                   // at least one request has ended
	Completed                    // nothing more will happen
)

// String returns the word of the wire format.
func (s Status) String() string {
	switch s {
	case Queued:
		return "QUEUED"
	case InProgress:
		return "IN_PROGRESS"
	case Completed:
		return "COMPLETED"
	}
	return "UNKNOWN"
}

// ParseStatus reads the word of the wire format.
func ParseStatus(s string) (Status, bool) {
	for _, st := range []Status{Queued, InProgress, Completed} {
		if s == st.String() {
			return st, true
		}
	}
	return 0, false
}

// ResultStatus is how one request ended.
type ResultStatus uint8

// The ends of a request.
const (
	Succeeded   ResultStatus = iota + 1 // COMPLETED: answered with success
	Failed                              // FAILED: answered otherwise, not answered, or in doubt
	NotExecuted                         // NOT_EXECUTED: never sent
)

// String returns the word of the wire format.
func (s ResultStatus) String() string {
	switch s {
	case Succeeded:
		return "COMPLETED"
	case Failed:
		return "FAILED"
	case NotExecuted:
		return "NOT_EXECUTED"
	}
	return "UNKNOWN"
}

// BodyKind says how an answer's body is embedded in a status.
type BodyKind uint8

// The kinds of bodies. A body's kind is determined once, when the answer is stored.
const (
	NoBody     BodyKind = iota // empty: the field is absent
	JSONBody                   // valid JSON: embedded unchanged
	TextBody                   // UTF-8, but not JSON: embedded as a JSON string
	BinaryBody                 // not UTF-8: embedded as a base64 string
)

// Result is the end of one request.
type Result struct {
	Status  ResultStatus
	Code    int    // HTTP status code; 0: the request was not executed
	Line    string // reason phrase, or why there is no answer; valid UTF-8
	Body    []byte // the answer's body, unchanged
	Kind    BodyKind
	Headers []Header // the answer's headers: see outbound.Answer.Kept
}

// OutcomeUnknown is the result of a request that was in flight when its node died and that must not be
// sent again.
var OutcomeUnknown = Result{
	Status: Failed,
	Code:   502,
	Line:   "Bad Gateway: the service was interrupted while this request was in flight; it is not known whether the upstream carried it out, and it was not sent again",
}

// Set is a set of request indexes of one batch.
type Set [(MaxRequests + 63) / 64]uint64

// Add puts index i into the set.
func (s *Set) Add(i int) { s[i>>6] |= 1 << (i & 63) }

// Has reports whether index i is in the set.
func (s *Set) Has(i int) bool { return s[i>>6]&(1<<(i&63)) != 0 }

// Len returns how many indexes are in the set.
func (s *Set) Len() (n int) {
	for _, word := range s {
		n += bits.OnesCount64(word)
	}
	return n
}

// IdempotencyKey returns the key that is sent with the request at index i of the batch. It is a UUID
// (version 8, RFC 9562). All retries have the same key, even after a crash, and it doesn't reveal the
// ticket.
func IdempotencyKey(ticket Ticket, i int) string {
	const salt = "sheaf idempotency key\x00"
	text := make([]byte, 0, len(salt)+len(ticket)+2)
	text = append(append(text, salt...), ticket[:]...)
	sum := sha256.Sum256(append(text, byte(i>>8), byte(i)))
	u := uuid.UUID(sum[:16])
	u[6] = u[6]&0x0f | 0x80
	u[8] = u[8]&0x3f | 0x80
	return u.String()
}

// ValidStoreID reports whether s can name a store: 1 to 64 of A-Z a-z 0-9 _ -
// (docs/contract.md#urls).
func ValidStoreID(s string) bool {
	if s == "" || len(s) > MaxStoreID {
		return false
	}
	for i := range len(s) {
		if !isNameByte(s[i]) {
			return false
		}
	}
	return true
}

// isNameByte reports whether c is one of A-Z a-z 0-9 _ -.
func isNameByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-'
}

// Short returns the first characters of an owner's hash, for log lines.
func (o Owner) Short() string { return hex.EncodeToString(o[:4]) }
