package driver

import (
	"errors"
	"testing"
	"testing/synctest"
)

func TestGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g Gate
		if err := g.Enter(); err != nil {
			t.Fatal(err)
		}
		closed := false
		go func() { closed = g.Close() }()
		synctest.Wait()
		if closed {
			t.Error("it was closed during a call")
		}
		if err := g.Enter(); !errors.Is(err, ErrClosed) {
			t.Errorf("a call was let in while it closes: %v", err)
		}
		g.Leave()
		synctest.Wait()
		if !closed {
			t.Error("it does not close after the last call")
		}
		if g.Close() {
			t.Error("a second Close says that it was the first")
		}
	})
}

func TestParseQueries(t *testing.T) {
	got := ParseQueries("-- a heading\n\n-- name: one\nSELECT 1;\n\n-- name: two\n-- a comment\nSELECT 2,\n    3;\n")
	if len(got) != 2 || got["one"] != "SELECT 1" || got["two"] != "-- a comment\nSELECT 2,\n    3" {
		t.Errorf("%q", got)
	}
}
