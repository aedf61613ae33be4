package batch

import (
	"bytes"
	"encoding/json"
	"net/url"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestDecodeLinks(t *testing.T) {
	got, err := Decode([]byte(`[
		{"id":"p","method":"POST","path":"/products","body":{"name":"Mug"},"headers":{"If-Match":"\"x\"","Idempotency-Key":"k"}},
		{"id":"v","method":"POST","path":"/products/{pid}/variations?of={pid}&x={}","body":{"parentId":null,"sku":["M-1",{"a":1}]},
		 "refs":{"path:pid":"p#/id","query:pid":"p#","body:/parentId":"p#/id","body:/sku/1/a":"p#/a~1b","header:If-Match":"p@ETag"}},
		{"method":"DELETE","path":"{x}","dependsOn":["v","p","v"],"runIf":"failure"},
		{"method":"GET","path":"y","dependsOn":[],"headers":{},"refs":{},"runIf":"always"},
		{"method":"GET","path":"y","dependsOn":null,"headers":null,"refs":null,"runIf":null}]`), Options{}, HeaderPolicy{})
	if err != nil {
		t.Fatal(err)
	}
	want := []*Links{
		{Headers: []Header{{"If-Match", `"x"`}, {"Idempotency-Key", "k"}}},
		{DependsOn: []int{0}, Refs: []Ref{
			{InPath, "pid", 0, "", "/id"}, {InQuery, "pid", 0, "", ""}, {InBody, "/parentId", 0, "", "/id"}, {InBody, "/sku/1/a", 0, "", "/a~1b"}, {InHeader, "If-Match", 0, "ETag", ""},
		}},
		{DependsOn: []int{0, 1}, RunIf: IfFailure},
		{RunIf: Always},
		nil,
	}
	for i, w := range want {
		if !reflect.DeepEqual(got[i].Links, w) {
			t.Errorf("request %d: %+v, want %+v", i, got[i].Links, w)
		}
	}
}

func TestDecodeLinksRefuses(t *testing.T) {
	const p = `{"id":"p","method":"POST","path":"/products","body":{"name":"Mug"}},`
	long := `"headers":{"a":"` + strings.Repeat("x", 8192) + `"}`
	for fields, want := range map[string]string{
		`"headers":[]`:                                                  `$[1].headers must be an object of strings`,
		`"headers":{"A":1}`:                                             `$[1].headers["A"] must be a string`,
		`"headers":{"A B":"1"}`:                                         `$[1].headers["A B"] must have a name of letters`,
		`"headers":{"":"1"}`:                                            `$[1].headers[""] must have a name of letters`,
		`"headers":{"A":"1\n2"}`:                                        `$[1].headers["A"] must be a valid header value`,
		`"headers":{"A":" 1"}`:                                          `$[1].headers["A"] must be a valid header value`,
		`"headers":{"a":"1","A":"1"}`:                                   `$[1].headers["A"] is given twice`,
		long:                                                            `$[1].headers["a"] makes the headers longer than 8192 bytes`,
		`"dependsOn":"p"`:                                               `$[1].dependsOn must be an array of ids`,
		`"dependsOn":[1]`:                                               `$[1].dependsOn[0] must be a string`,
		`"dependsOn":["p","q"]`:                                         `$[1].dependsOn[1] names the id "q", which no request of the batch has`,
		`"dependsOn":["me"]`:                                            `$[1].dependsOn[0] names the id "me", which is not an earlier request's`,
		`"dependsOn":["later"]`:                                         `$[1].dependsOn[0] names the id "later", which is not an earlier request's`,
		`"dependsOn":["twice"]`:                                         `$[1].dependsOn[0] names the id "twice", which several requests have`,
		`"runIf":"never"`:                                               `$[1].runIf must be one of success, failure, always`,
		`"runIf":"failure"`:                                             `$[1].runIf can't be failure without dependsOn`,
		`"refs":{"path:id":"p#/id"}`:                                    `$[1].refs["path:id"] has no place: there is no {id} in the path`,
		`"refs":{"query:a":"p#/id"}`:                                    `$[1].refs["query:a"] has no place: there is no {a} in the query`,
		`"refs":{"path:a b":"p#/id"}`:                                   `must have a name of 1 to 64`,
		`"refs":{"cookie:a":"p#/id"}`:                                   `$[1].refs["cookie:a"] must be named path:NAME, query:NAME`,
		`"refs":{":a":"p#/id"}`:                                         `must be named path:NAME`,
		`"refs":{"path:a":"p"}`:                                         `$[1].refs["path:a"] must be ID#POINTER`,
		`"refs":{"path:a":"q#"}`:                                        `names the id "q"`,
		`"refs":{"path:a":"p#id"}`:                                      `must be a JSON pointer such as`,
		`"refs":{"path:a":"p#/~2"}`:                                     `must be a JSON pointer such as`,
		`"refs":{"path:a":"p@"}`:                                        `must name a header behind the @`,
		`"refs":{"path:a":"p#/id"},"path":"/x/{a}/{b}"`:                 `$[1].path has {b} in its path, which no reference fills`,
		`"refs":{"path:a":"p#/id"},"path":"/x/{a}?q={a}"`:               `$[1].path has {a} in its query, which no reference fills`,
		`"refs":{"header:Host":"p#/id"}`:                                `$[1].refs["header:Host"] can't be set`,
		`"headers":{"A":"1"},"refs":{"header:a":"p#/id"}`:               `$[1].refs["header:a"] fills a header that is already given`,
		`"refs":{"body:/a":"p#/id"}`:                                    `has no place: the body isn't JSON`,
		`"body":"{\"a\":1}","refs":{"body:/a":"p#/id"}`:                 `has no place: the body isn't JSON`,
		`"body":{"b":1},"refs":{"body:/a":"p#/id"}`:                     `has no place: there is nothing at "/a" in the body`,
		`"body":{"a":[1]},"refs":{"body:/a/01":"p#/id"}`:                `has no place: there is nothing at "/a/01" in the body`,
		`"refs":{"path:a":"p@/-1"}`:                                     `must name a header behind the @`,
		`"refs":{"path:a":"p@Location/"}`:                               `or a segment of the URL in a header, such as Location/-1`,
		`"refs":{"path:a":"p@Location/last"}`:                           `must name a header behind the @`,
		`"refs":{"path:a":"p@Location/-0"}`:                             `must name a header behind the @`,
		`"refs":{"path:a":"p@Location/01"}`:                             `must name a header behind the @`,
		`"refs":{"path:a":"p@Location/100"}`:                            `must name a header behind the @`,
		`"refs":{"path:a":"p@Location/1/2"}`:                            `must name a header behind the @`,
		`"body":{"a":{"b":1}},"refs":{"body:/a":"p#","body:/a/b":"p#"}`: `fills a place that another reference fills too`,
	} {
		if !strings.Contains(fields, `"path":"`) {
			fields += `,"path":"/x/{a}"`
			if !strings.Contains(fields, "refs") || strings.Contains(fields, `"refs":{"path:id"`) {
				fields = strings.ReplaceAll(fields, "{a}", "y")
			} else if !strings.Contains(fields, "path:a") {
				fields = strings.ReplaceAll(fields, "/x/{a}", "/x")
			}
		}
		body := `[` + p + `{"id":"me","method":"POST",` + fields + `},{"id":"later","method":"GET","path":"x"},{"id":"twice","method":"GET","path":"x"},{"id":"twice","method":"GET","path":"x"}]`
		_, err := Decode([]byte(body), Options{}, AnyHeader())
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", fields, err, want)
		}
	}
	for _, runIf := range []string{"failure", "always"} {
		_, err := Decode([]byte(`[`+p+`{"method":"GET","path":"x","dependsOn":["p"],"runIf":"`+runIf+`"}]`), Options{StopOnFailure: true}, HeaderPolicy{})
		if err == nil || !strings.Contains(err.Error(), "stopOnFirstFailure=false") {
			t.Errorf("%s with stopOnFirstFailure: %v", runIf, err)
		}
	}
	_, err := Decode([]byte(`[{"id":"a@b","method":"GET","path":"x"},{"method":"GET","path":"x","dependsOn":["a@b"]}]`), Options{}, HeaderPolicy{})
	if err == nil || !strings.Contains(err.Error(), "can't have # or @") {
		t.Errorf("an id with an @: %v", err)
	}
}

// answer returns the result of the request that references refer to.
func answer(body string, headers ...Header) *Result {
	return &Result{Status: Succeeded, Code: 200, Body: []byte(body), Kind: KindOf([]byte(body)), Headers: headers}
}

// filled decodes a batch of two requests and fills the second one from the first one's answer.
func filled(t testing.TB, second string, a *Result) (*Request, error) {
	t.Helper()
	reqs, err := Decode([]byte(`[{"id":"p","method":"POST","path":"/p"},`+second+`]`), Options{}, AnyHeader())
	if err != nil {
		t.Fatal(err)
	}
	v := NewValues(reqs)
	v.Take(0, a)
	return reqs[1].Fill(v.Of(1))
}

func TestFill(t *testing.T) {
	r, err := filled(t, `{"method":"PUT","path":"/products/{id}/x{id}?a={name}&b={id}","body":{"n":null,"keep":1.10, "list":[0,{"o":""}],"s":"x"},
		"refs":{"path:id":"p#/id","query:name":"p#/names/1","query:id":"p#/id","body:/n":"p#/id","body:/list/1":"p#/object","body:/s":"p@ETag","header:If-Match":"p@etag","header:X-N":"p#/big"}}`,
		answer(`{"id":12345678901234567890,"names":["a","b c&d=é/{id}"],"object":{"deep":[1.50,true]},"big":1e400}`, Header{"ETag", `"v1"`}))
	if err != nil {
		t.Fatal(err)
	}
	if want := "/products/12345678901234567890/x12345678901234567890?a=b%20c%26d%3D%C3%A9%2F%7Bid%7D&b=12345678901234567890"; r.Path != want {
		t.Errorf("path %s, want %s", r.Path, want)
	}
	if want := `{"n":12345678901234567890,"keep":1.10, "list":[0,{"deep":[1.50,true]}],"s":"\"v1\""}`; string(r.Body) != want {
		t.Errorf("body %s, want %s", r.Body, want)
	}
	if want := []Header{{"If-Match", `"v1"`}, {"X-N", "1e400"}}; !reflect.DeepEqual(r.Links.Headers, want) {
		t.Errorf("headers %v, want %v", r.Links.Headers, want)
	}
}

// TestFillFromURL checks which part of a URL in a header a reference takes.
func TestFillFromURL(t *testing.T) {
	for _, tt := range []struct{ location, segment, want string }{
		{"/products/42", "-1", "42"},
		{"/products/42", "1", "42"},
		{"/products/42", "0", "products"},
		{"/products/42", "-2", "products"},
		{"/products/42", "2", ""},
		{"/products/42", "-3", ""},
		{"products/42", "-1", "42"},
		{"42", "-1", "42"},
		{"/products/42/", "-1", "42"},
		{"/products/42//", "-1", ""},
		{"/products/42?expand=a/b#c/d", "-1", "42"},
		{"/products?id=42", "-1", "products"},
		{"https://api.example.com/v3/products/42", "-1", "42"},
		{"https://api.example.com/v3/products/42", "0", "v3"},
		{"https://api.example.com", "-1", ""},
		{"https://api.example.com/", "-1", ""},
		{"//api.example.com/products/42", "0", "products"},
		{"/products/a%20b%25c", "-1", "a b%c"},
		{"/products/a%2Fb", "-1", "a/b"},
		{"/products/%252E", "-1", "%2E"},
		{"/products/b%C3%A4r", "-1", "bär"},
		{"/products/bär", "-1", "bär"},
		{"/Products('42')", "-1", "Products('42')"},
		{"/products/%zz", "-1", ""},
		{"/products/%ff", "-1", ""},
		{"urn:product:42", "-1", ""},
		{"", "-1", ""},
		{"/", "0", ""},
	} {
		const second = `{"method":"PUT","path":"/x","body":{"v":0},"refs":{"body:/v":"p@location/`
		r, err := filled(t, second+tt.segment+`"}}`, answer("", Header{"Location", tt.location}))
		if tt.want == "" {
			if err == nil || !strings.Contains(err.Error(), "body:/v from $[0]@location/"+tt.segment+" finds no such segment of a URL in that header") {
				t.Errorf("segment %s of %s: got %v, %v", tt.segment, tt.location, r, err)
			}
			continue
		}
		want, _ := json.Marshal(map[string]string{"v": tt.want})
		if err != nil || string(r.Body) != string(want) {
			t.Errorf("segment %s of %s: got %v, %v; want %s", tt.segment, tt.location, r, err, want)
		}
	}
	const inPath = `{"method":"GET","path":"/x/{v}/y?u={u}","refs":{"path:v":"p@Location/-1","query:u":"p@Location/0"}}`
	r, err := filled(t, inPath, answer("", Header{"Location", "/p%26q/a%20b/"}))
	if err != nil || r.Path != "/x/a%20b/y?u=p%26q" {
		t.Errorf("got %v, %v", r, err)
	}
	for location, want := range map[string]string{
		"/p/a%2Fb": "slash", "/p/..": "dot segment", "/p/%2e%2e": "dot segment", "/p/%252e%252e": "dot segment", "/p/%00": "control character", "": "no such segment",
	} {
		if r, err := filled(t, inPath, answer("", Header{"Location", location})); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, %v, want %s", location, r, err, want)
		}
	}
	if _, err := filled(t, inPath, answer("")); err == nil || !strings.Contains(err.Error(), "finds no such header") {
		t.Errorf("without a Location: %v", err)
	}
}

// FuzzSegment compares the segments of a URL with those that net/url finds.
func FuzzSegment(f *testing.F) {
	f.Add("https://a.example/v1/products/a%20b?c#d", 1)
	f.Add("/products/42/", -1)
	f.Fuzz(func(t *testing.T, text string, n int) {
		got, found := segmentOf(text, n)
		if !found {
			return
		}
		u, err := url.Parse(text)
		if err != nil || got == "" || !strings.Contains(u.Path, got) {
			t.Fatalf("%q has no segment %q: %v", text, got, err)
		}
	})
}

func TestFillRefuses(t *testing.T) {
	const inPath = `{"method":"GET","path":"/x/{v}/y","refs":{"path:v":"p#/v"}}`
	const inQuery = `{"method":"GET","path":"/x?v={v}","refs":{"query:v":"p#/v"}}`
	const inHeader = `{"method":"GET","path":"/x","refs":{"header:X-V":"p#/v"}}`
	const inBody = `{"method":"PUT","path":"/x","body":{"v":0},"refs":{"body:/v":"p#/v"}}`
	for _, tt := range []struct{ second, body, want string }{
		{inPath, `{}`, "finds nothing there"},
		{inPath, `[1]`, "finds nothing there"},
		{inPath, `text`, "finds no JSON"},
		{inPath, ``, "finds no JSON"},
		{inPath, `{"v":null}`, "finds a value that isn't a string"},
		{inPath, `{"v":{}}`, "finds a value that isn't a string"},
		{inPath, `{"v":[1]}`, "finds a value that isn't a string"},
		{inPath, `{"v":""}`, "finds an empty value"},
		{inPath, `{"v":"."}`, "dot segment"},
		{inPath, `{"v":".."}`, "dot segment"},
		{inPath, `{"v":"%2e%2E"}`, "dot segment"},
		{inPath, `{"v":"%252e."}`, "dot segment"},
		{inPath, `{"v":"a/b"}`, "slash"},
		{inPath, `{"v":"a%2fb"}`, "slash"},
		{inPath, `{"v":"a%25252Fb"}`, "slash"},
		{inPath, `{"v":"a\\b"}`, "backslash"},
		{inPath, `{"v":"a%5cb"}`, "backslash"},
		{inPath, `{"v":"a\u0000"}`, "control character"},
		{inPath, `{"v":"a\u0085"}`, "control character"},
		{inPath, `{"v":"a%0d%0a"}`, "control character"},
		{inPath, `{"v":";x"}`, "segment that begins with ;"},
		{inPath, `{"v":"` + strings.Repeat("é", 4000) + `"}`, "must not be longer than 8192"},
		{inQuery, `{"v":"a\nb"}`, "control character"},
		{inHeader, `{"v":"a\r\nX: y"}`, "control character"},
		{inHeader, `{"v":" a"}`, "can't be in a header"},
		{inBody, `{"w":1}`, "finds nothing there"},
		{inBody, `{"v":"` + strings.Repeat("x", MaxRefValue) + `"}`, "more than 65536 bytes"},
		{`{"method":"GET","path":"{v}/x","refs":{"path:v":"p#/v"}}`, `{"v":"batch"}`, "batch endpoint"},
		{`{"method":"GET","path":"/x/.{v}","refs":{"path:v":"p#/v"}}`, `{"v":"."}`, "dot segment"},
		{`{"method":"GET","path":"/x/%2{v}","refs":{"path:v":"p#/v"}}`, `{"v":"F"}`, ""},
		{`{"method":"GET","path":"/x","refs":{"header:A":"p@Missing"}}`, `{}`, "finds no such header"},
	} {
		if tt.want == "" { // Decode refuses a % without two digits
			continue
		}
		r, err := filled(t, tt.second, answer(tt.body))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s from %.60s: got %v, %v, want %s", tt.second, tt.body, r, err, tt.want)
		}
	}
	if _, err := filled(t, inBody, &Result{Status: NotExecuted}); err == nil || !strings.Contains(err.Error(), "was not executed") {
		t.Errorf("from a request that was not executed: %v", err)
	}
}

// FuzzFill checks that a value can't escape the position where it is inserted, whatever an answer contains.
func FuzzFill(f *testing.F) {
	for _, v := range []string{`1`, `"a"`, `"../x"`, `"%2e%2e"`, `"a/b"`, `"\r\nX: y"`, `{"a":[1]}`, `"\",\"admin\":true,\"x\":\""`, `"é"`, `"&admin=1#"`, `null`, `1e5`, `"{b}"`, `";"`} {
		f.Add(v)
	}
	f.Fuzz(func(t *testing.T, value string) {
		a := answer(`{"v":`+value+`}`, Header{"V", "x"})
		if a.Kind != JSONBody {
			return
		}
		if r, err := filled(t, `{"method":"GET","path":"/a/x{v}y/b?c=1","refs":{"path:v":"p#/v"}}`, a); err == nil {
			u, err := url.ParseRequestURI(r.Path)
			if err != nil || len(strings.Split(u.Path, "/")) != 4 || u.RawQuery != "c=1" || !strings.HasPrefix(u.Path, "/a/x") || !strings.HasSuffix(u.Path, "y/b") || CheckPath(r.Path) != nil {
				t.Errorf("path %q: %v", r.Path, err)
			}
		}
		if r, err := filled(t, `{"method":"GET","path":"/a?b={v}&c=1","refs":{"query:v":"p#/v"}}`, a); err == nil {
			u, err := url.ParseRequestURI(r.Path)
			if err != nil || u.Path != "/a" || len(u.Query()) != 2 || u.Query().Get("c") != "1" {
				t.Errorf("query %q: %v", r.Path, err)
			}
		}
		if r, err := filled(t, `{"method":"GET","path":"/a","refs":{"header:X-V":"p#/v"}}`, a); err == nil {
			if h := r.Links.Headers; len(h) != 1 || strings.ContainsAny(h[0].Value, "\r\n\x00") {
				t.Errorf("header %q", h)
			}
		}
		if r, err := filled(t, `{"method":"PUT","path":"/a","body":{"a":1,"v":null,"z":[2]},"refs":{"body:/v":"p#/v"}}`, a); err == nil {
			var got map[string]json.RawMessage
			if err := json.Unmarshal(r.Body, &got); err != nil || len(got) != 3 || string(got["a"]) != "1" || string(got["z"]) != "[2]" {
				t.Errorf("body %s: %v", r.Body, err)
			}
			if len(got) == 3 && !bytes.Contains(a.Body, got["v"]) {
				t.Errorf("body %s: the value is not what the answer has", r.Body)
			}
		}
	})
}

// TestRunIf checks that the conditions mean what their names say.
func TestRunIf(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ends := rapid.SliceOf(rapid.SampledFrom([]ResultStatus{Succeeded, Failed, NotExecuted})).Draw(t, "ends")
		all := true
		for _, e := range ends {
			all = all && e == Succeeded
		}
		for condition, want := range map[RunIf]bool{IfSuccess: all, IfFailure: !all, Always: true} {
			if ok, why := condition.Holds(ends); ok != want || ok != (why == "") {
				t.Fatalf("%s of %v: %v, %q", condition, ends, ok, why)
			}
		}
	})
}
