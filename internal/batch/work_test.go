package batch

import (
	"bytes"
	"fmt"
	"runtime"
	"strings"
	"testing"
)

// These tests check that the work for a caller's data is proportional to its size. They count memory and
// the bytes that are read, but don't measure time.

// allocated returns how many bytes f allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// manyRefs returns a create body of n requests that depend on the first one. Each of them has a body with
// padding and 100 places for references.
func manyRefs(n, padding int) []byte {
	var b bytes.Buffer
	b.WriteString(`[{"id":"p","method":"POST","path":"/p"}`)
	for range n {
		fmt.Fprintf(&b, `,{"method":"POST","path":"/p","body":{"padding":"%s","at":[%s0]},"refs":{`, strings.Repeat("x", padding), strings.Repeat("0,", MaxRefs-1))
		for i := range MaxRefs {
			if i > 0 {
				b.WriteByte(',')
			}
			fmt.Fprintf(&b, `"body:/at/%d":"p#/at/%d"`, i, i)
		}
		b.WriteString(`}}`)
	}
	b.WriteByte(']')
	return b.Bytes()
}

// TestDecodeReadsBodiesOnce checks that one pass finds the places of all references of a request.
func TestDecodeReadsBodiesOnce(t *testing.T) {
	body := manyRefs(MaxRequests-1, 2000)
	d := newDecoding(body, Options{}, HeaderPolicy{})
	if _, err := d.decode(); err != nil {
		t.Fatal(err)
	}
	if d.read > len(body) {
		t.Errorf("%d bytes were read of a body of %d", d.read, len(body))
	}
}

// TestTakeReadsAnswersOnce checks that one pass finds all values that a batch takes from an answer, and
// that a value is kept once even if many requests take it.
func TestTakeReadsAnswersOnce(t *testing.T) {
	requests, err := Decode(manyRefs(MaxRequests-1, 10), Options{}, HeaderPolicy{})
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	text.WriteString(`{"keys":{"":0`)
	for i := range 100_000 {
		fmt.Fprintf(&text, `,"key %d":"%030d"`, i, i)
	}
	text.WriteString(`},"at":[`)
	for i := range MaxRefs {
		fmt.Fprintf(&text, `"%d%s",`, i, strings.Repeat("x", 100))
	}
	text.WriteString(`0]}`)
	result := &Result{Status: Succeeded, Code: 200, Body: []byte(text.String()), Kind: JSONBody}
	v := NewValues(requests)
	taken := allocated(func() { v.Take(0, result) })
	if v.read > len(result.Body) {
		t.Errorf("%d bytes were read of an answer of %d", v.read, len(result.Body))
	}
	if most := uint64(16 << 20); taken > most {
		t.Errorf("taking values allocated %d bytes, more than %d", taken, most)
	}
	first := v.Of(1)
	for i := 1; i < MaxRequests; i++ {
		for j, value := range v.Of(i) {
			if want := fmt.Sprintf(`"%d`, j); !strings.HasPrefix(string(value.JSON), want) || len(value.JSON) != len(want)+101 {
				t.Fatalf("request %d takes %s, %s for reference %d", i, value.JSON, value.Why, j)
			}
			if &value.JSON[0] != &first[j].JSON[0] {
				t.Fatalf("request %d has a copy of value %d", i, j)
			}
		}
		if _, err := requests[i].Fill(v.Of(i)); err != nil {
			t.Fatal(err)
		}
		if v.Drop(i); v.Of(i) != nil {
			t.Fatal("values of a request that has ended are kept")
		}
	}
}

// TestTakenValuesAreLimited checks the limit when every request takes large values from one answer.
func TestTakenValuesAreLimited(t *testing.T) {
	requests, err := Decode(manyRefs(MaxRequests-1, 10), Options{}, HeaderPolicy{})
	if err != nil {
		t.Fatal(err)
	}
	value := `"` + strings.Repeat("x", MaxRefValue-2) + `"`
	body := `{"at":[` + strings.Repeat(value+",", MaxRefs-1) + value + `]}` // 6.5 MiB
	v := NewValues(requests)
	v.Take(0, answer(body))
	total, refused := 0, 0
	for i := range requests {
		for _, value := range v.Of(i) {
			total += len(value.JSON)
			if value.JSON == nil {
				refused++
			}
		}
	}
	if total > maxValues || total < maxValues-MaxRefValue || refused == 0 {
		t.Errorf("%d bytes are kept, and %d values refused", total, refused)
	}
}

// TestFillPathIsLimited checks the limit when a path has a long value in thousands of places.
func TestFillPathIsLimited(t *testing.T) {
	for _, place := range []string{"path", "query"} {
		path := "/x?" + strings.Repeat("{v}", 2700)
		if place == "path" {
			path = "/x" + strings.Repeat("{v}", 2700)
		}
		for _, length := range []int{4, MaxPath, MaxRefValue - 2} {
			second := `{"method":"GET","path":"` + path + `","refs":{"` + place + `:v":"p#/v"}}`
			a := answer(`{"v":"` + strings.Repeat("é", length/2) + `"}`)
			var err error
			if n := allocated(func() { _, err = filled(t, second, a) }); n > 2<<20 {
				t.Errorf("a value of %d bytes in the %s allocated %d bytes", length, place, n)
			}
			if err == nil || !strings.Contains(err.Error(), "makes a path that must not be longer than 8192 bytes") {
				t.Errorf("a value of %d bytes in the %s: %v", length, place, err)
			}
		}
	}
}

// TestSegmentValuesAreDecodedOnce checks a value that can be decoded many times.
func TestSegmentValuesAreDecodedOnce(t *testing.T) {
	value := "%" + strings.Repeat("25", 4000) + "41"
	if n := testing.AllocsPerRun(1, func() { _ = checkSegmentValue(value) }); n > 4 {
		t.Errorf("%v allocations", n)
	}
}

// TestDecodeAllocatesInProportion sends many of everything that a body can repeat. Decode must not compare
// each with all others, or build error texts that are never shown.
func TestDecodeAllocatesInProportion(t *testing.T) {
	refs := func(format string) string {
		var b strings.Builder
		for i := range MaxRefs {
			if i > 0 {
				b.WriteByte(',')
			}
			fmt.Fprintf(&b, format, i)
		}
		return b.String()
	}
	many := func(format string, n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, format, i)
		}
		return strings.TrimSuffix(b.String(), ",")
	}
	for name, fields := range map[string]string{
		"places in a path":          `"path":"/` + strings.Repeat("{a}", 2500) + `","refs":{` + refs(`"path:a%d":"p#/a"`) + `}`,
		"braces in a path":          `"path":"/` + strings.Repeat("{", 8000) + `","refs":{"header:A":"p#/a"}`,
		"headers":                   `"path":"/","headers":{` + many(`"a%d":"",`, 100_000) + `}`,
		"headers that are no texts": `"path":"/","headers":{` + many(`"a%d":0,`, 100_000) + `}`,
		"references":                `"path":"/","refs":{` + many(`"path:a%d":"p#",`, 100_000) + `}`,
		"dependencies":              `"path":"/","dependsOn":[` + many(`"%d",`, 200_000) + `]`,
		"numbers as dependencies":   `"path":"/","dependsOn":[` + many(`%d,`, 200_000) + `]`,
		"a pointer":                 `"path":"/","body":{"a":1},"refs":{"body:` + strings.Repeat("/a", 200_000) + `":"p#` + strings.Repeat("/a", 200_000) + `"}`,
		"header names":              `"path":"/","refs":{` + refs(`"header:`+strings.Repeat("a", 20_000)+`%d":"p#"`) + `}`,
	} {
		body := []byte(`[{"id":"p","method":"POST","path":"/p"},{"method":"POST",` + fields + `}]`)
		n := allocated(func() { _, _ = Decode(body, Options{}, HeaderPolicy{}) })
		if most := uint64(20*len(body) + 1<<19); n > most {
			t.Errorf("%s: a body of %d bytes allocated %d, more than %d", name, len(body), n, most)
		}
	}
}

// TestReasonsAreShort checks that a result's line stays short although it names a reference with long
// pointers.
func TestReasonsAreShort(t *testing.T) {
	long := strings.Repeat("/é", 100_000)
	err := &RefError{&Ref{Where: InBody, Name: long, Path: long}, "finds nothing"}
	if n := len(err.Error()); n > 4*maxPlace {
		t.Errorf("%d bytes", n)
	}
}
