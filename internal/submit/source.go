package submit

import (
	"bufio"
	"bytes"
	"encoding/csv"
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
	Format    Format // empty: told by the file's name and beginning
	Template  string // of CSV
	Delimiter rune   // of CSV; 0: a comma, or a tab if the name ends in .tsv
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
	// any more, but for what was copied.
	next() (*row, error)
	// header returns the names of CSV's columns.
	header() []string
}

// lineError is a mistake in the file, with its place.
type lineError struct {
	path string
	line int
	err  error
}

func (e *lineError) Error() string { return fmt.Sprintf("%s:%d: %v", e.path, e.line, e.err) }
func (e *lineError) Unwrap() error { return e.err }

// sniff finds the format out.
func (in *Input) sniff() error {
	if in.Format == "" {
		f, err := os.Open(in.Path)
		if err != nil {
			return err
		}
		defer f.Close()
		if in.Format, err = formatOf(in.Path, bufio.NewReader(withoutBOM(f))); err != nil {
			return err
		}
	}
	if in.Delimiter == 0 {
		in.Delimiter = ','
		if strings.EqualFold(filepath.Ext(in.Path), ".tsv") {
			in.Delimiter = '\t'
		}
	}
	switch {
	case in.Format == CSV && in.Template == "":
		return fmt.Errorf("%s is CSV and needs a template that makes requests of its rows, such as --template '{\"method\":\"PUT\",\"path\":\"/products/{{id}}\",\"body\":{\"price\":{{price:number}}}}'", in.Path)
	case in.Format != CSV && in.Template != "":
		return fmt.Errorf("%s is no CSV: a template is for rows of CSV (--format csv, if it is)", in.Path)
	}
	return nil
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
	f, err := os.Open(in.Path)
	if err != nil {
		return nil, nil, err
	}
	var r rows
	switch in.Format {
	case NDJSON:
		r = &lines{path: in.Path, in: bufio.NewReaderSize(withoutBOM(f), 64<<10)}
	case JSON:
		r = newArray(in.Path, withoutBOM(f))
	case CSV:
		if r, err = newTable(in, withoutBOM(f)); err != nil {
			f.Close()
			return nil, nil, err
		}
	default:
		f.Close()
		return nil, nil, fmt.Errorf("the format %q is none of ndjson, json and csv", in.Format)
	}
	return r, f, nil
}

// withoutBOM skips the mark that some programs put before UTF-8.
func withoutBOM(r io.Reader) io.Reader {
	b := bufio.NewReader(r)
	if begin, err := b.Peek(3); err == nil && string(begin) == "\xef\xbb\xbf" {
		_, _ = b.Discard(3)
	}
	return b
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
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, &lineError{l.path, l.line, err}
		}
		if err := object(text); err != nil {
			return nil, &lineError{l.path, l.line, err}
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
	offset := a.in.InputOffset()
	if s, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		offset = s.ByteOffset
		err = s.Err
	}
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		err = errors.New("the array has no end")
	}
	return &lineError{a.path, a.lines.at(offset), err}
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

// table is CSV (RFC 4180) whose rows a template makes requests of.
type table struct {
	path     string
	in       *csv.Reader
	names    []string
	template *template
	row      row
	text     []byte
}

func newTable(in *Input, r io.Reader) (*table, error) {
	t := &table{path: in.Path, in: csv.NewReader(r)}
	t.in.Comma = in.Delimiter
	names, err := t.in.Read()
	switch {
	case errors.Is(err, io.EOF):
		return nil, fmt.Errorf("%s is empty: its first line has to name the columns", in.Path)
	case err != nil:
		return nil, t.broken(err)
	}
	seen := map[string]bool{}
	for i, name := range names {
		name = strings.TrimSpace(name)
		names[i] = name
		if seen[name] {
			return nil, &lineError{in.Path, 1, fmt.Errorf("two columns are named %q", name)}
		}
		seen[name] = true
	}
	t.names = names
	t.in.ReuseRecord = true
	t.template, err = parseTemplate(in.Template, names)
	return t, err
}

func (t *table) header() []string { return t.names }

func (t *table) next() (*row, error) {
	columns, err := t.in.Read()
	if errors.Is(err, io.EOF) {
		return nil, err
	}
	if err != nil {
		return nil, t.broken(err)
	}
	line, _ := t.in.FieldPos(0)
	t.text, err = t.template.append(t.text[:0], columns)
	if err != nil {
		return nil, &lineError{t.path, line, err}
	}
	t.row = row{line: line, request: t.text, columns: columns}
	return &t.row, nil
}

// broken words what the CSV reader found.
func (t *table) broken(err error) error {
	wrong, ok := errors.AsType[*csv.ParseError](err)
	if !ok {
		return err
	}
	if errors.Is(err, csv.ErrFieldCount) {
		return &lineError{t.path, wrong.StartLine, fmt.Errorf("the row has another number of columns than the header, which has %d; is the delimiter %q?", len(t.names), t.in.Comma)}
	}
	return &lineError{t.path, wrong.Line, fmt.Errorf("column %d: %w", wrong.Column, wrong.Err)}
}
