package submit

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// table reads CSV. A template turns each row into a request. Blank rows are skipped.
type table struct {
	path     string
	in       *csvReader
	names    []string // the header; columns without a name are ignored
	width    int      // the number of columns up to the last one with a name
	template *template
	skipped  int
	row      row
	text     []byte
}

func newTable(in *Input, r io.Reader) (*table, error) {
	t := &table{path: in.Path, in: newCSVReader(r, in.Delimiter, in.dialect.end == "\r")}
	if in.dialect.sepLine != "" {
		if err := t.skipSepLine(); err != nil {
			return nil, err
		}
	}
	names, line, err := t.in.read()
	for err == nil && isBlank(names) {
		names, line, err = t.in.read()
	}
	switch {
	case errors.Is(err, io.EOF):
		return nil, fmt.Errorf("%s is empty: its first line must name the columns", in.Path)
	case err != nil:
		return nil, t.broken(err)
	}
	t.names = slices.Clone(names)
	seen := map[string]bool{}
	for i, name := range t.names {
		name = strings.TrimSpace(name)
		if seen[name] && name != "" {
			return nil, &lineError{path: in.Path, line: line, err: fmt.Errorf("two columns are named %q", name)}
		}
		seen[name] = true
		t.names[i] = name
	}
	t.width = len(trimBlank(t.names))
	t.template, err = parseTemplate(in.Template, t.names, in.DecimalComma)
	return t, err
}

// skipSepLine skips the line that names the delimiter.
func (t *table) skipSepLine() error {
	for {
		r, err := t.in.next()
		if err != nil {
			return err
		}
		if t.in.endsRow(r) {
			t.in.skipLF()
			return nil
		}
	}
}

func (t *table) header() []string { return t.names }
func (t *table) blank() int       { return t.skipped }

func (t *table) next() (*row, error) {
	for {
		cells, line, err := t.in.read()
		if errors.Is(err, io.EOF) {
			return nil, err
		}
		if err != nil {
			return nil, t.broken(err)
		}
		if isBlank(cells) {
			t.skipped++
			continue
		}
		if err := t.fits(cells); err != nil {
			return nil, &lineError{t.path, line, err, true}
		}
		t.text, err = t.template.append(t.text[:0], cells)
		if err != nil {
			return nil, &lineError{t.path, line, err, true}
		}
		t.row = row{line: line, request: t.text, columns: cells}
		return &t.row, nil
	}
}

// fits returns an error if a row lacks columns or has text in a column without a name.
func (t *table) fits(cells []string) error {
	if len(cells) < t.width {
		return fmt.Errorf("the row has %d columns but the header has %d; is the delimiter %q?", len(cells), t.width, t.in.comma)
	}
	for i := t.width; i < len(cells); i++ {
		if strings.TrimSpace(cells[i]) != "" {
			return fmt.Errorf("column %d has the text %q but no name in the header, which names %d columns; is the delimiter %q?", i+1, cut(cells[i]), t.width, t.in.comma)
		}
	}
	return nil
}

// broken adds the position to an error of the CSV reader.
func (t *table) broken(err error) error {
	if wrong := asTextError(err); wrong != nil {
		return wrong
	}
	if wrong, ok := errors.AsType[*csvError](err); ok {
		return &lineError{path: t.path, line: wrong.line, err: fmt.Errorf("character %d: %s", wrong.column, wrong.message)}
	}
	return err
}
