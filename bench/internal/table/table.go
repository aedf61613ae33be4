// Package table writes Markdown tables whose columns are aligned, so that they can also be read in a
// terminal.
package table

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Table is a table. Its first row is the heading.
type Table struct {
	rows [][]string
}

// New returns a table with the headings of its columns.
func New(headings ...string) *Table { return &Table{[][]string{headings}} }

// Add adds a row, which has at most as many cells as there are headings.
func (t *Table) Add(cells ...string) { t.rows = append(t.rows, cells) }

// Print writes the table, with an empty line before and after it.
func (t *Table) Print(w io.Writer) error {
	widths := make([]int, len(t.rows[0]))
	for column := range widths {
		for _, row := range t.rows {
			widths[column] = max(widths[column], utf8.RuneCountInString(cell(row, column)))
		}
	}
	var out strings.Builder
	out.WriteString("\n")
	for i, row := range t.rows {
		for column, width := range widths {
			text := cell(row, column)
			out.WriteString("| " + text + strings.Repeat(" ", width-utf8.RuneCountInString(text)+1))
		}
		out.WriteString("|\n")
		if i > 0 {
			continue
		}
		for _, width := range widths {
			out.WriteString("|" + strings.Repeat("-", width+2))
		}
		out.WriteString("|\n")
	}
	out.WriteString("\n")
	_, err := io.WriteString(w, out.String())
	return err
}

// cell returns a row's cell, or an empty one if the row is shorter.
func cell(row []string, column int) string {
	if column >= len(row) {
		return ""
	}
	return row[column]
}

// Thousands returns n with commas between groups of three digits. n must not be negative.
func Thousands(n int) string {
	if n < 1000 {
		return strconv.Itoa(n)
	}
	return fmt.Sprintf("%s,%03d", Thousands(n/1000), n%1000)
}
