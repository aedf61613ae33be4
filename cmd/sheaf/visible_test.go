package main

import (
	"strings"
	"testing"
)

// No character that a terminal acts on is written, however the text is split into writes.
func TestVisible(t *testing.T) {
	const text = "ä\x1b[31mred\x1b[0m\r\n\tb\u202ec\u009bd\xffe\u2066"
	const want = `ä\x1b[31mred\x1b[0m\x0d` + "\n\t" + `b\u202ec\u009bd\xffe\u2066`
	for size := 1; size <= len(text); size++ {
		var b strings.Builder
		w := visible(&b, true)
		for i := 0; i < len(text); i += size {
			part := text[i:min(i+size, len(text))]
			if n, err := w.Write([]byte(part)); n != len(part) || err != nil {
				t.Fatalf("wrote %d, %v", n, err)
			}
		}
		if b.String() != want {
			t.Errorf("in parts of %d: got %q, want %q", size, b.String(), want)
		}
	}
	if w := visible(&strings.Builder{}, false); w != raw(w) {
		t.Error("text for a program is changed")
	}
}
