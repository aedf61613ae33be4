package batch

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestParseBackoff(t *testing.T) {
	for text, want := range map[string]Backoff{
		"fixed:3s":              {3 * time.Second, 3 * time.Second},
		"fixed:100ms":           {MinPause, MinPause},
		"exponential:1s..5m":    {time.Second, 5 * time.Minute},
		"exponential:2s..2s":    {2 * time.Second, 2 * time.Second},
		"":                      {},
		"3s":                    {},
		"fixed":                 {},
		"fixed:":                {},
		"fixed:3":               {},
		"fixed:99ms":            {},
		"fixed:301s":            {},
		"fixed:-3s":             {},
		"fixed:1s..5m":          {},
		"Fixed:1s":              {},
		"exponential:1s":        {},
		"exponential:1s..":      {},
		"exponential:5s..1s":    {},
		"exponential:1s..5m1s":  {},
		"exponential:1s..2s..3": {},
	} {
		got, err := ParseBackoff(text)
		if got != want || (err == nil) != (want != Backoff{}) {
			t.Errorf("%q: got %v, %v; want %v", text, got, err, want)
		}
	}
}

// TestBackoff checks that pauses double up to the longest one, and that a pause's text describes it.
func TestBackoff(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pause := rapid.Custom(func(t *rapid.T) time.Duration {
			return time.Duration(rapid.Int64Range(int64(MinPause), int64(MaxPause)).Draw(t, "pause"))
		})
		a, b := pause.Draw(t, "a"), pause.Draw(t, "b")
		p := Backoff{min(a, b), max(a, b)}
		if again, err := ParseBackoff(p.String()); again != p || err != nil {
			t.Fatalf("%v: read as %v, %v", p, again, err)
		}
		want := p.First
		for n := 1; n <= MaxRetries; n++ {
			if got := p.Pause(n); got != want {
				t.Fatalf("%v: pause %d is %v, want %v", p, n, got, want)
			}
			want = min(2*want, p.Most)
		}
	})
}

func TestCodes(t *testing.T) {
	for text, want := range map[string][]int{
		"2xx":     {200, 201, 299},
		"200":     {200},
		"200,404": {200, 404},
		"404,2xx": {200, 201, 299, 404},
		"500":     {500},
	} {
		c, err := ParseCodes(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
		}
		for _, code := range []int{0, 2, 100, 199, 200, 201, 299, 300, 404, 429, 500} {
			if c.Has(code) != slices.Contains(want, code) {
				t.Errorf("%s has %d: %v", text, code, c.Has(code))
			}
		}
	}
	for _, text := range []string{
		"", ",", "200,", "2", "0200", "+20", "199", "600", "2XX", "3xx", "200, 201", "200,200", "2xx,2xx", "429", "2xx,429", "502", "503", "504", "200;201",
		strings.Repeat("200,", 1<<16) + "200",
	} {
		if c, err := ParseCodes(text); err == nil {
			t.Errorf("%.40q was accepted as %q", text, c)
		}
	}
	if c := Codes(""); c.Has(199) || !c.Has(200) || !c.Has(299) || c.Has(300) {
		t.Error("the empty set is not every 2xx")
	}
}

func TestParseFailWhen(t *testing.T) {
	for text, want := range map[string][]string{
		"/errors":                             {"/errors"},
		"/errors,/data/error":                 {"/errors", "/data/error"},
		"/a,b":                                {"/a,b"},
		"/":                                   {"/"},
		"/a~1b/~0,/ü":                         {"/a~1b/~0", "/ü"},
		"":                                    nil,
		"errors":                              nil,
		"/a~2":                                nil,
		"/a,/a":                               nil,
		"/a\x00":                              nil,
		"/a\xff":                              nil,
		"/a\u202e":                            nil,
		strings.Repeat("/", 99):               {strings.Repeat("/", 99)},
		"/" + strings.Repeat("x", MaxPointer): nil,
		"/0,/1,/2,/3,/4,/5,/6,/7,/8,/9,/10":   nil,
		strings.Repeat(",/", 1<<16):           nil,
	} {
		got, err := ParseFailWhen(text)
		if (err == nil) != (want != nil) || err == nil && !slices.Equal(got, want) {
			t.Errorf("%.40q: got %q, %v; want %q", text, got, err, want)
		}
	}
}

func TestFailWhen(t *testing.T) {
	for _, tt := range []struct {
		body, pointers, want string
	}{
		{`{"errors":[{"message":"no"}]}`, "/errors", "/errors"},
		{`{"data":{},"errors":[ ]}`, "/errors", ""},
		{`{"errors":null}`, "/errors", ""},
		{`{"errors":false}`, "/errors", ""},
		{`{"errors":""}`, "/errors", ""},
		{`{"errors":{` + "\n" + `}}`, "/errors", ""},
		{`{"errors":true}`, "/errors", "/errors"},
		{`{"errors":0}`, "/errors", "/errors"},
		{`{"errors":"false"}`, "/errors", "/errors"},
		{`{"errors":"null"}`, "/errors", "/errors"},
		{`{"errors":" "}`, "/errors", "/errors"},
		{`{"errors":[null]}`, "/errors", "/errors"},
		{`{"a":{"b":1},"errors":[]}`, "/errors,/a/b", "/a/b"},
		{`{"a":1,"b":2}`, "/b,/a", "/b"},
		{`[{"error":"no"}]`, "/0/error", "/0/error"},
		{`{"error":"no"}`, "/0/error", ""},
		{`{"a/b":1}`, "/a~1b", "/a~1b"},
		{`{"":1}`, "/", "/"},
		{`{"errors":null,"errors":1}`, "/errors", ""},
		{`{"errors":["no"],"data":{"text":"cut o`, "/errors", "/errors"},
		{`{"data":{"text":"cut o`, "/errors", ""},
		{`plain`, "/errors", ""},
		{``, "/errors", ""},
	} {
		pointers, err := ParseFailWhen(tt.pointers)
		if err != nil {
			t.Fatal(err)
		}
		got, found := Success{FailWhen: pointers}.Match([]byte(tt.body))
		if got != tt.want || found != (tt.want != "") {
			t.Errorf("%s in %s: got %q, %v", tt.pointers, tt.body, got, found)
		}
	}
}

// FuzzFailWhen compares Match with a decoder that reads the whole text.
func FuzzFailWhen(f *testing.F) {
	f.Add(`{"errors":[{}]}`, "/errors")
	f.Add(`{"a":{"b":[1,{"c":""}]}}`, "/a/b/1/c,/a/b/0")
	f.Add(`[false,[],{},[[]]]`, "/0,/1,/2,/3")
	f.Fuzz(func(t *testing.T, body, text string) {
		pointers, err := ParseFailWhen(text)
		if err != nil {
			return
		}
		if joined := strings.Join(pointers, ","); joined != text {
			t.Fatalf("%q was read as %q", text, joined)
		}
		got, found := Success{FailWhen: pointers}.Match([]byte(body))
		var whole any
		if KindOf([]byte(body)) != JSONBody || json.Unmarshal([]byte(body), &whole) != nil || hasTwice([]byte(body)) {
			return
		}
		want := slices.IndexFunc(pointers, func(p string) bool { return isValue(at(whole, p)) })
		if found != (want >= 0) || found && got != pointers[want] {
			t.Fatalf("%s in %s: got %q, %v; want number %d", text, body, got, found, want)
		}
	})
}

// at returns the value that a pointer finds; nil if there is none.
func at(v any, pointer string) any {
	for token := range strings.SplitSeq(strings.TrimPrefix(pointer, "/"), "/") {
		switch in := v.(type) {
		case map[string]any:
			v = in[strings.NewReplacer("~1", "/", "~0", "~").Replace(token)]
		case []any:
			i, ok := arrayIndex(token)
			if !ok || i >= len(in) {
				return nil
			}
			v = in[i]
		default:
			return nil
		}
	}
	return v
}

func isValue(v any) bool {
	switch v := v.(type) {
	case nil:
		return false
	case bool:
		return v
	case string:
		return v != ""
	case []any:
		return len(v) > 0
	case map[string]any:
		return len(v) > 0
	}
	return true
}

// hasTwice reports whether an object in a JSON text has a name twice. The decoder of encoding/json
// takes the last of these members.
func hasTwice(text []byte) bool {
	var members func(d *json.Decoder) bool
	members = func(d *json.Decoder) bool {
		token, err := d.Token()
		if err != nil {
			return false
		}
		opened, ok := token.(json.Delim)
		if !ok {
			return false
		}
		names := map[string]bool{}
		for d.More() {
			if opened == '{' {
				name, err := d.Token()
				if err != nil || names[fmt.Sprint(name)] {
					return true
				}
				names[fmt.Sprint(name)] = true
			}
			if members(d) {
				return true
			}
		}
		_, err = d.Token()
		return err != nil
	}
	return members(json.NewDecoder(strings.NewReader(string(text))))
}
