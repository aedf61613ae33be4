package batch

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

func ExampleDecode() {
	_, err := Decode([]byte(`[{"method": "GET", "path": "products"}, {"method": "get", "path": "../other"}]`), Options{}, HeaderPolicy{})
	fmt.Println(err)
	// Output:
	// Batch request body is invalid: $[1].method must be one of GET, POST, PUT, DELETE, PATCH, HEAD; $[1].path must not contain a "." or ".." segment
}

func TestDecode(t *testing.T) {
	tests := map[string]struct {
		body string
		want Request
	}{
		"least":                 {`{"method":"GET","path":"products"}`, Request{Method: "GET", Path: "products"}},
		"all":                   {`{"id":"7","method":"POST","path":"/p?x=1","body":{"a":1}}`, Request{ID: "7", Method: "POST", Path: "/p?x=1", Body: []byte(`{"a":1}`)}},
		"body unchanged":        {`{"method":"PUT","path":"p","body": { "n" : 12345678901234567890, "m":1.10 } }`, Request{Method: "PUT", Path: "p", Body: []byte(`{ "n" : 12345678901234567890, "m":1.10 }`)}},
		"body array":            {`{"method":"PUT","path":"p","body":[1, 2]}`, Request{Method: "PUT", Path: "p", Body: []byte(`[1, 2]`)}},
		"body number":           {`{"method":"PUT","path":"p","body":1.50}`, Request{Method: "PUT", Path: "p", Body: []byte(`1.50`)}},
		"body false":            {`{"method":"PUT","path":"p","body":false}`, Request{Method: "PUT", Path: "p", Body: []byte(`false`)}},
		"body text":             {`{"method":"PUT","path":"p","body":"{\"a\":\u00e9}\n"}`, Request{Method: "PUT", Path: "p", Body: []byte("{\"a\":é}\n")}},
		"no body: null":         {`{"method":"PUT","path":"p","body":null}`, Request{Method: "PUT", Path: "p"}},
		"no body: empty string": {`{"method":"PUT","path":"p","body":""}`, Request{Method: "PUT", Path: "p"}},
		"no id: null":           {`{"id":null,"method":"PUT","path":"p"}`, Request{Method: "PUT", Path: "p"}},
		"unknown fields":        {`{"x":{"y":[1]},"method":"HEAD","path":"p","Method":"no"}`, Request{Method: "HEAD", Path: "p"}},
		"any order, escapes":    {`{"path":"p\/q","m\u0065thod":"PATCH"}`, Request{Method: "PATCH", Path: "p/q"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := Decode([]byte(" [\n"+tt.body+" ]\n"), Options{}, HeaderPolicy{})
			if err != nil {
				t.Fatal(err)
			}
			if len(got) != 1 || !reflect.DeepEqual(got[0], tt.want) {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

// TestDecodeBounds checks that Decode accepts bodies at each limit.
func TestDecodeBounds(t *testing.T) {
	one := `{"id":"` + strings.Repeat("i", MaxID) + `","method":"GET","path":"` + strings.Repeat("p", MaxPath) + `"}`
	got, err := Decode([]byte("["+strings.Repeat(one+",", MaxRequests-1)+one+"]"), Options{}, HeaderPolicy{})
	if err != nil || len(got) != MaxRequests || got[0].ID != got[499].ID {
		t.Errorf("%d requests, %v", len(got), err)
	}
}

func TestDecodeProblems(t *testing.T) {
	const ok = `{"method":"GET","path":"p"}`
	tests := map[string]struct {
		body string
		want string
	}{
		"empty":                {``, `$ ends too early, after 0 bytes`},
		"not JSON":             {`hello`, `$ invalid character 'h'`},
		"object":               {`{}`, `$ must be an array of 1 to 500 requests`},
		"null":                 {`null`, `$ must be an array of 1 to 500 requests`},
		"no requests":          {`[]`, `$ must have at least one request`},
		"501 requests":         {`[` + strings.Repeat(ok+",", 500) + ok + `]`, `$ must have at most 500 requests; it has 501`},
		"text after the array": {`[` + ok + `] x`, `$ must be followed by nothing; there is more at byte 30`},
		"cut off":              {`[` + ok, `$ ends too early, after 28 bytes`},
		"cut off in a name":    {`[{"meth`, `$ ends too early, after 7 bytes`},
		"trailing comma":       {`[` + ok + `,]`, `$ invalid character ',' at start of value at byte 28`},
		"not an object":        {`[` + ok + `, 7]`, `$[1] must be an object`},
		"missing fields":       {`[{}]`, `$[0].method is required; $[0].path is required`},
		"wrong types":          {`[{"id":1,"method":null,"path":[]}]`, `$[0].id must be a string; $[0].method must be a string; $[0].path must be a string`},
		"unknown method":       {`[` + ok + `,{"method":"get","path":"p"}]`, `$[1].method must be one of GET, POST, PUT, DELETE, PATCH, HEAD`},
		"long id":              {`[{"id":"` + strings.Repeat("i", 257) + `","method":"GET","path":"p"}]`, `$[0].id must be at most 256 bytes long; it has 257`},
		"bad path":             {`[{"method":"GET","path":"a/../b"}]`, `$[0].path must not contain a "." or ".." segment`},
		"repeated key":         {`[{"method":"GET","path":"p","path":"q"}]`, `$[0].path is given twice, at byte 28`},
		"repeated key, nested": {`[{"method":"PUT","path":"p","body":{"a b":[{"c":1,"c":2}]}}]`, `$[0].body["a b"][0].c is given twice`},
		"bad UTF-8":            {"[{\"method\":\"GET\",\"path\":\"\xff\"}]", `$[0].path invalid UTF-8`},
		"bad UTF-8, nested":    {"[{\"method\":\"GET\",\"path\":\"p\",\"x\":\"\xff\"}]", `$[0].x invalid UTF-8`},
		"syntax error after other problems": {
			`[{"method":"get","path":"p"}, {"method" "x"}]`,
			`$[0].method must be one of GET, POST, PUT, DELETE, PATCH, HEAD; $[1].method`,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := Decode([]byte(tt.body), Options{}, HeaderPolicy{})
			var invalid *InvalidError
			if !errors.As(err, &invalid) {
				t.Fatalf("got %+v, %v", got, err)
			}
			if !strings.HasPrefix(err.Error(), "Batch request body is invalid: "+tt.want) {
				t.Errorf("got  %v\nwant %v", err, tt.want)
			}
		})
	}
}

func TestDecodeReportsTwenty(t *testing.T) {
	_, err := Decode([]byte(`[`+strings.Repeat(`{"method":"GET"},`, 50)+`{"path":"x","method":"GET"}]`), Options{}, HeaderPolicy{})
	var invalid *InvalidError
	if !errors.As(err, &invalid) || len(invalid.Problems) != 20 || invalid.More != 30 {
		t.Fatalf("got %v", err)
	}
	if !strings.HasSuffix(err.Error(), "$[19].path is required; and 30 more problems") {
		t.Errorf("got %v", err)
	}
}

// TestDecodeLarge checks that Decode only counts the requests of a body if there are far too many.
func TestDecodeLarge(t *testing.T) {
	body := []byte(`[` + strings.Repeat(`0,`, 200_000) + `0]`)
	_, err := Decode(body, Options{}, HeaderPolicy{})
	if err == nil || !strings.Contains(err.Error(), "it has 200001") && !strings.Contains(err.Error(), "more problems") {
		t.Errorf("got %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	for _, s := range []string{
		`[{"id":"a","method":"POST","path":"products?a=%20+","body":{"n":1.10}}]`,
		`[{"method":"GET","path":"p","body":"x"},{"method":"get"}]`, `[`, `{}`, `[{"a":1,"a":2}]`, "[{\"path\":\"\xff\"}]",
		`[{"method":"PUT","path":"p","body":[[[[]]]]}] `,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		requests, err := Decode(body, Options{}, HeaderPolicy{})
		if err != nil {
			var invalid *InvalidError
			if !errors.As(err, &invalid) || len(invalid.Problems) == 0 || len(invalid.Problems) > MaxProblems || requests != nil {
				t.Fatalf("got %+v, %#v", requests, err)
			}
			return
		}
		if len(requests) == 0 || len(requests) > MaxRequests {
			t.Fatalf("%d requests", len(requests))
		}
		for _, r := range requests {
			if CheckPath(r.Path) != nil || len(r.ID) > MaxID || r.Body != nil && len(r.Body) == 0 {
				t.Fatalf("accepted %+v", r)
			}
		}
	})
}

func body500() []byte {
	var b strings.Builder
	b.WriteByte('[')
	for i := range 500 {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"id":"%06d","method":"POST","path":"products/%d/combinations","body":{"name":"Chair %d","price":%d.90,"description":%q}}`, i, i, i, i, strings.Repeat("abcdefgh ", 20))
	}
	b.WriteByte(']')
	return []byte(b.String())
}

func BenchmarkDecode500(b *testing.B) {
	body := body500()
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		if _, err := Decode(body, Options{}, HeaderPolicy{}); err != nil {
			b.Fatal(err)
		}
	}
}

// TestDecodePlaceIsBounded checks that an error contains neither a very long name nor a path through ten
// thousand arrays.
func TestDecodePlaceIsBounded(t *testing.T) {
	name := strings.Repeat("n", 100_000)
	for _, body := range []string{
		`[{"` + name + `":1,"` + name + `":2}]`,
		`[{"body":` + strings.Repeat(`{"aaaaaaaa":`, 5000) + `?`,
		`[{"body":` + strings.Repeat("[", 20_000),
	} {
		_, err := Decode([]byte(body), Options{}, HeaderPolicy{})
		if err == nil || len(err.Error()) > 1000 {
			t.Errorf("%.20s…: the error takes %d bytes", body, len(err.Error()))
		}
	}
}
