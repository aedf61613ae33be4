package batch

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
	"pgregory.net/rapid"
)

func TestKindOf(t *testing.T) {
	for body, want := range map[string]BodyKind{
		"":                                     NoBody,
		`{"a":1}`:                              JSONBody,
		" [1.10, 12345678901234567890]\r\n":    JSONBody,
		`{"a":1,"a":2}`:                        JSONBody,
		`null`:                                 JSONBody,
		`"text"`:                               JSONBody,
		` `:                                    TextBody,
		`{"a":1} {}`:                           TextBody,
		`{"a":`:                                TextBody,
		"\ufeff{}":                             TextBody,
		`"\ud800"`:                             TextBody,
		"<html>é</html>":                       TextBody,
		"\xff\xd8\xff":                         BinaryBody,
		"\"\xff\"":                             BinaryBody,
		strings.Repeat("[", 20_000):            TextBody,
		"[" + strings.Repeat("1,", 999) + "1]": JSONBody,
	} {
		if got := KindOf([]byte(body)); got != want {
			t.Errorf("%.40q: got %d, want %d", body, got, want)
		}
	}
}

func TestAppendHead(t *testing.T) {
	got := string(AppendHead([]byte("x"), InProgress, 3, 2))
	if want := `x{"status":"IN_PROGRESS","totalRequests":3,"completedRequests":2`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestAppendResult(t *testing.T) {
	body := func(s string) *Result {
		return &Result{Status: Succeeded, Code: 200, Line: "OK", Body: []byte(s), Kind: KindOf([]byte(s))}
	}
	const ok = `,"httpStatusCode":200,"httpStatusLine":"OK"}`
	tests := map[string]struct {
		id      string
		result  *Result
		want    string
		escaped string // empty: the same as want
	}{
		"JSON": {
			"000001", body("{\"n\": 12345678901234567890, \"m\":1.10 }\n"),
			`{"id":"000001","status":"COMPLETED","httpBody":{"n": 12345678901234567890, "m":1.10 }` + ok,
			`{"id":"000001","status":"COMPLETED","escapedHttpBody":"{\"n\": 12345678901234567890, \"m\":1.10 }\n"` + ok,
		},
		"text": {
			"", body("a\"b\\\té"),
			`{"status":"COMPLETED","httpBody":"a\"b\\\té"` + ok,
			`{"status":"COMPLETED","escapedHttpBody":"a\"b\\\té"` + ok,
		},
		"binary": {
			"", body("\xff\x00\xfe"),
			`{"status":"COMPLETED","httpBody":"/wD+","httpBodyEncoding":"base64"` + ok,
			`{"status":"COMPLETED","escapedHttpBody":"/wD+","httpBodyEncoding":"base64"` + ok,
		},
		"no body": {"", body(""), `{"status":"COMPLETED"` + ok, ""},
		"failed": {
			`i"d`, &Result{Status: Failed, Code: 404},
			`{"id":"i\"d","status":"FAILED","httpStatusCode":404}`, "",
		},
		"not executed": {"7", &Result{Status: NotExecuted}, `{"id":"7","status":"NOT_EXECUTED"}`, ""},
		"not executed, reason": {
			"", &Result{Status: NotExecuted, Line: "the key was lost"},
			`{"status":"NOT_EXECUTED","reason":"the key was lost"}`, "",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := string(AppendResult(nil, tt.id, tt.result, false)); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
			if tt.escaped == "" {
				tt.escaped = tt.want
			}
			if got := string(AppendResult(nil, tt.id, tt.result, true)); got != tt.escaped {
				t.Errorf("escaped: got  %s\nwant %s", got, tt.escaped)
			}
		})
	}
}

// TestAppendRequest checks that decoding an appended request returns the original. A body that was
// created as a JSON string is stored as its text.
func TestAppendRequest(t *testing.T) {
	for created, want := range map[string]string{
		`{"id":"a","method":"POST","path":"p","body":"hello"}`:               `{"index":0,"id":"a","method":"POST","path":"p","body":"hello"}`,
		`{"method":"POST","path":"p","body":"a \"b\"\n"}`:                    `{"index":0,"method":"POST","path":"p","body":"a \"b\"\n"}`,
		`{"method":"POST","path":"p","body":{"n":1.10}}`:                     `{"index":0,"method":"POST","path":"p","body":{"n":1.10}}`,
		`{"method":"POST","path":"p","body":"a text that is longer"}`:        `{"index":0,"method":"POST","path":"p","bodyText":"a text that ","bodyBytes":21}`,
		`{"method":"DELETE","path":"p?q=\"","headers":{"If-Match":"\"x\""}}`: `{"index":0,"method":"DELETE","path":"p?q=\"","headers":{"If-Match":"\"x\""}}`,
	} {
		requests, err := Decode([]byte("["+created+"]"), Options{}, HeaderPolicy{})
		if err != nil {
			t.Fatal(err)
		}
		got := (&Form{Most: 12}).AppendRequest(nil, 0, &requests[0], []string{requests[0].ID})
		if string(got) != want || !json.Valid(got) {
			t.Errorf("%s\ngot  %s\nwant %s", created, got, want)
		}
	}
}

// TestAppendResultKeepsBodies checks that a response is valid JSON whatever an upstream sends, and
// that a client can read the body from it, byte for byte.
func TestAppendResultKeepsBodies(t *testing.T) {
	bodies := rapid.OneOf(
		rapid.SliceOf(rapid.Byte()),
		rapid.Map(rapid.String(), func(s string) []byte { return []byte(s) }),
		rapid.SampledFrom([][]byte{
			[]byte(`{"n":12345678901234567890,"m":1.10,"n":1e400}`), []byte(" [ -0, 0.10 ]"), []byte(`"\u00e9\/"`), []byte(`null`),
		}),
	)
	rapid.Check(t, func(t *rapid.T) {
		body := bodies.Draw(t, "body")
		r := Result{Status: Failed, Code: 500, Line: rapid.String().Draw(t, "line"), Body: body, Kind: KindOf(body)}
		for _, escaped := range []bool{false, true} {
			want := body
			if r.Kind == JSONBody && !escaped {
				want = bytes.TrimSpace(body) // spaces around a JSON value aren't part of the value
			}
			out := AppendResult(nil, rapid.String().Draw(t, "id"), &r, escaped)
			if got := bodyIn(t, out, escaped, r.Kind); !bytes.Equal(got, want) {
				t.Fatalf("body %q became %q in %s", body, got, out)
			}
		}
	})
}

// bodyIn reads a response as a client does, and returns its body.
func bodyIn(t *rapid.T, response []byte, escaped bool, kind BodyKind) []byte {
	if !jsontext.Value(response).IsValid(jsontext.AllowDuplicateNames(true)) {
		t.Fatalf("no JSON: %s", response)
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(response, &fields); err != nil {
		t.Fatal(err)
	}
	name, other := "httpBody", "escapedHttpBody"
	if escaped {
		name, other = other, name
	}
	value, found := fields[name]
	if _, wrong := fields[other]; wrong || found != (kind != NoBody) {
		t.Fatalf("wrong fields: %s", response)
	}
	if !found {
		return nil
	}
	if kind == JSONBody && !escaped {
		return value
	}
	var text string
	if err := json.Unmarshal(value, &text); err != nil {
		t.Fatal(err)
	}
	if string(fields["httpBodyEncoding"]) != `"base64"` {
		return []byte(text)
	}
	decoded, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return decoded
}

func FuzzAppendString(f *testing.F) {
	for _, s := range []string{"", "plain", "a\"b\\c/", "\x00\x1f\x7f\n\r\t\b\f", "é€😀\u2028\u2029", "\xff", "a\xe2\x82", "\xed\xa0\x80", "\ufffd", strings.Repeat("long ", 99)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		out := AppendString([]byte("x"), s)
		if string(AppendString([]byte("x"), []byte(s))) != string(out) {
			t.Fatalf("%q: string and bytes differ", s)
		}
		got, err := jsontext.AppendUnquote(nil, out[1:])
		if err != nil || !utf8.Valid(out) {
			t.Fatalf("%q became %s: %v", s, out, err)
		}
		if want := string([]rune(s)); string(got) != want {
			t.Fatalf("%q reads as %q, want %q", s, got, want)
		}
	})
}

func BenchmarkAppendResult500(b *testing.B) {
	text := []byte(strings.Repeat("A plain sentence of an answer. ", 12))
	results := map[string]*Result{
		"JSON":   {Status: Succeeded, Code: 200, Line: "OK", Body: fmt.Appendf(nil, `{"text":%q}`, text), Kind: JSONBody},
		"text":   {Status: Succeeded, Code: 200, Line: "OK", Body: text, Kind: TextBody},
		"binary": {Status: Succeeded, Code: 200, Line: "OK", Body: text, Kind: BinaryBody},
	}
	for name, r := range results {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(500 * len(r.Body)))
			var dst []byte
			for b.Loop() {
				dst = dst[:0]
				for range 500 {
					dst = AppendResult(dst, "000001", r, false)
				}
			}
		})
	}
}
