package batch

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/http/httpguts"
)

// Limits of Links (docs/contract.md#requests-that-depend-on-each-other).
const (
	MaxHeaders     = 50       // headers of one request
	MaxHeaderBytes = 8 << 10  // bytes of the names and values of one request's headers
	MaxRefs        = 100      // references of one request
	MaxRefName     = 64       // bytes of the name of a place in a path or query
	MaxRefValue    = 64 << 10 // bytes of the JSON of a value that is taken from an answer
)

// Links are the optional fields of a request.
type Links struct {
	Headers   []Header `json:"h,omitempty"` // in the creator's order
	DependsOn []int    `json:"d,omitempty"` // indexes of earlier requests of the batch, ascending; includes those of Refs
	RunIf     RunIf    `json:"i,omitempty"`
	Refs      []Ref    `json:"r,omitempty"`
}

// Header is one header field (RFC 9110, section 5).
type Header struct {
	Name  string `json:"n"`
	Value string `json:"v"`
}

// RunIf is the condition under which a request is sent once its dependencies have ended.
type RunIf uint8

// The conditions. If the condition doesn't hold, the request is NOT_EXECUTED.
const (
	IfSuccess RunIf = iota // all dependencies are COMPLETED
	IfFailure              // at least one dependency isn't COMPLETED
	Always                 // no condition
)

// runIfs holds the words of the wire format, by condition.
var runIfs = []string{"success", "failure", "always"}

func (r RunIf) String() string { return runIfs[r] }

// Holds reports whether a request is sent if its dependencies have ended like this, and if not, why.
func (r RunIf) Holds(ends []ResultStatus) (ok bool, why string) {
	bad := slices.IndexFunc(ends, func(s ResultStatus) bool { return s != Succeeded })
	switch {
	case r == IfSuccess && bad >= 0:
		return false, "a request that it depends on is not COMPLETED"
	case r == IfFailure && bad < 0:
		return false, "every request that it depends on is COMPLETED, and it runs only after a failure"
	}
	return true, ""
}

// Where is the kind of place that a reference fills.
type Where uint8

// The kinds of places.
const (
	InPath   Where = iota + 1 // a {NAME} in the path, within its segment
	InQuery                   // a {NAME} in the query
	InBody                    // a value in the JSON of the body
	InHeader                  // a header
)

// wheres holds the words of the wire format, by kind.
var wheres = []string{"", "path", "query", "body", "header"}

func (w Where) String() string { return wheres[w] }

// Ref is a reference: it fills a place in a request with a value from an earlier answer.
type Ref struct {
	Where Where  `json:"w"`
	Name  string `json:"n"`           // name of the place; InBody: a pointer (RFC 6901)
	From  int    `json:"f"`           // index of the request whose answer has the value
	Field string `json:"h,omitempty"` // the answer's header, such as ETag, or a segment of the URL in it, such as Location/-1; empty: the answer's body
	Path  string `json:"p,omitempty"` // a pointer into the answer's body
}

// text returns the reference as its creator wrote it, except that it has the index of the request that it
// refers to instead of the id. It shortens long names.
func (r *Ref) text() string {
	from := fmt.Sprintf("$[%d]#%s", r.From, cut(r.Path, maxPlace))
	if r.Field != "" {
		from = fmt.Sprintf("$[%d]@%s", r.From, cut(r.Field, maxPlace))
	}
	return fmt.Sprintf("%s:%s from %s", r.Where, cut(r.Name, maxPlace), from)
}

// cut returns s, or only its beginning if s is longer than n bytes.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}

// checkToken returns an error if name is not a valid header name. The error completes a sentence that
// begins with the name.
func checkToken(name string) error {
	if !httpguts.ValidHeaderFieldName(name) {
		return errors.New("must have a name of letters, digits and hyphens (RFC 9110, section 5.1)")
	}
	return nil
}

// maxSegment limits the number of a segment.
const maxSegment = 99

// cutSegment splits a reference's Field into the header's name and the number of the segment. ok reports
// whether the text is valid; whole, whether it names the whole header.
func cutSegment(field string) (name string, segment int, whole, ok bool) {
	name, number, has := strings.Cut(field, "/")
	if checkToken(name) != nil {
		return "", 0, false, false
	}
	if !has {
		return name, 0, true, true
	}
	segment, err := strconv.Atoi(number)
	return name, segment, false, err == nil && strconv.Itoa(segment) == number && segment >= -maxSegment && segment <= maxSegment
}

// segmentOf returns a segment of a URL's path, percent-decoded once. Segments count from 0 or, if n is
// negative, from -1 backward. A slash at the end of the path begins no segment, and an empty segment has
// no value.
func segmentOf(text string, n int) (value string, found bool) {
	u, err := url.Parse(text)
	if err != nil {
		return "", false
	}
	path := u.EscapedPath()
	segments := strings.Split(strings.TrimSuffix(strings.TrimPrefix(path, "/"), "/"), "/")
	if n < 0 {
		n += len(segments)
	}
	if n < 0 || n >= len(segments) {
		return "", false
	}
	value, err = url.PathUnescape(segments[n])
	return value, err == nil && value != "" && utf8.ValidString(value)
}

// checkHeaderValue returns an error if value is not a valid header value. The error completes a sentence
// that begins with the header's name.
func checkHeaderValue(value string) error {
	if !httpguts.ValidHeaderFieldValue(value) || strings.TrimSpace(value) != value {
		return errors.New("must be a valid header value: no control characters, and no space at either end")
	}
	return nil
}
