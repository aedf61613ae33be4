package submit

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// dialect describes the syntax of a CSV file. The results are written in the same dialect.
type dialect struct {
	charset charset
	comma   rune
	end     string // the line ending: "\n", "\r\n" or "\r"
	sepLine string // a first line that names the delimiter, without its line ending; "": none
}

// delimiters are the delimiters to look for, most common first.
const delimiters = ",;\t|"

// sampleSize is how much of a file is read to detect its dialect, in bytes.
const sampleSize = 64 << 10

// dialectOf detects the dialect of a CSV file from a sample. If comma is 0, it also detects the
// delimiter.
func dialectOf(path string, text io.Reader, set charset, comma rune) (dialect, error) {
	d := dialect{charset: set, comma: comma}
	in := bufio.NewReaderSize(text, sampleSize)
	sample, err := in.Peek(sampleSize)
	if wrong := asTextError(err); wrong != nil && len(sample) == 0 {
		return d, wrong
	}
	whole := errors.Is(err, io.EOF)
	d.end = lineEnd(sample)
	if named, line, ok := sepLine(sample); ok {
		if comma != 0 && comma != named {
			return d, fmt.Errorf("%s:1: the first line names the delimiter %q, but --delimiter names %q: omit --delimiter", path, named, comma)
		}
		d.comma, d.sepLine = named, line
		return d, nil
	}
	if d.comma == 0 {
		d.comma, err = d.sniffComma(path, sample, whole)
		return d, err
	}
	return d, nil
}

// lineEnd returns the first line ending outside quotes.
func lineEnd(sample []byte) string {
	quoted := false
	for i, b := range sample {
		switch {
		case b == '"':
			quoted = !quoted
		case quoted:
		case b == '\n':
			return "\n"
		case b == '\r' && i+1 < len(sample) && sample[i+1] == '\n':
			return "\r\n"
		case b == '\r':
			return "\r"
		}
	}
	return "\n"
}

// sepLine parses the line "sep=;", which some spreadsheets write before the header.
func sepLine(sample []byte) (comma rune, line string, ok bool) {
	end := bytes.IndexAny(sample, "\r\n")
	if end < 0 {
		return 0, "", false
	}
	line = string(sample[:end])
	text := strings.TrimSpace(strings.Trim(line, `"`))
	if len(text) < 5 || !strings.EqualFold(text[:4], "sep=") {
		if !strings.EqualFold(line, "sep=\t") {
			return 0, "", false
		}
		text = line
	}
	comma, size := utf8.DecodeRuneInString(text[4:])
	return comma, line, size == len(text)-4 && canDelimit(comma)
}

// canDelimit reports whether a character can be a delimiter.
func canDelimit(r rune) bool { return r != utf8.RuneError && !strings.ContainsRune("\"\r\n\x00", r) }

// sniffComma detects the delimiter. Of those that split all rows of the sample into the same number of
// columns, it chooses the one that yields the most. If there is none, the file has one column.
func (d *dialect) sniffComma(path string, sample []byte, whole bool) (rune, error) {
	best, most, tie := ',', 1, ' '
	for _, comma := range delimiters {
		switch n := d.columns(sample, comma, whole); {
		case n > most:
			best, most, tie = comma, n, ' '
		case n == most && n > 1:
			tie = comma
		}
	}
	if tie != ' ' {
		return 0, fmt.Errorf("%s: the delimiter may be %q or %q, because each gives %d columns: specify it with --delimiter", path, best, tie, most)
	}
	return best, nil
}

// columns returns how many columns the header has with a delimiter, or 0 if other rows of the sample
// have a different number.
func (d *dialect) columns(sample []byte, comma rune, whole bool) int {
	const rows = 20
	r := newCSVReader(bytes.NewReader(sample), comma, d.end == "\r")
	header := 0
	for n := 0; n < rows; n++ {
		cells, _, err := r.read()
		if err != nil {
			if errors.Is(err, io.EOF) || !whole {
				return header
			}
			return 0
		}
		if _, err := r.in.Peek(1); err != nil && !whole {
			return header // the sample ends inside this row
		}
		switch {
		case n == 0:
			header = len(trimBlank(cells))
		case isBlank(cells):
		case len(cells) < header, !isBlank(cells[header:]):
			return 0
		}
	}
	return header
}

// isBlank reports whether all cells are empty or white space.
func isBlank(cells []string) bool { return len(trimBlank(cells)) == 0 }

// trimBlank removes blank cells at the end.
func trimBlank(cells []string) []string {
	for len(cells) > 0 && strings.TrimSpace(cells[len(cells)-1]) == "" {
		cells = cells[:len(cells)-1]
	}
	return cells
}
