package submit

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// readAll reads CSV to its end.
func readAll(text string, comma rune, crEnd bool) (rows [][]string, err error) {
	r := newCSVReader(strings.NewReader(text), comma, crEnd)
	for {
		cells, _, err := r.read()
		if errors.Is(err, io.EOF) {
			return rows, nil
		}
		if err != nil {
			return rows, err
		}
		rows = append(rows, slices.Clone(cells))
	}
}

func writeAll(rows [][]string, comma rune, end string) string {
	var b bytes.Buffer
	w := &csvWriter{out: bufio.NewWriter(&b), comma: comma, end: end}
	for _, row := range rows {
		_ = w.write(row)
	}
	_ = w.out.Flush()
	return b.String()
}

// Cells with any content survive writing and reading in every dialect, and no row is lost.
func TestCSVRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		comma := rapid.SampledFrom([]rune(delimiters+"§")).Draw(t, "comma")
		end := rapid.SampledFrom([]string{"\n", "\r\n", "\r"}).Draw(t, "end")
		cell := rapid.OneOf(rapid.StringMatching(`[a,;|§"\t\r\n =ä]{0,5}`), rapid.Just(""))
		rows := rapid.SliceOfN(rapid.SliceOfN(cell, 1, 4), 1, 6).Draw(t, "rows")
		text := writeAll(rows, comma, end)
		got, err := readAll(text, comma, end == "\r")
		if err != nil || !slices.EqualFunc(got, rows, slices.Equal) {
			t.Fatalf("%q: got %q, %v, want %q", text, got, err, rows)
		}
	})
}

// Line endings inside cells are kept, whichever line ending the file uses.
func TestCSVLineEnds(t *testing.T) {
	for _, c := range []struct {
		text  string
		crEnd bool
		want  [][]string
	}{
		{"a,\"1\r\n2\n3\r4\"\r\nb,\n", false, [][]string{{"a", "1\r\n2\n3\r4"}, {"b", ""}}},
		{"a\rb\r\"c\r\nd\"", true, [][]string{{"a"}, {"b"}, {"c\r\nd"}}},
		{"a\rb\n", false, [][]string{{"a\rb"}}}, // a stray CR is text where LF ends rows
		{"a\n\n\"\"\n", false, [][]string{{"a"}, {""}, {""}}},
		{"a,", false, [][]string{{"a", ""}}},
		{"", false, nil},
	} {
		got, err := readAll(c.text, ',', c.crEnd)
		if err != nil || !slices.EqualFunc(got, c.want, slices.Equal) {
			t.Errorf("%q: got %q, %v, want %q", c.text, got, err, c.want)
		}
	}
}

// FuzzCSV checks that rows don't change when they are written and read again.
func FuzzCSV(f *testing.F) {
	for _, text := range []string{"a,b\r\n\"c\"\"\",d\n", "\"a", "a\"b\n", "\r\r\n,\n"} {
		f.Add(text, false)
		f.Add(text, true)
	}
	f.Fuzz(func(t *testing.T, text string, crEnd bool) {
		rows, err := readAll(strings.ToValidUTF8(text, "?"), ',', crEnd)
		if err != nil {
			return
		}
		end := "\n"
		if crEnd {
			end = "\r"
		}
		again, err := readAll(writeAll(rows, ',', end), ',', crEnd)
		if err != nil || !slices.EqualFunc(again, rows, slices.Equal) {
			t.Errorf("got %q, %v, want %q", again, err, rows)
		}
	})
}
