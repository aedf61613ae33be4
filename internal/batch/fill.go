package batch

import (
	"bytes"
	"cmp"
	"errors"
	"io"
	"iter"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// RefError says which reference of a request can't be filled, and why. Its text is for the request's
// creator and contains no part of the answer.
type RefError struct {
	Ref *Ref
	Why string
}

func (e *RefError) Error() string { return "the reference " + e.Ref.text() + " " + e.Why }

// Value is the value that a reference has found in an answer.
type Value struct {
	JSON []byte // a JSON value, which other references may share; nil: there is none
	Why  string // why there is no value; completes a sentence that begins with the reference
}

// Fill returns a copy of the request in which values fill the places of its references. values has the
// order of the references. The time is proportional to the size of the request and the values. The error
// is a *RefError.
func (r *Request) Fill(values []Value) (*Request, error) {
	f := filler{request: r, path: map[string]string{}, query: map[string]string{}}
	f.locate()
	for i := range r.Links.Refs {
		ref := &r.Links.Refs[i]
		if values[i].JSON == nil {
			return nil, &RefError{ref, cmp.Or(values[i].Why, whyNotExecuted)}
		}
		if err := f.fill(ref, values[i].JSON); err != nil {
			return nil, &RefError{ref, err.Error()}
		}
	}
	out := *r
	links := *r.Links
	links.Headers = append(slices.Clone(links.Headers), f.headers...)
	out.Links = &links
	if len(f.path)+len(f.query) > 0 {
		var err error
		if out.Path, err = f.fillPath(); err != nil {
			return nil, &RefError{firstPathRef(r.Links.Refs), "makes a path that " + err.Error()}
		}
	}
	out.Body = replace(r.Body, f.edits)
	return &out, nil
}

// filler fills one request.
type filler struct {
	request     *Request
	places      []span // places in the body that are not filled yet, by reference
	edits       []edit // changes to the body
	headers     []Header
	path, query map[string]string // encoded values by name
}

// locate finds the places in the body.
func (f *filler) locate() {
	var pointers []string
	for i := range f.request.Links.Refs {
		if ref := &f.request.Links.Refs[i]; ref.Where == InBody {
			pointers = append(pointers, ref.Name)
		}
	}
	f.places, _ = locate(f.request.Body, pointers)
}

// fill records a value for the place of the next reference. The error completes a sentence that begins
// with the reference.
func (f *filler) fill(ref *Ref, value []byte) error {
	if ref.Where == InBody {
		at := f.places[0]
		f.places = f.places[1:]
		if !at.exists() {
			return errors.New("has no place in the body")
		}
		f.edits = append(f.edits, edit{at, value})
		return nil
	}
	text, err := scalar(value)
	if err != nil {
		return err
	}
	if ref.Where == InHeader {
		if err := checkHeaderValue(text); err != nil {
			return errors.New("finds a value that can't be in a header: it " + err.Error())
		}
		f.headers = append(f.headers, Header{ref.Name, text})
		return nil
	}
	if len(text) > MaxPath {
		return errors.New("makes a path that " + errLongPath.Error())
	}
	if ref.Where == InPath {
		if err := checkSegmentValue(text); err != nil {
			return err
		}
		f.path[ref.Name] = escape(text)
		return nil
	}
	f.query[ref.Name] = escape(text)
	return nil
}

// fillPath returns the path with its values. The error completes a sentence that begins with the path.
func (f *filler) fillPath() (string, error) {
	path, query, has := strings.Cut(f.request.Path, "?")
	out, err := expand(nil, path, f.path)
	if err != nil {
		return "", err
	}
	if has {
		if out, err = expand(append(out, '?'), query, f.query); err != nil {
			return "", err
		}
	}
	return string(out), CheckPath(string(out))
}

// expand appends text, with each {NAME} that has a value replaced. It fails as soon as the result is
// longer than a path may be. The error completes a sentence that begins with the path.
func expand(dst []byte, text string, values map[string]string) ([]byte, error) {
	from := 0
	for at := range placeholders(text) {
		value, ok := values[text[at.begin+1:at.end-1]]
		if !ok {
			continue
		}
		dst = append(append(dst, text[from:at.begin]...), value...)
		if from = at.end; len(dst) > MaxPath {
			return nil, errLongPath
		}
	}
	return append(dst, text[from:]...), nil
}

// placeholders returns the position of each {NAME} in text.
func placeholders(text string) iter.Seq[span] {
	return func(yield func(span) bool) {
		for from := 0; ; {
			open := strings.IndexByte(text[from:], '{')
			if open < 0 {
				return
			}
			begin := from + open
			end := begin + 1
			for end < len(text) && isNameByte(text[end]) {
				end++
			}
			from = end
			if n := end - begin - 1; end == len(text) || text[end] != '}' || n < 1 || n > MaxRefName {
				continue // not a placeholder
			}
			if from++; !yield(span{begin, from}) {
				return
			}
		}
	}
}

func firstPathRef(refs []Ref) *Ref {
	return &refs[slices.IndexFunc(refs, func(r Ref) bool { return r.Where == InPath || r.Where == InQuery })]
}

// scalar returns the text of a string, or a number or boolean unchanged. It refuses control characters
// and other JSON values.
func scalar(value []byte) (string, error) {
	d := jsontext.NewDecoder(bytes.NewReader(value))
	token, err := d.ReadToken()
	if err != nil && !errors.Is(err, io.EOF) {
		return "", errors.New("finds a value that can't be read")
	}
	switch token.Kind() {
	case '"', '0', 't', 'f':
	default:
		return "", errors.New("finds a value that isn't a string, a number, true or false")
	}
	text := token.String()
	if token.Kind() == '0' {
		text = string(value) // unchanged, so that no digit is lost
	}
	for _, c := range text {
		if c < ' ' || c >= 0x7f && c < 0xa0 {
			return "", errors.New("finds a value with a control character")
		}
	}
	return text, nil
}

// checkSegmentValue returns an error if a value in a path could leave its segment, no matter how often
// servers decode the path.
func checkSegmentValue(text string) error {
	if text == "" {
		return errors.New("finds an empty value")
	}
	text = unescape(text)
	if strings.ContainsAny(text, `/\`) {
		return errors.New("finds a value with a slash or a backslash")
	}
	if text == "." || text == ".." {
		return errors.New("finds a value that is a dot segment")
	}
	return nil
}

// unescape percent-decodes s until nothing changes, in one pass. See decodePath.
func unescape(s string) string {
	out := make([]byte, 0, len(s))
	for i := range len(s) {
		out = append(out, s[i])
		for n := len(out); n >= 3 && out[n-3] == '%' && isHex(out[n-2]) && isHex(out[n-1]); n = len(out) {
			out = append(out[:n-3], unhex(out[n-2])<<4|unhex(out[n-1]))
		}
	}
	return string(out)
}

// escape percent-encodes all characters except unreserved ones (RFC 3986, section 2.3).
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

// edit replaces a part of a text.
type edit struct {
	span
	with []byte
}

// replace returns text with the edits applied. Edits must not overlap.
func replace(text []byte, edits []edit) []byte {
	if len(edits) == 0 {
		return text
	}
	slices.SortFunc(edits, func(a, b edit) int { return a.begin - b.begin })
	size := len(text)
	for _, e := range edits {
		size += len(e.with) - (e.end - e.begin)
	}
	out := make([]byte, 0, size)
	from := 0
	for _, e := range edits {
		out = append(append(out, text[from:e.begin]...), e.with...)
		from = e.end
	}
	return append(out, text[from:]...)
}
