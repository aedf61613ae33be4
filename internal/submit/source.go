package submit

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// Format is the format of a file of requests.
type Format string

// The formats of a file.
const (
	NDJSON Format = "ndjson" // one object per line
	JSON   Format = "json"   // an array of objects
	CSV    Format = "csv"    // a header, and a row for each request, which a template completes
)

// Input is a file of requests.
type Input struct {
	Path     string
	Format   Format // "": detected from the file's name and beginning
	Encoding string // "": from the byte order mark, or else UTF-8

	// These fields are for CSV.
	Template     string
	Delimiter    rune // 0: detected from the rows
	DecimalComma bool // numbers are written as 1.234,50

	dialect dialect
}

// maxRow is the maximum length of a request's text in the file, in bytes.
const maxRow = 64 << 20

// row is one request.
type row struct {
	line    int    // the line where it begins, from 1
	request []byte // a JSON object
	columns []string
}

// rows reads requests in order.
type rows interface {
	// next returns the next request, or io.EOF. The request is valid until the next call. After a
	// lineError with more set, the next call returns the following row.
	next() (*row, error)
	// header returns the first row of CSV.
	header() []string
	// blank returns how many blank rows have been skipped so far.
	blank() int
}

// lineError is an error in a line of the file.
type lineError struct {
	path string
	line int
	err  error
	more bool // the rest of the file can still be read
}

func (e *lineError) Error() string { return fmt.Sprintf("%s:%d: %v", e.path, e.line, e.err) }
func (e *lineError) Unwrap() error { return e.err }

// sniff detects the file's format and dialect.
func (in *Input) sniff() error {
	if in.Format == "" {
		f, text, _, err := in.text()
		if err != nil {
			return err
		}
		in.Format, err = formatOf(in.Path, bufio.NewReader(text))
		f.Close()
		if err != nil {
			return err
		}
	}
	switch {
	case in.Format == CSV && in.Template == "":
		return fmt.Errorf("%s is CSV and needs a template that turns each row into a request, such as --template '{\"method\":\"PUT\",\"path\":\"/products/{{id}}\",\"body\":{\"price\":{{price:number}}}}'", in.Path)
	case in.Format != CSV && in.Template != "":
		return fmt.Errorf("%s is not CSV, but only CSV takes a template. If it is CSV, add --format csv", in.Path)
	case in.Format != CSV:
		return nil
	}
	f, text, set, err := in.text()
	if err != nil {
		return err
	}
	defer f.Close()
	comma := in.Delimiter
	if comma == 0 && strings.EqualFold(filepath.Ext(in.Path), ".tsv") {
		comma = '\t'
	}
	if in.dialect, err = dialectOf(in.Path, text, set, comma); err != nil {
		return err
	}
	in.Delimiter = in.dialect.comma
	return nil
}

// text opens the file and returns its text as UTF-8.
func (in *Input) text() (io.Closer, io.Reader, charset, error) {
	f, err := os.Open(in.Path)
	if err != nil {
		return nil, nil, charset{}, err
	}
	text, set, err := decode(in.Path, f, in.Encoding)
	if err != nil {
		f.Close()
		return nil, nil, set, err
	}
	return f, text, set, nil
}

// formatOf detects the format from the file name's extension, or else from the first byte that isn't
// white space.
func formatOf(path string, r *bufio.Reader) (Format, error) {
	switch strings.ToLower(filepath.Ext(path)) {
	case ".csv", ".tsv":
		return CSV, nil
	}
	for {
		switch b, err := r.ReadByte(); {
		case errors.Is(err, io.EOF):
			return "", fmt.Errorf("%s is empty: it must have at least one request", path)
		case err != nil:
			return "", err
		case b == '[':
			return JSON, nil
		case b == '{':
			return NDJSON, nil
		case b != ' ' && b != '\t' && b != '\r' && b != '\n':
			return "", fmt.Errorf("%s begins with neither { (one request per line) nor [ (an array of requests), and its name does not end in .csv: specify its format with --format", path)
		}
	}
}

// open reads the file from its beginning.
func (in *Input) open() (rows, io.Closer, error) {
	f, text, _, err := in.text()
	if err != nil {
		return nil, nil, err
	}
	var r rows
	switch in.Format {
	case NDJSON:
		r = &lines{path: in.Path, in: bufio.NewReaderSize(text, 64<<10)}
	case JSON:
		r = newArray(in.Path, text)
	case CSV:
		r, err = newTable(in, text)
	default:
		err = fmt.Errorf("the format is %q but must be ndjson, json or csv", in.Format)
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return r, f, nil
}

// lines reads NDJSON. Empty lines are skipped.
type lines struct {
	path string
	in   *bufio.Reader
	line int
	row  row
	text []byte
}

func (l *lines) header() []string { return nil }
func (l *lines) blank() int       { return 0 }

func (l *lines) next() (*row, error) {
	for {
		l.line++
		text, err := l.read()
		if text = bytes.TrimSpace(text); len(text) == 0 {
			if err != nil {
				return nil, err
			}
			continue
		}
		if wrong := asTextError(err); wrong != nil {
			return nil, wrong
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, &lineError{path: l.path, line: l.line, err: err}
		}
		if err := object(text); err != nil {
			return nil, &lineError{l.path, l.line, err, true}
		}
		l.row = row{line: l.line, request: text}
		return &l.row, nil
	}
}

// read reads a line including its line ending. The line is valid until the next call.
func (l *lines) read() ([]byte, error) {
	l.text = l.text[:0]
	for {
		part, err := l.in.ReadSlice('\n')
		if l.text = append(l.text, part...); len(l.text) > maxRow {
			return l.text, fmt.Errorf("the line is longer than %d MiB", maxRow>>20)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return l.text, err
		}
	}
}

// object returns an error if text is not a JSON object. It allows repeated names, which a later
// check of the request reports.
func object(text []byte) error {
	d := jsontext.NewDecoder(bytes.NewReader(text), jsontext.AllowDuplicateNames(true))
	value, err := d.ReadValue()
	switch {
	case err != nil:
		return fmt.Errorf("the line is not JSON: %w", plain(err))
	case value.Kind() != '{':
		return errors.New("the line is not a JSON object: each line must be a request such as {\"method\":\"GET\",\"path\":\"/products/1\"}")
	}
	if _, err := d.ReadToken(); !errors.Is(err, io.EOF) {
		return errors.New("more text follows the JSON object: write one request per line")
	}
	return nil
}

// plain returns an error without the library's name.
func plain(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return errors.New("it ends too early")
	}
	if s, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		return fmt.Errorf("%w at byte %d", s.Err, s.ByteOffset+1)
	}
	return err
}

// array reads a JSON array.
type array struct {
	path  string
	in    *jsontext.Decoder
	lines *lineCounter
	begun bool
	row   row
}

func newArray(path string, r io.Reader) *array {
	c := &lineCounter{in: r, line: 1}
	return &array{path: path, in: jsontext.NewDecoder(c, jsontext.AllowDuplicateNames(true)), lines: c}
}

func (a *array) header() []string { return nil }
func (a *array) blank() int       { return 0 }

func (a *array) next() (*row, error) {
	if !a.begun {
		if _, err := a.in.ReadToken(); err != nil {
			return nil, a.broken(err)
		}
		a.begun = true
	}
	switch a.in.PeekKind() {
	case ']':
		if _, err := a.in.ReadToken(); err != nil {
			return nil, a.broken(err)
		}
		if _, err := a.in.ReadToken(); !errors.Is(err, io.EOF) {
			return nil, a.broken(errors.New("more text follows the array"))
		}
		return nil, io.EOF
	case '{':
		value, err := a.in.ReadValue()
		if err != nil {
			return nil, a.broken(err)
		}
		if len(value) > maxRow {
			return nil, a.broken(fmt.Errorf("the request is longer than %d MiB", maxRow>>20))
		}
		a.row = row{line: a.lines.at(a.in.InputOffset() - int64(len(value))), request: value}
		return &a.row, nil
	default:
		if _, err := a.in.ReadValue(); err != nil {
			return nil, a.broken(err)
		}
		return nil, a.broken(errors.New("each element of the array must be a request such as {\"method\":\"GET\",\"path\":\"/products/1\"}"))
	}
}

func (a *array) broken(err error) error {
	if wrong := asTextError(err); wrong != nil {
		return wrong
	}
	offset := a.in.InputOffset()
	if s, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		offset = s.ByteOffset
		err = s.Err
	}
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		err = errors.New("the array is incomplete")
	}
	return &lineError{path: a.path, line: a.lines.at(offset), err: err}
}

// lineCounter finds the line that contains a byte.
type lineCounter struct {
	in   io.Reader
	read int64
	ends []int64 // offsets of the line endings after the last position
	line int     // the line of the last position
}

func (c *lineCounter) Read(p []byte) (int, error) {
	n, err := c.in.Read(p)
	for i, b := range p[:n] {
		if b == '\n' {
			c.ends = append(c.ends, c.read+int64(i))
		}
	}
	c.read += int64(n)
	return n, err
}

// at returns the number, from 1, of the line that contains a byte. Offsets must not decrease from call to
// call.
func (c *lineCounter) at(offset int64) int {
	n := 0
	for n < len(c.ends) && c.ends[n] < offset {
		n++
	}
	c.ends = c.ends[n:]
	c.line += n
	return c.line
}
