package storage

import (
	"errors"
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sheafapi/sheaf/internal/batch"
)

func TestPackOptions(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var o batch.Options
		o.Concurrency = rapid.IntRange(0, batch.MaxParallel).Draw(t, "concurrency")
		if rapid.Bool().Draw(t, "has retries") {
			o.Retries = new(rapid.IntRange(0, batch.MaxRetries).Draw(t, "retries"))
		}
		if rapid.Bool().Draw(t, "has pauses") {
			first := time.Duration(rapid.Int64Range(int64(batch.MinPause), int64(batch.MaxPause)).Draw(t, "first"))
			o.Backoff = batch.Backoff{First: first, Most: first + rapid.SampledFrom([]time.Duration{0, batch.MaxPause - first}).Draw(t, "more")}
		}
		o.Success.Codes = rapid.SampledFrom([]batch.Codes{"", "200", "2xx,404"}).Draw(t, "codes")
		if pointers, err := batch.ParseFailWhen("/" + rapid.String().Draw(t, "pointers")); err == nil {
			o.Success.FailWhen = pointers
		}
		packed := PackOptions(&o)
		if isNone := reflect.DeepEqual(o, batch.Options{}); isNone != (packed == "") {
			t.Fatalf("%+v is stored as %q", o, packed)
		}
		var got batch.Options
		if err := UnpackOptions(packed, &got); err != nil || !reflect.DeepEqual(got, o) {
			t.Fatalf("%q: got %+v, %v; want %+v", packed, got, err, o)
		}
	})
}

// TestUnpackOptions checks that damaged options are refused, and that members of later versions are
// ignored.
func TestUnpackOptions(t *testing.T) {
	var o batch.Options
	if err := UnpackOptions(`{"later":[1],"c":3}`, &o); err != nil || o.Concurrency != 3 {
		t.Errorf("got %+v, %v", o, err)
	}
	for _, text := range []string{
		"{", "[]", "null1", `{"c":-1}`, `{"c":101}`, `{"c":"1"}`, `{"r":-1}`, `{"r":51}`, `{"b":"fixed"}`, `{"s":"429"}`, `{"f":"errors"}`,
	} {
		if err := UnpackOptions(text, &o); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// FuzzUnpackOptions checks that options are stored in only one form.
func FuzzUnpackOptions(f *testing.F) {
	f.Add(`{"c":7,"r":0,"b":"exponential:1s..5m","s":"2xx,404","f":"/errors,/a"}`)
	f.Fuzz(func(t *testing.T, text string) {
		var o, again batch.Options
		if UnpackOptions(text, &o) != nil {
			return
		}
		if err := UnpackOptions(PackOptions(&o), &again); err != nil || !reflect.DeepEqual(o, again) {
			t.Fatalf("%q: got %+v, then %+v, %v", text, o, again, err)
		}
	})
}
