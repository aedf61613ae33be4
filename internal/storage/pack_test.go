package storage

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/sheafapi/sheaf/internal/batch"
)

func TestPackKeepsRequests(t *testing.T) {
	request := rapid.Custom(func(t *rapid.T) batch.Request {
		r := batch.Request{
			ID:     rapid.String().Draw(t, "id"),
			Method: rapid.SampledFrom(batch.Methods).Draw(t, "method"),
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

// TestPackBodiesApart checks that appending to one body doesn't change the next one. The
// requests share a buffer.
func TestPackBodiesApart(t *testing.T) {
	got, err := Unpack(Pack([]batch.Request{{Method: "PUT", Path: "a", Body: []byte("1")}, {Method: "PUT", Path: "b", Body: []byte("2")}}))
	if err != nil {
		t.Fatal(err)
	}
	_ = append(got[0].Body, bytes.Repeat([]byte("x"), 8)...)
	if string(got[1].Body) != "2" || got[1].Path != "b" {
		t.Errorf("got %+v", got[1])
	}
}

func TestPackEmptyBodyIsNone(t *testing.T) {
	got, err := Unpack(Pack([]batch.Request{{Method: "PUT", Path: "a", Body: []byte{}}}))
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
		if got := len(Pack([]batch.Request{{Method: "PUT", Path: "a", Body: tt.body}})); got > tt.most {
			t.Errorf("%s: %d bytes, want at most %d", name, got, tt.most)
		}
	}
}

// manyRequests returns the maximum number of requests of a batch.
func manyRequests() []batch.Request {
	out := make([]batch.Request, batch.MaxRequests)
	for i := range out {
		out[i] = batch.Request{
			ID: fmt.Sprintf("%06d", i), Method: "POST", Path: fmt.Sprintf("products/%d/combinations", i),
			Body: fmt.Appendf(nil, `{"name":"Chair %d","description":%q}`, i, strings.Repeat("abcdefgh ", 20)),
		}
	}
	return out
}

func TestPackConcurrently(t *testing.T) {
	requests := manyRequests()
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

// TestUnpackDamaged checks that a truncated form is an error. It must never read as fewer requests.
func TestUnpackDamaged(t *testing.T) {
	packed := Pack([]batch.Request{{ID: "1", Method: "PUT", Path: "a", Body: bytes.Repeat([]byte("chair "), 500)}})
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

// FuzzPackDecoded checks that every batch that can be created is stored without loss.
func FuzzPackDecoded(f *testing.F) {
	for _, s := range []string{
		`[{"id":"p","method":"POST","path":"p","body":{"name":"Mug"},"headers":{"If-Match":"\"x\"","Idempotency-Key":"k"}},
		{"method":"POST","path":"/v/{pid}?of={pid}","body":{"parentId":null,"sku":["M-1",{"a":1}]},
		 "refs":{"path:pid":"p#/id","query:pid":"p#","body:/sku/1/a":"p#/a~1b","header:If-Match":"p@ETag"}}]`,
		`[{"id":"a","method":"POST","path":"products?a=%20+","body":{"n":1.10}}]`,
		`[{"id":"a","method":"GET","path":"p"},{"method":"PUT","path":"p/{x}","dependsOn":["a"],"runIf":"always","refs":{"path:x":"a#/id"}}]`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		requests, err := batch.Decode(body, batch.Options{}, batch.HeaderPolicy{})
		if err != nil {
			return
		}
		if got, err := Unpack(Pack(requests)); err != nil || !reflect.DeepEqual(got, requests) {
			t.Fatalf("stored %+v, read %+v, %v", requests, got, err)
		}
	})
}

func FuzzUnpack(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{plainForm, 1, 'i', 3, 'G', 'E', 'T', 1, 'p', 0})
	f.Add([]byte{zstdForm, 0x28, 0xb5, 0x2f, 0xfd})
	f.Add(Pack([]batch.Request{{ID: "1", Method: "PUT", Path: "a", Body: bytes.Repeat([]byte("chair "), 500)}}))
	f.Add(PackIDs([]batch.Request{{ID: "1"}, {}, {ID: "3"}}))
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

func TestPackHeaders(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		headers := rapid.SliceOf(rapid.Custom(func(t *rapid.T) batch.Header {
			return batch.Header{Name: rapid.String().Draw(t, "name"), Value: rapid.String().Draw(t, "value")}
		})).Draw(t, "headers")
		got, err := UnpackHeaders(PackHeaders(headers))
		if err != nil || len(got) != len(headers) || len(got) > 0 && !reflect.DeepEqual(got, headers) {
			t.Fatalf("got %v, %v", got, err)
		}
	})
	if _, err := UnpackHeaders([]byte{5, 'a'}); err == nil {
		t.Error("damaged headers are read")
	}
}

func BenchmarkPack500(b *testing.B) {
	requests := manyRequests()
	for b.Loop() {
		Pack(requests)
	}
}
