package submit

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// csvReader reads CSV (RFC 4180). Unlike encoding/csv, it keeps line endings inside cells unchanged,
// reads files whose lines end in CR alone, and reports where an unclosed quote opens.
type csvReader struct {
	in    *bufio.Reader
	comma rune
	crEnd bool // CR alone ends a row

	line, column int // the position of the next character, from 1
	afterCR      bool

	text   []byte // the text of the row's cells, concatenated
	ends   []int  // the end of each cell in text
	fields []string
}

// csvError is a syntax error in a CSV file. The rest of the file can't be read.
type csvError struct {
	line, column int
	message      string
}

func (e *csvError) Error() string { return e.message }

func newCSVReader(r io.Reader, comma rune, crEnd bool) *csvReader {
	return &csvReader{in: bufio.NewReaderSize(r, 64<<10), comma: comma, crEnd: crEnd, line: 1, column: 1}
}

// read returns the next row and the line that it begins on. The cells are valid until the next call. At
// the end of the file, the error is io.EOF.
func (c *csvReader) read() (cells []string, line int, err error) {
	c.text, c.ends = c.text[:0], c.ends[:0]
	line = c.line
	for first := true; ; first = false {
		last, err := c.cell(first)
		if err != nil {
			return nil, line, err
		}
		if last {
			break
		}
	}
	whole := string(c.text)
	c.fields = c.fields[:0]
	begin := 0
	for _, end := range c.ends {
		c.fields = append(c.fields, whole[begin:end])
		begin = end
	}
	return c.fields, line, nil
}

// cell reads a cell and the delimiter or line ending after it. last reports whether it was the row's last
// cell. If first is set, the end of the file before the cell is the error io.EOF.
func (c *csvReader) cell(first bool) (last bool, err error) {
	r, err := c.next()
	if errors.Is(err, io.EOF) && first {
		return false, io.EOF
	}
	if err == nil && r == '"' {
		if err := c.quoted(); err != nil {
			return false, err
		}
		if r, err = c.next(); err == nil && r != c.comma && !c.endsRow(r) {
			return false, c.wrong(c.line, c.column-1, "%q follows a closing quote: inside a quoted cell, write each quote twice", r)
		}
		return c.endCell(r, err)
	}
	for ; err == nil && r != c.comma && !c.endsRow(r); r, err = c.next() {
		if r == '"' && c.comma != '\t' {
			return false, c.wrong(c.line, c.column-1, "a cell contains a quote but doesn't begin with one: quote the whole cell, and write each quote inside it twice")
		}
		if err := c.add(r); err != nil {
			return false, err
		}
	}
	return c.endCell(r, err)
}

// endCell ends a cell. r or err is what was read after it.
func (c *csvReader) endCell(r rune, err error) (last bool, _ error) {
	c.ends = append(c.ends, len(c.text))
	if errors.Is(err, io.EOF) {
		return true, nil
	}
	if r == '\r' { // CR LF
		c.skipLF()
	}
	return r != c.comma, err
}

// quoted reads the rest of a quoted cell, up to its closing quote.
func (c *csvReader) quoted() error {
	line, column := c.line, c.column-1
	for {
		r, err := c.next()
		switch {
		case errors.Is(err, io.EOF):
			return c.wrong(line, column, "the quote that opens here is not closed")
		case err != nil:
			return err
		case r == '"' && !c.peek('"'):
			return nil
		case r == '"':
			_, _ = c.next()
		}
		if err := c.add(r); err != nil {
			return err
		}
	}
}

// endsRow reports whether a character that was just read ends the row, alone or with the line feed after
// it.
func (c *csvReader) endsRow(r rune) bool {
	return r == '\n' || r == '\r' && (c.crEnd || c.peek('\n'))
}

// skipLF skips the LF of CR LF.
func (c *csvReader) skipLF() {
	if c.peek('\n') {
		_, _ = c.next()
	}
}

func (c *csvReader) add(r rune) error {
	if c.text = utf8.AppendRune(c.text, r); len(c.text) > maxRow {
		return c.wrong(c.line, c.column, "the row is longer than %d MiB", maxRow>>20)
	}
	return nil
}

func (c *csvReader) peek(want byte) bool {
	b, err := c.in.Peek(1)
	return err == nil && b[0] == want
}

// next reads a character. CR, LF and CR LF each end a line.
func (c *csvReader) next() (rune, error) {
	r, _, err := c.in.ReadRune()
	if err != nil {
		return 0, err
	}
	switch {
	case r == '\n' && c.afterCR:
	case r == '\n', r == '\r':
		c.line++
		c.column = 1
	default:
		c.column++
	}
	c.afterCR = r == '\r'
	return r, nil
}

func (c *csvReader) wrong(line, column int, format string, args ...any) error {
	return &csvError{line, max(column, 1), fmt.Sprintf(format, args...)}
}

// csvWriter writes CSV in the input's dialect.
type csvWriter struct {
	out   *bufio.Writer
	comma rune
	end   string // the line ending
}

// write writes a row. It quotes a single empty cell, so that readers don't skip the row as blank.
func (c *csvWriter) write(cells []string) error {
	for i, cell := range cells {
		if i > 0 {
			_, _ = c.out.WriteRune(c.comma) // a bufio.Writer returns errors later
		}
		if !c.needsQuotes(cell) && (cell != "" || len(cells) > 1) {
			_, _ = c.out.WriteString(cell)
			continue
		}
		_ = c.out.WriteByte('"')
		_, _ = c.out.WriteString(strings.ReplaceAll(cell, `"`, `""`))
		_ = c.out.WriteByte('"')
	}
	_, err := c.out.WriteString(c.end)
	return err
}

func (c *csvWriter) needsQuotes(cell string) bool {
	return cell != "" && (strings.ContainsRune(cell, c.comma) || strings.ContainsAny(cell, "\"\r\n") ||
		cell[0] == ' ' || cell[0] == '\t' || cell[len(cell)-1] == ' ' || cell[len(cell)-1] == '\t')
}
