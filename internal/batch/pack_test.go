package batch

import (
	"bytes"
	"math/rand/v2"
	"reflect"
	"sync"
	"testing"

	"pgregory.net/rapid"
)

func TestPackKeepsRequests(t *testing.T) {
	request := rapid.Custom(func(t *rapid.T) Request {
		r := Request{
			ID:     rapid.String().Draw(t, "id"),
			Method: rapid.SampledFrom(Methods).Draw(t, "method"),
			Path:   rapid.String().Draw(t, "path"),
		}
		if body := rapid.SliceOfN(rapid.Byte(), 0, 600).Draw(t, "body"); len(body) > 0 {
			r.Body = body
		}
		return r
	})
	rapid.Check(t, func(t *rapid.T) {
		requests := rapid.SliceOfN(request, 1, 20).Draw(t, "requests")
		got, err := Unpack(Pack(requests))
		if err != nil || !reflect.DeepEqual(got, requests) {
			t.Fatalf("got %+v, %v", got, err)
		}
		some := false
		for _, r := range requests {
			some = some || r.ID != ""
		}
		packed := PackIDs(requests)
		if (packed != nil) != some {
			t.Fatalf("some ids %v, stored %d bytes", some, len(packed))
		}
		ids, err := UnpackIDs(packed)
		if err != nil {
			t.Fatal(err)
		}
		for i := range ids {
			if ids[i] != requests[i].ID {
				t.Fatalf("id %d: got %q, want %q", i, ids[i], requests[i].ID)
			}
		}
		if some && len(ids) != len(requests) {
			t.Fatalf("%d ids of %d requests", len(ids), len(requests))
		}
	})
}

// TestPackBodiesApart: the requests share a buffer, so that appending to one
// body must not reach into the next one.
func TestPackBodiesApart(t *testing.T) {
	got, err := Unpack(Pack([]Request{{Method: "PUT", Path: "a", Body: []byte("1")}, {Method: "PUT", Path: "b", Body: []byte("2")}}))
	if err != nil {
		t.Fatal(err)
	}
	_ = append(got[0].Body, bytes.Repeat([]byte("x"), 8)...)
	if string(got[1].Body) != "2" || got[1].Path != "b" {
		t.Errorf("got %+v", got[1])
	}
}

func TestPackEmptyBodyIsNone(t *testing.T) {
	got, err := Unpack(Pack([]Request{{Method: "PUT", Path: "a", Body: []byte{}}}))
	if err != nil || len(got) != 1 || got[0].Body != nil {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestPackSize(t *testing.T) {
	noise := make([]byte, 100_000)
	random := rand.NewChaCha8([32]byte{1})
	_, _ = random.Read(noise)
	for name, tt := range map[string]struct {
		body []byte
		most int
	}{
		"small":        {[]byte("{}"), 20},
		"compressible": {bytes.Repeat([]byte(`{"name":"Chair"}`), 10_000), 2000},
		"noise":        {noise, len(noise) + 20},
	} {
		if got := len(Pack([]Request{{Method: "PUT", Path: "a", Body: tt.body}})); got > tt.most {
			t.Errorf("%s: %d bytes, want at most %d", name, got, tt.most)
		}
	}
}

func TestPackConcurrently(t *testing.T) {
	requests, err := Decode(body500(), Options{}, HeaderPolicy{})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			got, err := Unpack(Pack(requests))
			if err != nil || !reflect.DeepEqual(got, requests) {
				t.Errorf("got %d requests, %v", len(got), err)
			}
		})
	}
	wg.Wait()
}

// TestUnpackDamaged: every compressed form that was cut off is an error, never
// fewer requests.
func TestUnpackDamaged(t *testing.T) {
	packed := Pack([]Request{{ID: "1", Method: "PUT", Path: "a", Body: bytes.Repeat([]byte("chair "), 500)}})
	for n := range len(packed) {
		if got, err := Unpack(packed[:n]); err == nil {
			t.Fatalf("%d of %d bytes: got %d requests", n, len(packed), len(got))
		}
	}
	for _, data := range [][]byte{nil, {99}, {plainForm}, {plainForm, 5}, {plainForm, 0, 0, 0}, {zstdForm}, {plainForm, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}} {
		if got, err := Unpack(data); err == nil {
			t.Errorf("%v: got %+v", data, got)
		}
	}
	for _, data := range [][]byte{{99}, {plainForm, 5}, {zstdForm, 1}} {
		if got, err := UnpackIDs(data); err == nil {
			t.Errorf("ids %v: got %q", data, got)
		}
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{plainForm, 1, 'i', 3, 'G', 'E', 'T', 1, 'p', 0})
	f.Add([]byte{zstdForm, 0x28, 0xb5, 0x2f, 0xfd})
	f.Add(Pack([]Request{{ID: "1", Method: "PUT", Path: "a", Body: bytes.Repeat([]byte("chair "), 500)}}))
	f.Add(PackIDs([]Request{{ID: "1"}, {}, {ID: "3"}}))
	f.Fuzz(func(t *testing.T, data []byte) {
		if requests, err := Unpack(data); err == nil {
			again, err := Unpack(Pack(requests))
			if err != nil || !reflect.DeepEqual(again, requests) {
				t.Fatalf("%+v became %+v, %v", requests, again, err)
			}
		}
		if ids, err := UnpackIDs(data); err == nil && len(ids) > len(data)<<16 {
			t.Fatalf("%d ids of %d bytes", len(ids), len(data))
		}
	})
}
