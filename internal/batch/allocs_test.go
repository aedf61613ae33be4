//go:build !race

package batch

import (
	"strings"
	"testing"
)

// The race detector allocates too, so this test is built without it. make test also runs it without
// the race detector.

func TestAllocs(t *testing.T) {
	const requests = 500
	body := []byte("[" + strings.Repeat(`{"id":"r","method":"POST","path":"products","body":{"name":"Chair"}},`, requests-1) +
		`{"method":"GET","path":"products"}]`)
	result := Result{Status: Succeeded, Code: 201, Line: "Created", Kind: JSONBody, Body: []byte(`{"id":1}`)}
	text := Result{Status: Failed, Code: 404, Line: "Not Found", Kind: TextBody, Body: []byte("no \"such\" thing\n")}
	buf := make([]byte, 0, 4096)
	var set Set
	for _, c := range []struct {
		name string
		want float64
		run  func()
	}{
		{"AppendHead", 0, func() { buf = AppendHead(buf[:0], InProgress, 500, 17) }},
		{"AppendResult, JSON", 0, func() { buf = AppendResult(buf[:0], "id", &result, false) }},
		{"AppendResult, text", 0, func() { buf = AppendResult(buf[:0], "id", &text, false) }},
		{"AppendResult, escaped", 0, func() { buf = AppendResult(buf[:0], "id", &result, true) }},
		{"Set", 0, func() { set.Add(499); _ = set.Has(499); _ = set.Len() }},
		{"Decode of 500", 1026, func() { _, _ = Decode(body, Options{}, HeaderPolicy{}) }},
		{"IdempotencyKey", 1, func() { _ = IdempotencyKey(Ticket{1}, 7) }},
	} {
		c.run()
		if got := testing.AllocsPerRun(20, c.run); got != c.want {
			t.Errorf("%s: %v allocations, want %v", c.name, got, c.want)
		}
	}
}
