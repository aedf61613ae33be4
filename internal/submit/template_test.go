package submit

import (
	"encoding/json"
	"net/url"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func render(text string, columns, values []string) (string, error) {
	t, err := parseTemplate(text, columns, false)
	if err != nil {
		return "", err
	}
	out, err := t.append(nil, values)
	return string(out), err
}

func TestTemplate(t *testing.T) {
	columns := []string{"id", "name", "price", "active", "data", "a:b", "note"}
	values := []string{"a/b ä", `He said "hi"` + "\n", "1.50", "yes", `{"x":[1]}`, "colon", ""}
	for _, c := range []struct{ template, want string }{
		{`{"method":"GET","path":"/products/{{id}}"}`, `{"method":"GET","path":"/products/a%2Fb%20%C3%A4"}`},
		{`{"path":"/p?q={{id}}&n={{name}}"}`, `{"path":"/p?q=a%2Fb%20%C3%A4&n=He%20said%20%22hi%22%0A"}`},
		{`{"body":{"name":{{name}}}}`, `{"body":{"name":"He said \"hi\"\n"}}`},
		{`{"body":{"name":"Mr. {{name}}!"}}`, `{"body":{"name":"Mr. He said \"hi\"\n!"}}`},
		{`{"body":{"path":"/x/{{id}}"}}`, `{"body":{"path":"/x/a/b ä"}}`}, // not the request's path
		{`{"body":{"price":{{price:number}},"on":{{ active : bool }},"d":{{data:json}}}}`, `{"body":{"price":1.50,"on":true,"d":{"x":[1]}}}`},
		{`{"body":[{{price}},"{{price:number}} EUR"]}`, `{"body":["1.50","1.50 EUR"]}`},
		{`{"body":{{a:b}}}`, `{"body":"colon"}`},
		{`{"body":{"n":{{note}},"m":{{note:string?}},"o":{{note:number?}}}}`, `{"body":{"n":"","m":null,"o":null}}`},
		{`{"path":{{a:b}}}`, `{"path":"colon"}`},
		{`{"body":"\u007b{id}} \" {{a:b}}"}`, `{"body":"\u007b{id}} \" colon"}`},
	} {
		got, err := render(c.template, columns, values)
		if err != nil || got != c.want {
			t.Errorf("%s: got %s, %v, want %s", c.template, got, err, c.want)
		}
	}
	for _, c := range []struct{ template, want string }{
		{`{"path":"/{{idd}}"}`, `uses the column "idd", but the file only has id, name`},
		{`{"body":{{price:float}}}`, "the type must be string, number, bool or json"},
		{`{"body":{{name:number}}}`, `column "name": "He said \"hi\"\n" is not a number`},
		{`{"body":{{note:number}}}`, `column "note": "" is not a number`},
		{`{"body":{{name:bool}}}`, "is not a boolean"},
		{`{"body":{{name:json}}}`, "is not JSON"},
		{`{"path":"/p/{{note}}"}`, `column "note": is empty`},
		{`{"body":"{{note:string?}}"}`, "inside a string, where a value can't be null"},
		{`{"{{id}}":1}`, "in a name"},
		{`{"path":"/{{id`, "never closes it"},
		{`{"path":"/{{id}}"`, "ends too early"},
		{`{"path":"/{{id}}"} x`, "is not JSON"},
		{`["{{id}}"]`, "must be a JSON object"},
		{``, "ends too early"},
	} {
		if got, err := render(c.template, columns, values); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %s, %v, want an error with %q", c.template, got, err, c.want)
		}
	}
}

// Numbers with a decimal comma keep their value, and ambiguous ones are refused.
func TestDecimalComma(t *testing.T) {
	tmpl, err := parseTemplate(`{"body":{{n:number}}}`, []string{"n"}, true)
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		"12": "12", "12,50": "12.50", "-0,5": "-0.5", "+1,5": "1.5", "1.234,50": "1234.50", "1.234.567": "1234567",
		"1 234,5": "1234.5", "1\u00a0234,5": "1234.5", "1\u202f234": "1234", "1'234,5": "1234.5", " 3,0 ": "3.0",
	} {
		if got, err := tmpl.append(nil, []string{text}); err != nil || string(got) != `{"body":`+want+`}` {
			t.Errorf("%q: got %s, %v, want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"", "1.5", "1,234.5", "1.23,4", "1.234 567", "1,2,3", ",5", "007,5", "1e5", "12 EUR"} {
		if got, err := tmpl.append(nil, []string{text}); err == nil {
			t.Errorf("%q: got %s, want an error", text, got)
		}
	}
}

// TestTemplateText checks that any text in a column arrives unchanged and changes nothing else in the
// request.
func TestTemplateText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(rapid.String(), rapid.StringMatching(`[{}"\\/?&#%. ]{1,8}`)).Draw(t, "text")
		if text == "" {
			text = "x"
		}
		text = strings.ToValidUTF8(text, "?")
		got, err := render(`{"method":"PUT","path":"/a/{{v}}/b?c={{v}}&d","body":{"whole":{{v}},"part":"<{{v}}>","after":1}}`, []string{"v"}, []string{text})
		if err != nil {
			t.Fatal(err)
		}
		var q struct {
			Method, Path string
			Body         struct {
				Whole, Part string
				After       int
			}
		}
		if err := json.Unmarshal([]byte(got), &q); err != nil {
			t.Fatalf("%s: %v", got, err)
		}
		u, err := url.Parse(q.Path)
		if err != nil {
			t.Fatalf("%s: %v", q.Path, err)
		}
		if q.Body.Whole != text || q.Body.Part != "<"+text+">" || q.Body.After != 1 || q.Method != "PUT" || u.Path != "/a/"+text+"/b" ||
			len(u.Query()) != 2 || u.Query().Get("c") != text || strings.Count(u.EscapedPath(), "/") != 3 {
			t.Fatalf("%q became %s", text, got)
		}
	})
}

func FuzzTemplate(f *testing.F) {
	f.Add(`{"method":"PUT","path":"/p/{{id}}?q={{v}}","body":{"a":{{v:number}},"b":"{{id}}"}}`, "1", "2")
	f.Add(`{"a":"\u007b{}}"}`, "", "")
	f.Add("{\"a\":\"\ue000place\ue000\",\"path\":\"{{id}}\"}", "x", "y")
	f.Fuzz(func(t *testing.T, text, id, v string) {
		got, err := render(text, []string{"id", "v"}, []string{id, v})
		if err == nil && !json.Valid([]byte(got)) {
			t.Fatalf("%q with %q and %q is not JSON: %q", text, id, v, got)
		}
	})
}
