package submit

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/encoding"
	"golang.org/x/text/encoding/charmap"
	"golang.org/x/text/encoding/htmlindex"
	"golang.org/x/text/encoding/ianaindex"
	"golang.org/x/text/encoding/unicode"
	"golang.org/x/text/encoding/unicode/utf32"
	"golang.org/x/text/transform"
)

// charset is the character encoding of a file.
type charset struct {
	name     string
	encoding encoding.Encoding // nil: UTF-8
	mark     bool              // the file begins with a byte order mark
}

// marks are the byte order marks. Longer ones come before their prefixes.
var marks = []struct {
	bytes    string
	name     string
	encoding encoding.Encoding
}{
	{"\xff\xfe\x00\x00", "utf-32le", utf32.UTF32(utf32.LittleEndian, utf32.IgnoreBOM)},
	{"\x00\x00\xfe\xff", "utf-32be", utf32.UTF32(utf32.BigEndian, utf32.IgnoreBOM)},
	{"\xff\xfe", "utf-16le", unicode.UTF16(unicode.LittleEndian, unicode.IgnoreBOM)},
	{"\xfe\xff", "utf-16be", unicode.UTF16(unicode.BigEndian, unicode.IgnoreBOM)},
	{"\xef\xbb\xbf", "utf-8", nil},
}

const otherEncodings = "specify the encoding of the file, such as --encoding windows-1252 or --encoding utf-16le"

// decode returns the text of a file as UTF-8 without its byte order mark, and the file's encoding. If
// name is "", the byte order mark determines the encoding; without one, it is UTF-8. Bytes that are
// invalid in the encoding cause an error with their position.
func decode(path string, r io.Reader, name string) (io.Reader, charset, error) {
	in := bufio.NewReaderSize(r, 64<<10)
	set, err := charsetOf(in, name)
	if err != nil {
		return nil, set, fmt.Errorf("%s: %w", path, err)
	}
	c := &checkedText{path: path, set: set, in: in, line: 1, column: 1}
	if set.encoding != nil {
		c.in = bufio.NewReaderSize(transform.NewReader(in, set.encoding.NewDecoder()), 64<<10)
	}
	return c, set, nil
}

// charsetOf finds the encoding and skips the byte order mark.
func charsetOf(in *bufio.Reader, name string) (charset, error) {
	set := charset{name: strings.ToLower(name)}
	begin, _ := in.Peek(4) // returns less for a short file
	for _, m := range marks {
		if !bytes.HasPrefix(begin, []byte(m.bytes)) {
			continue
		}
		if set.name != "" && set.name != m.name && !strings.HasPrefix(m.name, set.name) {
			return set, fmt.Errorf("the file begins with the byte order mark of %s, but --encoding names %s: omit --encoding", m.name, name)
		}
		_, _ = in.Discard(len(m.bytes))
		return charset{m.name, m.encoding, true}, nil
	}
	switch set.name {
	case "", "utf-8", "utf8":
		set.name = "utf-8"
		return set, nil
	case "utf-16", "utf16", "utf-32", "utf32":
		return set, fmt.Errorf("the file has no byte order mark, so its byte order is unknown: use --encoding %[1]sle or --encoding %[1]sbe", set.name)
	}
	for _, m := range marks {
		if set.name == m.name {
			set.encoding = m.encoding
			return set, nil
		}
	}
	var err error
	if set.encoding, err = ianaindex.IANA.Encoding(name); err != nil || set.encoding == nil {
		if set.encoding, err = htmlindex.Get(name); err != nil {
			return set, fmt.Errorf("--encoding %q is not a known encoding: use utf-8, utf-16, windows-1252, iso-8859-1 or another name of the IANA registry", name)
		}
	}
	return set, nil
}

// checkedText reads UTF-8. It fails at invalid UTF-8, at a byte that is undefined in the file's encoding,
// and at NUL, which doesn't occur in text.
type checkedText struct {
	path string
	set  charset
	in   *bufio.Reader

	valid      int // how many bytes at the front of the buffer are valid
	line       int
	column     int   // in characters
	offset     int64 // in bytes of UTF-8
	characters int64
	afterCR    bool
	err        error
}

func (c *checkedText) Read(p []byte) (int, error) {
	if c.valid == 0 {
		c.check()
	}
	if c.valid == 0 {
		return 0, c.err
	}
	n, err := c.in.Read(p[:min(len(p), c.valid)])
	c.valid -= n
	return n, err
}

// check validates the bytes in the buffer. It sets err at the end of the file or at an error.
func (c *checkedText) check() {
	if c.err != nil {
		return
	}
	whole, err := c.in.Peek(utf8.UTFMax) // fills the buffer
	if len(whole) == 0 {
		c.err = err
		return
	}
	atEnd := err != nil
	text, _ := c.in.Peek(c.in.Buffered())
	for c.valid < len(text) {
		r, size := utf8.DecodeRune(text[c.valid:])
		switch {
		case r == utf8.RuneError && size == 1 && !atEnd && !utf8.FullRune(text[c.valid:]):
			return // the next call has the rest of the character
		case r == utf8.RuneError && (size == 1 || c.set.encoding != nil), r == 0:
			c.err = c.wrong(text[c.valid], r)
			return
		}
		c.advance(r, size)
		c.valid += size
	}
}

// advance counts a character. CR, LF and CR LF each end a line.
func (c *checkedText) advance(r rune, size int) {
	c.offset += int64(size)
	c.characters++
	switch {
	case r == '\n' && c.afterCR:
	case r == '\n', r == '\r':
		c.line++
		c.column = 1
	default:
		c.column++
	}
	c.afterCR = r == '\r'
}

// wrong returns the error for an invalid byte at the current position.
func (c *checkedText) wrong(b byte, r rune) error {
	place := fmt.Sprintf("%s:%d:%d", c.path, c.line, c.column)
	_, single := c.set.encoding.(*charmap.Charmap)
	switch {
	case r == 0:
		return &textError{fmt.Errorf("%s: the file contains a NUL byte, so it is not %s text: %s", place, c.set.name, otherEncodings)}
	case c.set.encoding == nil:
		at := c.offset
		if c.set.mark {
			at += 3
		}
		return &textError{fmt.Errorf("%s: byte 0x%02X at offset %d is not UTF-8: %s", place, b, at, otherEncodings)}
	case single:
		return &textError{fmt.Errorf("%s: the byte at offset %d is not a character in %s: %s", place, c.characters, c.set.name, otherEncodings)}
	}
	return &textError{fmt.Errorf("%s: the bytes here are not a character in %s: %s", place, c.set.name, otherEncodings)}
}

// textError is an error in a file's encoding. Its text includes the position.
type textError struct{ error }

func (e *textError) Unwrap() error { return e.error }

// asTextError returns the textError that err wraps; nil: none.
func asTextError(err error) error {
	if wrong, ok := errors.AsType[*textError](err); ok {
		return wrong
	}
	return nil
}

// forOutput returns the encoding of an output file, which is usually the input's. But if the file also
// gets foreign text, such as answers, that encoding may lack some characters. The encoding is then UTF-8
// with a byte order mark, which spreadsheets recognize.
func (s charset) forOutput(foreign bool) charset {
	if foreign && s.encoding != nil && !strings.HasPrefix(s.name, "utf-") {
		return charset{name: "utf-8", mark: true}
	}
	return s
}

// writer returns a writer that encodes text. If begin is set, it first writes the byte order mark, if
// there is one.
func (s charset) writer(w io.Writer, begin bool) (io.Writer, error) {
	if s.encoding != nil {
		w = transform.NewWriter(w, s.encoding.NewEncoder())
	}
	if begin && s.mark {
		if _, err := io.WriteString(w, "\ufeff"); err != nil {
			return nil, err
		}
	}
	return w, nil
}
