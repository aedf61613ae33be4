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

// Format is how a file holds requests.
type Format string

// The formats of a file.
const (
	NDJSON Format = "ndjson" // one object a line
	JSON   Format = "json"   // an array of objects
	CSV    Format = "csv"    // a header, and a row for each request that a template makes
)

// Input is a file of requests. It is read several times: checked, sent, and once more beside
// the results.
type Input struct {
	Path      string
	Format    Format // empty: what the file's name and beginning say
	Encoding  string // empty: what the byte order mark says, else UTF-8
	Template  string // of CSV
	Delimiter rune   // of CSV; 0: what the rows say

	DecimalComma bool // of CSV: numbers are written 1.234,50

	dialect dialect // of CSV
}

// maxRow bounds one request as the file holds it, in bytes.
const maxRow = 64 << 20

// row is one request.
type row struct {
	line    int    // where it begins in the file, from 1
	request []byte // an object of a create body
	columns []string
}

// rows reads requests in their order.
type rows interface {
	// next returns the next request, or io.EOF. What it returned before must not be used
	// any more, but for what was copied. Where a lineError has more set, the call after
	// returns the row behind the mistake.
	next() (*row, error)
	// header returns CSV's first row.
	header() []string
	// blank returns how many rows without any text were skipped so far.
	blank() int
}

// lineError is a mistake in the file, with its place.
type lineError struct {
	path string
	line int
	err  error
	more bool // what follows can be read all the same
}

func (e *lineError) Error() string { return fmt.Sprintf("%s:%d: %v", e.path, e.line, e.err) }
func (e *lineError) Unwrap() error { return e.err }

// sniff finds out what the file is and how it is written.
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
		return fmt.Errorf("%s is CSV and needs a template that makes a request of each row, such as --template '{\"method\":\"PUT\",\"path\":\"/products/{{id}}\",\"body\":{\"price\":{{price:number}}}}'", in.Path)
	case in.Format != CSV && in.Template != "":
		return fmt.Errorf("%s is not CSV, and only CSV has rows for a template. If it is CSV, say so with --format csv", in.Path)
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

// text opens the file and returns what it holds as UTF-8.
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

// formatOf judges by the name's ending, else by the first byte that is no space.
func formatOf(path string, r *bufio.Reader) (Format, error) {
	switch strings.ToLower(filepath.Ext(path)) {
	case ".csv", ".tsv":
		return CSV, nil
	}
	for {
		switch b, err := r.ReadByte(); {
		case errors.Is(err, io.EOF):
			return "", fmt.Errorf("%s is empty: it has to hold at least one request", path)
		case err != nil:
			return "", err
		case b == '[':
			return JSON, nil
		case b == '{':
			return NDJSON, nil
		case b != ' ' && b != '\t' && b != '\r' && b != '\n':
			return "", fmt.Errorf("%s begins with neither { (a request a line) nor [ (an array of requests), and its name does not end in .csv: say what it is with --format", path)
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
		err = fmt.Errorf("the format is %q and must be ndjson, json or csv", in.Format)
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return r, f, nil
}

// lines are NDJSON. Empty lines are skipped.
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

// read reads a line, its end included. It is used until the next call.
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

// object refuses text that is no JSON object. A repeated name is left to the check of
// the request.
func object(text []byte) error {
	d := jsontext.NewDecoder(bytes.NewReader(text), jsontext.AllowDuplicateNames(true))
	value, err := d.ReadValue()
	switch {
	case err != nil:
		return fmt.Errorf("the line is no JSON: %w", plain(err))
	case value.Kind() != '{':
		return errors.New("the line is no JSON object: each has to be a request such as {\"method\":\"GET\",\"path\":\"/products/1\"}")
	}
	if _, err := d.ReadToken(); !errors.Is(err, io.EOF) {
		return errors.New("more text follows the JSON object: one request a line")
	}
	return nil
}

// plain takes the library's name off an error.
func plain(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return errors.New("it ends too early")
	}
	if s, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		return fmt.Errorf("%w at byte %d", s.Err, s.ByteOffset+1)
	}
	return err
}

// array is a JSON array.
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
		return nil, a.broken(errors.New("each element of the array has to be a request such as {\"method\":\"GET\",\"path\":\"/products/1\"}"))
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
		err = errors.New("the array has no end")
	}
	return &lineError{path: a.path, line: a.lines.at(offset), err: err}
}

// lineCounter tells which line a byte is in. It keeps the line ends that were read and not
// asked for yet.
type lineCounter struct {
	in   io.Reader
	read int64
	ends []int64 // offsets
	line int
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

// at returns the line, from 1, of a byte that is not before the one that was asked for last.
func (c *lineCounter) at(offset int64) int {
	n := 0
	for n < len(c.ends) && c.ends[n] < offset {
		n++
	}
	c.ends = c.ends[n:]
	c.line += n
	return c.line
}
