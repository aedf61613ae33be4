package batch

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// Methods are the methods that a request may have (docs/contract.md#create-a-batch).
var Methods = []string{"GET", "POST", "PUT", "DELETE", "PATCH", "HEAD"}

// InvalidError describes what is wrong with a create body.
type InvalidError struct {
	Problems []Problem // the first MaxProblems problems, in the order of the body
	More     int       // further problems
}

// Problem is one thing that is wrong with a body.
type Problem struct {
	Place   string // a JSON path such as $[3].method
	Message string // completes a sentence that begins with the place
}

func (e *InvalidError) Error() string {
	var b strings.Builder
	b.WriteString("Batch request body is invalid: ")
	for i, p := range e.Problems {
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(p.Place + " " + p.Message)
	}
	if e.More > 0 {
		fmt.Fprintf(&b, "; and %d more problems", e.More)
	}
	return b.String()
}

// Decode reads a create body, which is an array of 1 to MaxRequests requests. o holds the options of the
// batch, and admitted decides which headers the requests may have. The error is an *InvalidError that
// reports all problems of the body, up to the first place where it isn't JSON (RFC 8259, without
// repeated keys). The requests' bodies are slices of body, which must not change afterwards.
func Decode(body []byte, o Options, admitted HeaderPolicy) ([]Request, error) {
	return newDecoding(body, o, admitted).decode()
}

func newDecoding(body []byte, o Options, admitted HeaderPolicy) *decoder {
	return &decoder{body: body, options: o, admitted: admitted, json: jsontext.NewDecoder(bytes.NewBuffer(body))}
}

func (d *decoder) decode() ([]Request, error) {
	if err := d.array(); err != nil {
		d.syntax(err)
	} else {
		d.resolve()
	}
	if d.invalid.Problems != nil {
		return nil, &d.invalid
	}
	return d.requests, nil
}

// decoder makes one pass over a body. Its methods return only the errors of the JSON reader. They record
// other problems and continue.
type decoder struct {
	body     []byte
	json     *jsontext.Decoder
	requests []Request
	index    int // index of the element being read
	linked   []linkFields
	read     int // bytes of bodies that were searched for places; for tests
	values   Set // the elements whose body is a JSON value and not a string
	options  Options
	admitted HeaderPolicy
	invalid  InvalidError
}

// note records a problem. place is its JSON path.
func (d *decoder) note(place, format string, args ...any) {
	if len(d.invalid.Problems) == MaxProblems {
		d.invalid.More++
		return
	}
	d.invalid.Problems = append(d.invalid.Problems, Problem{place, fmt.Sprintf(format, args...)})
}

// noteAt records a problem of the current element. field is empty or ".name".
func (d *decoder) noteAt(field, format string, args ...any) {
	if len(d.invalid.Problems) == MaxProblems {
		d.invalid.More++ // without building a message that is never shown
		return
	}
	d.note(fmt.Sprintf("$[%d]%s", d.index, field), format, args...)
}

// syntax records the problem that ended the pass.
func (d *decoder) syntax(err error) {
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		d.note("$", "ends too early, after %d bytes", len(d.body))
		return
	}
	place, why := "$", strings.TrimPrefix(err.Error(), "jsontext: ")
	var s *jsontext.SyntacticError
	if errors.As(err, &s) {
		place = jsonPath(s.JSONPointer)
		why = fmt.Sprintf("%v at byte %d", s.Err, s.ByteOffset)
		if errors.Is(s.Err, jsontext.ErrDuplicateName) {
			why = fmt.Sprintf("is given twice, at byte %d", s.ByteOffset)
		}
	}
	d.note(place, "%s", why)
}

// maxPlace limits the length of a problem's path in bytes, because callers choose names and depth.
const maxPlace = 256

// jsonPath turns a JSON pointer (RFC 6901) into a JSON path of at most maxPlace bytes.
func jsonPath(p jsontext.Pointer) string {
	var b strings.Builder
	b.WriteByte('$')
	for token := range p.Tokens() {
		if b.Len()+len(token) > maxPlace {
			b.WriteString("…")
			break
		}
		switch {
		case token != "" && strings.Trim(token, "0123456789") == "":
			b.WriteString("[" + token + "]")
		case token != "" && strings.Trim(token, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") == "":
			b.WriteString("." + token)
		default:
			b.WriteByte('[')
			b.Write(AppendString(nil, token))
			b.WriteByte(']')
		}
	}
	return b.String()
}

func (d *decoder) array() error {
	if d.json.PeekKind() != '[' {
		return d.skipInstead("$", "must be an array of 1 to %d requests", MaxRequests)
	}
	if _, err := d.json.ReadToken(); err != nil {
		return err
	}
	for ; d.json.PeekKind() != ']'; d.index++ {
		read := d.element
		if d.index >= MaxRequests {
			read = d.json.SkipValue // further elements are only counted
		}
		if err := read(); err != nil {
			return err
		}
		runtime.Gosched() // otherwise a large batch would delay other goroutines by 10 ms
	}
	if _, err := d.json.ReadToken(); err != nil {
		return err
	}
	switch {
	case d.index == 0:
		d.note("$", "must have at least one request")
	case d.index > MaxRequests:
		d.note("$", "must have at most %d requests; it has %d", MaxRequests, d.index)
	}
	return d.end()
}

// end checks that nothing follows the array.
func (d *decoder) end() error {
	at := d.json.InputOffset()
	if rest := bytes.TrimLeft(d.body[at:], " \t\r\n"); len(rest) > 0 {
		d.note("$", "must be followed by nothing; there is more at byte %d", len(d.body)-len(rest))
	}
	return nil
}

// skipInstead records a problem with the next value, and skips the value.
func (d *decoder) skipInstead(place, format string, args ...any) error {
	if err := d.json.SkipValue(); err != nil {
		return err
	}
	d.note(place, format, args...)
	return nil
}

// element reads one request.
func (d *decoder) element() error {
	if k := d.json.PeekKind(); k != '{' {
		return d.skipInstead(fmt.Sprintf("$[%d]", d.index), "must be an object")
	}
	if _, err := d.json.ReadToken(); err != nil {
		return err
	}
	var r Request
	var has struct{ method, path bool }
	for d.json.PeekKind() != '}' {
		name, err := d.json.ReadToken()
		if err != nil {
			return err
		}
		switch name.String() {
		case "id":
			err = d.id(&r)
		case "method":
			has.method = true
			err = d.method(&r)
		case "path":
			has.path = true
			err = d.path(&r)
		case "body":
			err = d.payload(&r)
		case "headers":
			err = d.headers(&r)
		case "dependsOn":
			err = d.dependsOn(&r)
		case "runIf":
			err = d.runIf(&r)
		case "refs":
			err = d.refs(&r)
		default:
			err = d.json.SkipValue()
		}
		if err != nil {
			return err
		}
	}
	if _, err := d.json.ReadToken(); err != nil {
		return err
	}
	if !has.method {
		d.noteAt(".method", "is required")
	}
	if !has.path {
		d.noteAt(".path", "is required")
	}
	d.requests = append(d.requests, r)
	return nil
}

// text reads a string. Any other value is recorded as a problem, and ok is false.
func (d *decoder) text(field string) (s string, ok bool, err error) {
	return d.textAt(func() string { return field })
}

// textAt is text with a function that returns the field's name. It is called only if there is a problem.
func (d *decoder) textAt(field func() string) (s string, ok bool, err error) {
	if k := d.json.PeekKind(); k != '"' {
		return "", false, d.skipInstead(fmt.Sprintf("$[%d]%s", d.index, field()), "must be a string")
	}
	token, err := d.json.ReadToken()
	if err != nil {
		return "", false, err
	}
	return token.String(), true, nil
}

func (d *decoder) id(r *Request) error {
	if d.json.PeekKind() == 'n' {
		return d.json.SkipValue()
	}
	s, ok, err := d.text(".id")
	if ok && len(s) > MaxID {
		d.noteAt(".id", "must be at most %d bytes long; it has %d", MaxID, len(s))
	}
	r.ID = s
	return err
}

func (d *decoder) method(r *Request) error {
	s, ok, err := d.text(".method")
	if ok {
		i := slices.Index(Methods, s)
		if i < 0 {
			d.noteAt(".method", "must be one of %s", strings.Join(Methods, ", "))
			return err
		}
		r.Method = Methods[i]
	}
	return err
}

func (d *decoder) path(r *Request) error {
	s, ok, err := d.text(".path")
	if ok {
		if wrong := CheckPath(s); wrong != nil {
			d.noteAt(".path", "%v", wrong)
		}
	}
	r.Path = s
	return err
}

// payload reads a request's body. For a JSON string, the body is its text; any other JSON stays
// unchanged.
func (d *decoder) payload(r *Request) error {
	switch d.json.PeekKind() { //nolint:exhaustive // all others stay JSON
	case 'n':
		return d.json.SkipValue()
	case '"':
		token, err := d.json.ReadToken()
		if err == nil && token.String() != "" {
			r.Body = []byte(token.String())
		}
		return err
	}
	v, err := d.json.ReadValue()
	if err != nil {
		return err
	}
	end := int(d.json.InputOffset())
	r.Body = d.body[end-len(v) : end : end]
	d.values.Add(d.index)
	return nil
}
