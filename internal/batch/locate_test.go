package batch

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"pgregory.net/rapid"
)

// locateOne is a model of locate. It reads the text for only one pointer.
func locateOne(text []byte, pointer string) (span, error) {
	errNone := errors.New("there is nothing at this place")
	d := jsontext.NewDecoder(bytes.NewBuffer(text), jsontext.AllowDuplicateNames(true))
	for token := range jsontext.Pointer(pointer).Tokens() {
		kind := d.PeekKind()
		if kind != '{' && kind != '[' {
			return span{}, errNone
		}
		if _, err := d.ReadToken(); err != nil {
			return span{}, err
		}
		index, isIndex := arrayIndex(token)
		if kind == '[' && !isIndex {
			return span{}, errNone
		}
		for there := false; !there; index-- {
			switch {
			case d.PeekKind() == '}' || d.PeekKind() == ']':
				return span{}, errNone
			case kind == '{':
				name, err := d.ReadToken()
				if err != nil {
					return span{}, err
				}
				there = name.String() == token
			default:
				there = index == 0
			}
			if !there {
				if err := d.SkipValue(); err != nil {
					return span{}, err
				}
			}
		}
	}
	value, err := d.ReadValue()
	if err != nil {
		return span{}, err
	}
	end := int(d.InputOffset())
	return span{end - len(value), end}, nil
}

// checkLocate compares locate with the model.
func checkLocate(t interface {
	Helper()
	Errorf(string, ...any)
}, text []byte, pointers []string,
) {
	t.Helper()
	got, read := locate(text, pointers)
	if read > len(text) {
		t.Errorf("%d bytes were read of %d", read, len(text))
	}
	for i, p := range pointers {
		want, err := locateOne(text, p)
		if err != nil {
			want = span{}
		}
		if got[i] != want {
			t.Errorf("%q in %q: %v, and %v in the model", p, text, got[i], want)
		}
	}
}

// nameGenerator draws names that are hard to match: pointers must escape them, JSON may escape them, they
// look like indexes, or they resemble each other.
var nameGenerator = rapid.SampledFrom([]string{"", "a", "b", "ab", "a-", "a!", "0", "1", "01", "-", "~", "/", "~1", "~0", "~01", "a/b", "é", "\"", "\n", "\u0000"})

// drawJSON draws a JSON text with spaces between its tokens and with repeated names.
func drawJSON(t *rapid.T, depth int) string {
	space := func() string { return rapid.SampledFrom([]string{"", "", " ", "\n\t"}).Draw(t, "space") }
	kind := rapid.IntRange(0, 5).Draw(t, "kind")
	if depth == 0 {
		kind = min(kind, 3)
	}
	var b strings.Builder
	b.WriteString(space())
	switch kind {
	case 4, 5:
		open, end := "[", "]"
		if kind == 5 {
			open, end = "{", "}"
		}
		b.WriteString(open)
		for i := range rapid.IntRange(0, 5).Draw(t, "members") {
			if i > 0 {
				b.WriteString(",")
			}
			if kind == 5 {
				name := nameGenerator.Draw(t, "name")
				quoted, err := json.Marshal(name)
				if err != nil {
					t.Fatal(err)
				}
				if rapid.Bool().Draw(t, "escaped") {
					quoted = []byte(`"`)
					for _, c := range name {
						quoted = fmt.Appendf(quoted, `\u%04x`, c)
					}
					quoted = append(quoted, '"')
				}
				b.WriteString(space() + string(quoted) + space() + ":")
			}
			b.WriteString(drawJSON(t, depth-1))
		}
		b.WriteString(space() + end)
	default:
		b.WriteString(rapid.SampledFrom([]string{"null", "true", "-1.5e400", `"text"`, `"\ud83d\ude00"`, strings.Repeat("9", 400)}).Draw(t, "scalar"))
	}
	return b.String() + space()
}

// TestLocate checks that one pass for many pointers finds the same as a pass for each of them.
func TestLocate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := drawJSON(t, 4)
		if rapid.IntRange(0, 9).Draw(t, "broken") == 0 {
			text = text[:rapid.IntRange(0, len(text)).Draw(t, "cut")]
		}
		pointer := rapid.Custom(func(t *rapid.T) string {
			p := jsontext.Pointer("")
			for range rapid.IntRange(0, 4).Draw(t, "depth") {
				p = p.AppendToken(nameGenerator.Draw(t, "token"))
			}
			return string(p)
		})
		checkLocate(t, []byte(text), rapid.SliceOfN(pointer, 0, 40).Draw(t, "pointers"))
	})
}

func FuzzLocate(f *testing.F) {
	f.Add([]byte(`{"a":[1,{"b":2}],"a":3,"~/":{"":[[]]}}`), "/a/1/b\n/a\n/a/0\n/~0~1//0\n/a/01\n")
	f.Add([]byte(strings.Repeat("[", 300)), strings.Repeat("/0", 300))
	f.Add([]byte(strings.Repeat(`{"":`, 300)+"1"+strings.Repeat("}", 300)), strings.Repeat("/", 300))
	f.Add([]byte("\xef\xbb\xbf{}"), "\n/a")
	f.Add([]byte(`{"\ud800":1,"a":2}`), "/a\n/a")
	f.Fuzz(func(t *testing.T, text []byte, joined string) {
		pointers := strings.Split(joined, "\n")
		pointers = slices.DeleteFunc(pointers[:min(len(pointers), 50)], func(p string) bool { return checkPointer(p) != nil })
		checkLocate(t, text, pointers)
	})
}

// TestLocateDeep checks that memory stays proportional to the deepest nesting and pointers.
func TestLocateDeep(t *testing.T) {
	const depth = 9999
	text := []byte(strings.Repeat(`{"a":[`, depth/2) + "1" + strings.Repeat("]}", depth/2))
	var pointers []string
	for i := range depth / 2 {
		pointers = append(pointers, strings.Repeat("/a/0", i))
	}
	found, read := locate(text, pointers)
	if read > len(text) {
		t.Errorf("%d bytes were read of %d", read, len(text))
	}
	for i, at := range found {
		if want := (span{6 * i, len(text) - 2*i}); at != want {
			t.Fatalf("at depth %d: %v, want %v", i, at, want)
		}
	}
}

// TestPlaceholders compares placeholders with a model that searches from every brace.
func TestPlaceholders(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := strings.Join(rapid.SliceOf(rapid.SampledFrom([]string{"{", "}", "a", "{a}", "{a_-9}", "é", "/", strings.Repeat("a", 64), "{" + strings.Repeat("b", 64) + "}"})).Draw(t, "text"), "")
		var want, got []string
		for rest := text; ; {
			_, after, ok := strings.Cut(rest, "{")
			if !ok {
				break
			}
			rest = after
			if name, behind, closed := strings.Cut(after, "}"); closed && validRefName(name) {
				want, rest = append(want, name), behind
			}
		}
		values := map[string]string{}
		for at := range placeholders(text) {
			got = append(got, text[at.begin+1:at.end-1])
			values[got[len(got)-1]] = "<" + strings.ToUpper(got[len(got)-1]) + ">"
		}
		if !slices.Equal(got, want) {
			t.Fatalf("%q: %q, want %q", text, got, want)
		}
		expanded, err := expand(nil, text, values)
		full := text
		for name, value := range values {
			full = strings.ReplaceAll(full, "{"+name+"}", value)
		}
		if err == nil && string(expanded) != full {
			t.Fatalf("%q: %q, want %q", text, expanded, full)
		}
	})
}

// TestUnescape compares unescape with a model that decodes repeatedly.
func TestUnescape(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := strings.Join(rapid.SliceOf(rapid.SampledFrom([]string{"%", "2", "5", "%25", "%2", "2e", "F", "f", "a", "%41", "é"})).Draw(t, "text"), "")
		want := text
		for {
			var once []byte
			for i := 0; i < len(want); i++ {
				if want[i] == '%' && i+2 < len(want) && isHex(want[i+1]) && isHex(want[i+2]) {
					once = append(once, unhex(want[i+1])<<4|unhex(want[i+2]))
					i += 2
					continue
				}
				once = append(once, want[i])
			}
			if string(once) == want {
				break
			}
			want = string(once)
		}
		if got := unescape(text); got != want {
			t.Fatalf("%q: %q, want %q", text, got, want)
		}
	})
}
