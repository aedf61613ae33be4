package batch

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// RefError says which reference of a request can't be filled. Its text is for the
// request's creator, and holds nothing of the answer.
type RefError struct {
	Ref *Ref
	Why string
}

func (e *RefError) Error() string { return "the reference " + e.Ref.text() + " " + e.Why }

// Value is what a reference has found in an answer.
type Value struct {
	JSON []byte // a JSON value; nil: Why tells why there is none
	Why  string // completes a sentence that the reference begins
}

// Extract takes from a result what the reference says. It never fails: what is not found
// is told when the value is needed.
func (r *Ref) Extract(result *Result) Value {
	if result.Status == NotExecuted {
		return Value{Why: "finds no answer: that request was not executed"}
	}
	if r.Field != "" {
		i := slices.IndexFunc(result.Headers, func(h Header) bool { return strings.EqualFold(h.Name, r.Field) })
		if i < 0 {
			return Value{Why: "finds no such header in the answer"}
		}
		return Value{JSON: AppendString(nil, result.Headers[i].Value)}
	}
	if result.Kind != JSONBody {
		return Value{Why: "finds no JSON in the answer"}
	}
	found, err := locate(result.Body, r.Path)
	switch {
	case err != nil:
		return Value{Why: "finds nothing there in the answer"}
	case found.end-found.begin > MaxRefValue:
		return Value{Why: fmt.Sprintf("finds a value of more than %d bytes", MaxRefValue)}
	}
	return Value{JSON: bytes.Clone(result.Body[found.begin:found.end])}
}

// span is where a value stands in a text.
type span struct{ begin, end int }

var errNoPlace = errors.New("there is nothing at this place")

// locate finds the value that a pointer (RFC 6901) names in a JSON text. Of a name that
// stands twice in an object the first one counts.
func locate(text []byte, pointer string) (span, error) {
	d := jsontext.NewDecoder(bytes.NewBuffer(text), jsontext.AllowDuplicateNames(true))
	for token := range jsontext.Pointer(pointer).Tokens() {
		if err := descend(d, token); err != nil {
			return span{}, err
		}
	}
	value, err := d.ReadValue()
	if err != nil {
		return span{}, errNoPlace
	}
	end := int(d.InputOffset())
	return span{end - len(value), end}, nil
}

// descend goes to a member of the object, or an element of the array, that comes next.
func descend(d *jsontext.Decoder, token string) error {
	index, isIndex := arrayIndex(token)
	switch d.PeekKind() { //nolint:exhaustive // all others have no members
	case '{':
		if _, err := d.ReadToken(); err != nil {
			return errNoPlace
		}
		for d.PeekKind() == '"' {
			name, err := d.ReadToken()
			if err != nil {
				return errNoPlace
			}
			if name.String() == token {
				return nil
			}
			if err := d.SkipValue(); err != nil {
				return errNoPlace
			}
		}
	case '[':
		if !isIndex {
			return errNoPlace
		}
		if _, err := d.ReadToken(); err != nil {
			return errNoPlace
		}
		for ; d.PeekKind() != ']'; index-- {
			if index == 0 {
				return nil
			}
			if err := d.SkipValue(); err != nil {
				return errNoPlace
			}
		}
	}
	return errNoPlace
}

// arrayIndex reads a token as an index: digits without leading zeros (RFC 6901, section 4).
func arrayIndex(token string) (n int, ok bool) {
	if token == "" || len(token) > 9 || token[0] == '0' && len(token) > 1 {
		return 0, false
	}
	for i := range len(token) {
		if token[i] < '0' || token[i] > '9' {
			return 0, false
		}
		n = n*10 + int(token[i]-'0')
	}
	return n, true
}

// checkPointer reports whether s is a pointer (RFC 6901). An error completes a sentence.
func checkPointer(s string) error {
	if !jsontext.Pointer(s).IsValid() {
		return errors.New(`must be a JSON pointer such as /items/0/id: "" or a text that begins with "/", with ~0 for ~ and ~1 for /`)
	}
	return nil
}

// Fill returns the request as it is sent: the places of its references hold the values,
// which are by the references' order. The request itself stays as it is. Errors: *RefError.
func (r *Request) Fill(values []Value) (*Request, error) {
	out := *r
	links := *r.Links
	out.Links, links.Headers = &links, slices.Clone(links.Headers)
	var bodies []edit
	for i := range r.Links.Refs {
		ref, v := &r.Links.Refs[i], values[i]
		wrong := func(why string) error { return &RefError{ref, why} }
		if v.JSON == nil {
			return nil, wrong(v.Why)
		}
		if ref.Where == InBody {
			at, err := locate(r.Body, ref.Name)
			if err != nil {
				return nil, wrong("has no place in the body")
			}
			bodies = append(bodies, edit{at, v.JSON})
			continue
		}
		text, err := scalar(v.JSON)
		if err != nil {
			return nil, wrong(err.Error())
		}
		switch ref.Where { //nolint:exhaustive // the body was dealt with
		case InHeader:
			if err := checkHeaderValue(text); err != nil {
				return nil, wrong("finds a value that is no header's: it " + err.Error())
			}
			links.Headers = append(links.Headers, Header{ref.Name, text})
		case InPath:
			if err := checkSegmentValue(text); err != nil {
				return nil, wrong(err.Error())
			}
			path, query, has := strings.Cut(out.Path, "?")
			path = strings.ReplaceAll(path, "{"+ref.Name+"}", escape(text))
			if out.Path = path; has {
				out.Path += "?" + query
			}
		case InQuery:
			path, query, _ := strings.Cut(out.Path, "?")
			out.Path = path + "?" + strings.ReplaceAll(query, "{"+ref.Name+"}", escape(text))
		}
	}
	if out.Path != r.Path {
		if err := CheckPath(out.Path); err != nil {
			return nil, &RefError{firstPathRef(r.Links.Refs), "makes a path that " + err.Error()}
		}
	}
	out.Body = replace(r.Body, bodies)
	return &out, nil
}

func firstPathRef(refs []Ref) *Ref {
	return &refs[slices.IndexFunc(refs, func(r Ref) bool { return r.Where == InPath || r.Where == InQuery })]
}

// scalar returns the text of a JSON value that is one: a string's content, a number or
// a boolean as it stands. A control character in it is refused.
func scalar(value []byte) (string, error) {
	d := jsontext.NewDecoder(bytes.NewReader(value))
	token, err := d.ReadToken()
	if err != nil && !errors.Is(err, io.EOF) {
		return "", errors.New("finds a value that can't be read")
	}
	switch token.Kind() {
	case '"', '0', 't', 'f':
	default:
		return "", errors.New("finds no single value: a text, a number, true or false")
	}
	text := token.String()
	if token.Kind() == '0' {
		text = string(value) // as it stands: no digit is lost
	}
	for _, c := range text {
		if c < ' ' || c >= 0x7f && c < 0xa0 {
			return "", errors.New("finds a value with a control character")
		}
	}
	return text, nil
}

// checkSegmentValue reports whether a value can stand in a path without leaving its
// segment, however often what stands behind the upstream decodes.
func checkSegmentValue(text string) error {
	if text == "" {
		return errors.New("finds an empty value")
	}
	for { // decoded as long as it changes
		if strings.ContainsAny(text, `/\`) {
			return errors.New("finds a value with a slash or a backslash")
		}
		if text == "." || text == ".." {
			return errors.New("finds a value that is a dot segment")
		}
		decoded := unescape(text)
		if decoded == text {
			return nil
		}
		text = decoded
	}
}

// unescape undoes what percent-encoding there is, once.
func unescape(s string) string {
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) && isHex(s[i+1]) && isHex(s[i+2]) {
			out = append(out, unhex(s[i+1])<<4|unhex(s[i+2]))
			i += 2
			continue
		}
		out = append(out, s[i])
	}
	return string(out)
}

// escape percent-encodes everything but unreserved characters (RFC 3986, section 2.3).
func escape(s string) string {
	const hex = "0123456789ABCDEF"
	out := make([]byte, 0, len(s))
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("-._~", c) >= 0:
			out = append(out, c)
		default:
			out = append(out, '%', hex[c>>4], hex[c&15])
		}
	}
	return string(out)
}

// edit puts a text into the place of another.
type edit struct {
	span
	with []byte
}

// replace carries edits out, which do not overlap.
func replace(text []byte, edits []edit) []byte {
	if len(edits) == 0 {
		return text
	}
	slices.SortFunc(edits, func(a, b edit) int { return a.begin - b.begin })
	var out []byte
	from := 0
	for _, e := range edits {
		out = append(append(out, text[from:e.begin]...), e.with...)
		from = e.end
	}
	return append(out, text[from:]...)
}
