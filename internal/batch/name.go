package batch

import (
	"fmt"
	"strings"
	"unicode"
)

// IsControl reports whether programs may interpret a character instead of showing it: a control
// character, a character that changes the reading order, or a line end.
func IsControl(r rune) bool {
	return unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r == '\u2028' || r == '\u2029'
}

// CheckName returns an error if the given text has a character for which IsControl is true. The error
// completes a sentence that begins with the text's name.
func CheckName(text string) error {
	if at := strings.IndexFunc(text, IsControl); at >= 0 {
		return fmt.Errorf("has the control character %U at byte %d", []rune(text[at:])[0], at)
	}
	return nil
}
