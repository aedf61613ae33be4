package batch

import (
	"testing"

	"github.com/google/uuid"
	"pgregory.net/rapid"
)

// TestIdempotencyKeyStable checks that the key never changes. It lets an upstream recognize a request
// that is sent again after a crash, possibly by a later version of Sheaf.
func TestIdempotencyKeyStable(t *testing.T) {
	ticket := uuid.MustParse("0b5e9d7e-3f3c-4a5e-9c56-1f2a3b4c5d6e")
	const want = "0a85d707-838e-81b1-91d1-332593b7129a"
	if got := IdempotencyKey(ticket, 258); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestIdempotencyKeyDiffers(t *testing.T) {
	seen := make(map[string]bool)
	for _, ticket := range []Ticket{{}, {1}, uuid.New()} {
		for i := range MaxRequests {
			key := IdempotencyKey(ticket, i)
			id, err := uuid.Parse(key)
			if err != nil || id.Version() != 8 || id.Variant() != uuid.RFC4122 {
				t.Fatalf("%s is no UUID of version 8: %v", key, err)
			}
			if seen[key] {
				t.Fatalf("%s occurs twice", key)
			}
			seen[key] = true
		}
	}
}

func TestValidStoreID(t *testing.T) {
	long := make([]byte, MaxStoreID+1)
	for i := range long {
		long[i] = 'a'
	}
	for id, want := range map[string]bool{
		"1003": true, "a": true, "Z_9-": true, string(long[1:]): true,
		"": false, string(long): false, "a b": false, "a/b": false, "..": false, "é": false, "a\x00": false, "a%20": false,
	} {
		if got := ValidStoreID(id); got != want {
			t.Errorf("%q: got %v", id, got)
		}
	}
}

func TestSet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s Set
		want := make(map[int]bool)
		for _, i := range rapid.SliceOf(rapid.IntRange(0, MaxRequests-1)).Draw(t, "added") {
			s.Add(i)
			want[i] = true
		}
		for i := range MaxRequests {
			if s.Has(i) != want[i] {
				t.Fatalf("index %d: got %v", i, s.Has(i))
			}
		}
	})
}

func TestParseStatus(t *testing.T) {
	for _, want := range []Status{Queued, InProgress, Completed} {
		if got, ok := ParseStatus(want.String()); !ok || got != want {
			t.Errorf("%v: got %v, %v", want, got, ok)
		}
	}
	for _, word := range []string{"", "queued", "UNKNOWN", "FAILED"} {
		if got, ok := ParseStatus(word); ok {
			t.Errorf("%q: got %v", word, got)
		}
	}
}

func TestMethods(t *testing.T) {
	tests := map[string]struct{ safe, repeatable bool }{
		"GET": {true, true}, "HEAD": {true, true}, "PUT": {false, true},
		"DELETE": {false, true}, "POST": {false, false}, "PATCH": {false, false},
	}
	for _, m := range Methods {
		r := Request{Method: m}
		if want, ok := tests[m]; !ok || r.Safe() != want.safe || r.Repeatable() != want.repeatable {
			t.Errorf("%s: safe %v, repeatable %v", m, r.Safe(), r.Repeatable())
		}
	}
}
