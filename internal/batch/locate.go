package batch

import (
	"bytes"
	"cmp"
	"errors"
	"slices"
	"sort"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// span is the position of a value in a text.
type span struct{ begin, end int }

// exists reports whether there is a value. A JSON value is never empty.
func (s span) exists() bool { return s.end > s.begin }

// locate finds the values in a JSON text that pointers (RFC 6901) refer to. It reads the text once, and
// stops when it has found all values. The spans have the order of the pointers. If a value doesn't exist,
// its span is empty. If an object has a name twice, the first one counts. read is the number of bytes that
// were read.
func locate(text []byte, pointers []string) (found []span, read int) {
	if len(pointers) == 0 {
		return nil, 0
	}
	l := locator{
		json:     jsontext.NewDecoder(bytes.NewBuffer(text), jsontext.AllowDuplicateNames(true)),
		pointers: pointers,
		order:    make([]int, len(pointers)),
		found:    make([]span, len(pointers)),
		settled:  make([]bool, len(pointers)),
		open:     len(pointers),
	}
	for i := range l.order {
		l.order[i] = i
	}
	slices.SortFunc(l.order, func(a, b int) int { return comparePointers(pointers[a], pointers[b]) })
	_ = l.value(0, len(pointers), 0) // after an error, the pointers not found so far have no value
	return l.found, int(l.json.InputOffset())
}

// comparePointers orders pointers so that the pointers to the parts of a value directly follow the
// value's own pointer. To achieve this, "/" comes before any other character.
func comparePointers(a, b string) int {
	for i := range min(len(a), len(b)) {
		switch {
		case a[i] == b[i]:
		case a[i] == '/':
			return -1
		case b[i] == '/':
			return 1
		default:
			return cmp.Compare(a[i], b[i])
		}
	}
	return cmp.Compare(len(a), len(b))
}

// locator makes one pass over a text.
type locator struct {
	json     *jsontext.Decoder
	pointers []string
	order    []int  // the indexes of the pointers, in the order of comparePointers
	found    []span // by pointer
	settled  []bool // by pointer: its value was found, or doesn't exist
	open     int    // how many pointers are not settled
	name     []byte // the name of the last member
}

// errSettled ends a pass when every pointer is settled.
var errSettled = errors.New("every pointer is settled")

// rest returns the nth pointer in sorted order without its first prefix bytes.
func (l *locator) rest(n, prefix int) string { return l.pointers[l.order[n]][prefix:] }

// settle records where the value of the nth pointer in order is, unless that is already known.
func (l *locator) settle(n int, where span) {
	if i := l.order[n]; !l.settled[i] {
		l.settled[i], l.found[i] = true, where
		l.open--
	}
}

// value reads the next value. The pointers lo to hi (in sorted order) share their first prefix bytes,
// which lead to this value. Each of these pointers either ends there or leads into the value.
func (l *locator) value(lo, hi, prefix int) error {
	inner := lo
	for inner < hi && l.rest(inner, prefix) == "" {
		inner++
	}
	where, err := l.readValue(inner, hi, prefix)
	if err != nil {
		return err
	}
	for n := lo; n < inner; n++ {
		l.settle(n, where)
	}
	if l.open == 0 {
		return errSettled
	}
	return nil
}

// readValue reads the next value and searches it for the pointers from lo to hi. It returns the position
// of the value.
func (l *locator) readValue(lo, hi, prefix int) (span, error) {
	kind := l.json.PeekKind()
	if lo == hi || kind != '{' && kind != '[' {
		value, err := l.json.ReadValue()
		end := int(l.json.InputOffset())
		if err == nil {
			err = l.missing(lo, hi)
		}
		return span{end - len(value), end}, err
	}
	if _, err := l.json.ReadToken(); err != nil {
		return span{}, err
	}
	begin := int(l.json.InputOffset()) - 1
	look := l.object
	if kind == '[' {
		look = l.array
	}
	if err := look(lo, hi, prefix); err != nil {
		return span{}, err
	}
	if _, err := l.json.ReadToken(); err != nil {
		return span{}, err
	}
	return span{begin, int(l.json.InputOffset())}, l.missing(lo, hi)
}

// missing settles the pointers from lo to hi whose values were not found.
func (l *locator) missing(lo, hi int) error {
	for n := lo; n < hi; n++ {
		l.settle(n, span{})
	}
	if l.open == 0 {
		return errSettled
	}
	return nil
}

// object reads an object's members.
func (l *locator) object(lo, hi, prefix int) error {
	for l.json.PeekKind() == '"' {
		if err := l.readName(); err != nil {
			return err
		}
		from, to := l.member(lo, hi, prefix)
		var err error
		if from == to || l.settled[l.order[from]] {
			err = l.json.SkipValue()
		} else {
			err = l.value(from, to, prefix+len("/")+len(l.name))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// readName reads a member's name and escapes it as pointers do.
func (l *locator) readName() error {
	quoted, err := l.json.ReadValue()
	if err != nil {
		return err
	}
	name := quoted[1 : len(quoted)-1]
	if bytes.IndexByte(name, '\\') >= 0 {
		if name, err = jsontext.AppendUnquote(nil, quoted); err != nil {
			return err
		}
	}
	l.name = l.name[:0]
	for _, c := range name {
		switch c {
		case '~':
			l.name = append(l.name, "~0"...)
		case '/':
			l.name = append(l.name, "~1"...)
		default:
			l.name = append(l.name, c)
		}
	}
	return nil
}

// member returns which of the pointers from lo to hi lead into the member with the last name.
func (l *locator) member(lo, hi, prefix int) (from, to int) {
	prefix += len("/")
	from = lo + sort.Search(hi-lo, func(n int) bool { return compareToken(l.rest(lo+n, prefix), l.name) >= 0 })
	to = from
	for to < hi && compareToken(l.rest(to, prefix), l.name) == 0 {
		to++
	}
	return from, to
}

// compareToken compares the first token of a pointer's rest with a name.
func compareToken(rest string, name []byte) int {
	for i := range min(len(rest), len(name)) {
		switch {
		case rest[i] == '/': // the token is shorter than the name
			return -1
		case rest[i] != name[i]:
			return cmp.Compare(rest[i], name[i])
		}
	}
	switch {
	case len(rest) < len(name):
		return -1
	case len(rest) > len(name) && rest[len(name)] != '/':
		return 1
	}
	return 0
}

// element is an element of an array that pointers lead into.
type element struct{ index, from, to, prefix int }

// array reads an array's elements.
func (l *locator) array(lo, hi, prefix int) error {
	wanted := l.elements(lo, hi, prefix)
	for i := 0; l.json.PeekKind() != ']'; i++ {
		var err error
		if len(wanted) > 0 && wanted[0].index == i {
			err = l.value(wanted[0].from, wanted[0].to, wanted[0].prefix)
			wanted = wanted[1:]
		} else {
			err = l.json.SkipValue()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// elements returns the elements that the pointers from lo to hi lead into, by index.
func (l *locator) elements(lo, hi, prefix int) (out []element) {
	prefix += len("/")
	for from := lo; from < hi; {
		token, _, _ := strings.Cut(l.rest(from, prefix), "/")
		name := []byte(token)
		to := from + 1
		for to < hi && compareToken(l.rest(to, prefix), name) == 0 {
			to++
		}
		if index, ok := arrayIndex(token); ok {
			out = append(out, element{index, from, to, prefix + len(token)})
		}
		from = to
	}
	slices.SortFunc(out, func(a, b element) int { return cmp.Compare(a.index, b.index) })
	return out
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

// checkPointer returns an error if s isn't a pointer (RFC 6901). The error completes a sentence that
// begins with the pointer.
func checkPointer(s string) error {
	if !jsontext.Pointer(s).IsValid() {
		return errors.New(`must be a JSON pointer such as /items/0/id: "" or a text that begins with "/", with ~0 for ~ and ~1 for /`)
	}
	return nil
}
