package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/sheafapi/sheaf/internal/batch"
)

// visibleWriter writes text for people. It escapes control and bidirectional characters, so that text
// from an API, a file or another server can't move the cursor, change colors or reverse the reading
// order. It is not safe for concurrent use.
type visibleWriter struct {
	out  io.Writer
	rest []byte // the beginning of a character that the next Write completes
}

// visible returns a visibleWriter, or out itself if a program reads the text.
func visible(out io.Writer, always bool) io.Writer {
	if !always && !isTerminal(out) {
		return out
	}
	return &visibleWriter{out: out}
}

// raw returns the writer below a visibleWriter, for code that draws on the terminal.
func raw(w io.Writer) io.Writer {
	if v, ok := w.(*visibleWriter); ok {
		return v.out
	}
	return w
}

func (v *visibleWriter) Write(p []byte) (int, error) {
	text := slices.Concat(v.rest, p)
	end := len(text)
	for back := 1; back < min(utf8.UTFMax, end+1); back++ {
		if start := end - back; utf8.RuneStart(text[start]) {
			if !utf8.FullRune(text[start:]) {
				end = start
			}
			break
		}
	}
	v.rest = slices.Clone(text[end:])
	if _, err := io.WriteString(v.out, visibleText(string(text[:end]))); err != nil {
		return 0, err
	}
	return len(p), nil
}

// visibleText escapes characters that a terminal acts on, except newlines and tabs.
func visibleText(text string) string {
	if strings.IndexFunc(text, isActive) < 0 && utf8.ValidString(text) {
		return text
	}
	var b strings.Builder
	for len(text) > 0 {
		r, size := utf8.DecodeRuneInString(text)
		switch {
		case r == utf8.RuneError && size == 1, r < utf8.RuneSelf && isActive(r):
			fmt.Fprintf(&b, `\x%02x`, text[0])
		case isActive(r):
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteString(text[:size])
		}
		text = text[size:]
	}
	return b.String()
}

// isActive reports whether a terminal acts on a character instead of showing it.
func isActive(r rune) bool {
	return r != '\n' && r != '\t' && batch.IsControl(r)
}
