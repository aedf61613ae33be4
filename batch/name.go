package batch

import (
	"fmt"
	"strings"
	"unicode"
)

// IsControl reports whether a program that shows text may act on a character instead of showing
// it: a control character, one that changes the reading order, or an end of a line.
func IsControl(r rune) bool {
	return unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r == '\u2028' || r == '\u2029'
}

// CheckName returns an error if a text has such a character. It completes a sentence that begins
// with what the text is.
func CheckName(text string) error {
	if at := strings.IndexFunc(text, IsControl); at >= 0 {
		return fmt.Errorf("has the control character %U at byte %d", []rune(text[at:])[0], at)
	}
	return nil
}
