package tracing

import (
	"context"
	"net/http"
	"strings"
	"testing"
)

const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

// TestText checks that a caller's trace is stored and restored, and that invalid traces are ignored.
func TestText(t *testing.T) {
	for _, tt := range []struct{ parent, state, want string }{
		{parent, "", parent},
		{parent, "a=b,c=d", parent + " a=b,c=d"},
		{parent, "a=" + strings.Repeat("x", 250) + ",b=" + strings.Repeat("y", 250) + ",c=" + strings.Repeat("z", 100), parent},
		{"nonsense", "a=b", ""},
		{"00-00000000000000000000000000000000-00f067aa0ba902b7-01", "", ""},
		{"", "", ""},
	} {
		ctx := From(context.Background(), http.Header{Parent: {tt.parent}, State: {tt.state}})
		got := Text(ctx)
		if got != tt.want {
			t.Errorf("%q %.20q is stored as %q, want %q", tt.parent, tt.state, got, tt.want)
		}
		if again := Text(Continue(context.Background(), got)); again != got {
			t.Errorf("%q continues as %q", got, again)
		}
	}
}
