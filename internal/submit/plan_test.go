package submit

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sheafapi/sheaf/internal/batch"
	"pgregory.net/rapid"
)

// write writes a file to a new directory.
func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestMistakes checks that mistakes are reported with their positions, and all mistakes in a batch at once.
func TestMistakes(t *testing.T) {
	const put = `{"method":"PUT","path":"/products/{{id}}","body":{"price":{{price:number}}}}`
	for name, c := range map[string]struct {
		file, text, template string
		want                 []string
	}{
		"method":               {"a.ndjson", "{\"method\":\"GET\",\"path\":\"/a\"}\n\n{\"method\":\"get\",\"path\":\"/a\"}\n{\"method\":\"GET\",\"path\":\"//x\"}\n", "", []string{"a.ndjson:3: method must be one of", "a.ndjson:4: path"}},
		"no JSON":              {"a.ndjson", "{\"method\":\"GET\",\"path\":\"/a\"}\n{\"method\"\n", "", []string{"a.ndjson:2: the line is not JSON: it ends too early"}},
		"two":                  {"a.ndjson", "{\"method\":\"GET\",\"path\":\"/a\"} {}\n", "", []string{"a.ndjson:1: more text follows"}},
		"no object":            {"a.ndjson", "{\"method\":\"GET\",\"path\":\"/a\"}\n[1]\n", "", []string{"a.ndjson:2: the line is not a JSON object"}},
		"twice":                {"a.ndjson", "{\"method\":\"GET\",\"path\":\"/a\",\"path\":\"/b\"}\n", "", []string{"a.ndjson:1: path is given twice"}},
		"array":                {"a.json", "[{\"method\":\"GET\",\"path\":\"/a\"},\n\n  {\"method\":\"GET\",\n\"path\":\"/../b\"}\n]", "", []string{"a.json:3: path"}},
		"array end":            {"a.json", "[{\"method\":\"GET\",\"path\":\"/a\"},\n", "", []string{"a.json:2: the array is incomplete"}},
		"array item":           {"a.json", "[{\"method\":\"GET\",\"path\":\"/a\"},\n3]", "", []string{"a.json:2: each element"}},
		"array tail":           {"a.json", "[{\"method\":\"GET\",\"path\":\"/a\"}]\nx", "", []string{"a.json:1: more text follows the array"}},
		"empty array":          {"a.json", "[]", "", []string{"has no requests"}},
		"empty":                {"a.json", " \n", "", []string{"is empty"}},
		"neither":              {"a.txt", "GET /a", "", []string{"begins with neither"}},
		"no template":          {"a.csv", "id\n1\n", "", []string{"needs a template"}},
		"template":             {"a.json", "[]", put, []string{"is not CSV"}},
		"value":                {"a.csv", "id,price\n1,2\n\"2\n\",x\n", put, []string{`a.csv:3: column "price": "x" is not a number`}},
		"columns":              {"a.csv", "id,price\n1,2\n2\n", put, []string{"a.csv:3: the row has 1 columns but the header has 2"}},
		"quotes":               {"a.csv", "id,price\n1,\"2\"3\n", put, []string{"a.csv:2: character 6: '3' follows a closing quote"}},
		"same name":            {"a.csv", "id,price,id\n", put, []string{`two columns are named "id"`}},
		"no rows":              {"a.csv", "id,price\n", put, []string{"has no requests"}},
		"no column":            {"a.csv", "ID;price\n1;2\n", put, []string{`uses the column "id", but the file only has ID, price; write literal braces`}},
		"open quote":           {"a.csv", "id,price\n1,\"2\n3,4\n5,6\n", put, []string{"a.csv:2: character 3: the quote that opens here is not closed"}},
		"lone quote":           {"a.csv", "id,price\n5\" pipe,2\n", put, []string{"a.csv:2: character 2: a cell contains a quote but"}},
		"extra cell":           {"a.csv", "id,price,\n1,2,\n1,2,x\n", put, []string{`a.csv:3: column 3 has the text "x" but no name in the header`}},
		"ambiguous":            {"a.csv", "id,a;b\n1,2;3\n", put, []string{"the delimiter may be ',' or ';', because each gives 2 columns"}},
		"sep":                  {"a.csv", "sep=;\nid;price\n1;x\n", put, []string{`a.csv:3: column "price": "x" is not a number`}},
		"no UTF-8":             {"a.csv", "id,price\nA\xe8b,1\n", put, []string{"a.csv:2:2: byte 0xE8 at offset 10 is not UTF-8: specify the encoding"}},
		"no UTF-8 in lines":    {"a.ndjson", "{\"method\":\"GET\",\"path\":\"/a\"}\n{\"method\":\"GET\",\"path\":\"/\xff\"}\n", "", []string{"a.ndjson:2:26: byte 0xFF at offset 54"}},
		"no UTF-8 in an array": {"a.json", "[{\"method\":\"GET\",\n\"path\":\"/\xff\"}]", "", []string{"a.json:2:10: byte 0xFF at offset 27"}},
		"NUL":                  {"a.csv", "i\x00d\x00,\x00p\x00", put, []string{"a.csv:1:2: the file contains a NUL byte"}},
		"cut off":              {"a.csv", "\xef\xbb\xbfid,price\nA\xc3", put, []string{"a.csv:2:2: byte 0xC3 at offset 13"}},
		"dots":                 {"a.csv", "id,price\n..,2\n", put, []string{"a.csv:2: path"}},
		"unknown id":           {"a.ndjson", "{\"method\":\"GET\",\"path\":\"/a\",\"dependsOn\":[\"x\"]}\n", "", []string{"a.ndjson:1: dependsOn"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := NewPlan(Options{Input: Input{Path: write(t, c.file, c.text), Template: c.template}})
			for _, want := range c.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("got %v, want an error with %q", err, want)
				}
			}
		})
	}
}

// Up to 20 mistakes are shown at once, and the others are counted.
func TestManyMistakes(t *testing.T) {
	rows := strings.Repeat("x\n", 300)
	_, err := NewPlan(Options{Input: Input{Path: write(t, "a.csv", "n\n"+rows), Template: `{"method":"PUT","path":"/a","body":{{n:number}}}`}})
	if got := fmt.Sprint(err); strings.Count(got, "is not a number") != 20 || !strings.HasSuffix(got, "and 280 more mistakes") {
		t.Errorf("got %s", got)
	}
	_, err = NewPlan(Options{Input: Input{Path: write(t, "a.ndjson", strings.Repeat("{\"method\":\"get\",\"path\":\"/a\"}\n", 700))}})
	if got := fmt.Sprint(err); strings.Count(got, "method must be one of") != 20 || !strings.HasSuffix(got, "and 680 more mistakes") {
		t.Errorf("got %s", got)
	}
}

// TestFormats checks that the same requests in each format have the same result.
func TestFormats(t *testing.T) {
	want := `[{"method":"GET","path":"/a/1"},{"method":"GET","path":"/a/2"}]`
	const template = `{"method":"GET","path":"/a/{{n}}"}`
	for _, in := range []Input{
		{Path: write(t, "a.ndjson", "{\"method\":\"GET\",\"path\":\"/a/1\"}\r\n\r\n{\"method\":\"GET\",\"path\":\"/a/2\"}")},
		{Path: write(t, "b", "\xef\xbb\xbf{\"method\":\"GET\",\"path\":\"/a/1\"}\n{\"method\":\"GET\",\"path\":\"/a/2\"}\n")},
		{Path: write(t, "a.json", " [{\"method\":\"GET\",\"path\":\"/a/1\"},\n{\"method\":\"GET\",\"path\":\"/a/2\"}]\n")},
		{Path: write(t, "a.csv", "\xef\xbb\xbfn,m\r\n1,\"x\ny\"\r\n2,\r\n"), Template: template},
		{Path: write(t, "a.tsv", "n\tm\n1\t,\n2\t\n"), Template: template},
		{Path: write(t, "b.csv", "n;m\n1;,\n2;\n"), Template: template, Delimiter: ';'},
		{Path: write(t, "c.csv", "n;m\n1;,\n2;\n"), Template: template},
		{Path: write(t, "d.csv", "n\tm\r1\t,\r2\t\r"), Template: template},
		{Path: write(t, "e.csv", "sep=|\r\nn|m\r\n1|,\r\n2|\r\n"), Template: template},
		{Path: write(t, "f.csv", "\xff\xfen\x00\t\x00m\x00\n\x001\x00\t\x00\xe4\x00\n\x002\x00\t\x00"), Template: template},
		{Path: write(t, "g.csv", "n,m\n1,\xe4\n2,"), Template: template, Encoding: "windows-1252"},
		{Path: write(t, "h.csv", "\n n ,m,,\n\n1,x,,\n , ,,\n2,y\n,,,\n"), Template: template},
	} {
		p, err := NewPlan(Options{Input: in})
		if err != nil {
			t.Errorf("%s: %v", in.Path, err)
			continue
		}
		r, err := p.options.Input.reader(p.chunks)
		if err != nil {
			t.Fatal(err)
		}
		part, err := r.next()
		if err != nil || string(part.body()) != want {
			t.Errorf("%s: got %s, %v, want %s", in.Path, part.body(), err, want)
		}
		if _, err := r.next(); !errors.Is(err, io.EOF) {
			t.Errorf("%s: got %v after the last chunk", in.Path, err)
		}
		r.Close()
	}
}

// TestChunks checks that no dependency spans two batches, that batches stay within both limits, and that
// no batch could be larger.
func TestChunks(t *testing.T) {
	const bound = 60 << 10
	body := strings.Repeat("x", bound*3/8)
	rapid.Check(t, func(t *rapid.T) {
		p := planner{path: "a.ndjson", maxBytes: bound}
		var err error
		n := rapid.IntRange(1, 2200).Draw(t, "requests")
		links := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) [2]int {
			at := rapid.IntRange(0, n-1).Draw(t, "at")
			return [2]int{at, max(at-rapid.IntRange(0, 520).Draw(t, "back"), 0)}
		}), 0, 12).Draw(t, "links")
		large := rapid.SliceOfN(rapid.IntRange(0, n-1), 0, 6).Draw(t, "large")
		sizes := make([]int, n)
		tooFar := false
		for i := range n {
			q := map[string]any{"id": fmt.Sprint(i), "method": "GET", "path": "/a"}
			var needs []string
			for _, l := range links {
				if l[0] == i && l[1] < i {
					needs = append(needs, fmt.Sprint(l[1]))
					tooFar = tooFar || i-l[1] >= maxRequests
				}
			}
			if len(needs) > 0 {
				slices.Sort(needs)
				q["dependsOn"] = slices.Compact(needs)
			}
			if slices.Contains(large, i) {
				q["body"] = body
			}
			line, _ := json.Marshal(q)
			sizes[i] = len(line) + 1
			if err == nil {
				err = p.add(&row{line: i + 1, request: line})
			}
		}
		if err == nil {
			err = p.finish()
		}
		spans := func(cut int) bool {
			return slices.ContainsFunc(links, func(l [2]int) bool { return l[1] < cut && cut <= l[0] })
		}
		fits := func(from, to int) bool {
			size := 2
			for _, s := range sizes[from:to] {
				size += s
			}
			return to-from <= maxRequests && (size <= bound || to-from == 1)
		}
		// The model takes the furthest allowed cut each time.
		var want []int
		impossible := tooFar
		for at := 0; at < n && !impossible; {
			next := at
			for to := at + 1; to <= n && fits(at, to); to++ {
				if !spans(to) {
					next = to
				}
			}
			if impossible = next == at; !impossible {
				want = append(want, next-at)
				at = next
			}
		}
		if impossible {
			if err == nil {
				t.Fatal("a file that can't be divided was divided")
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(p.cuts, want) {
			t.Fatalf("got batches of %v, want %v", p.cuts, want)
		}
	})
}

// TestChangedInput checks that a file that has changed since it was checked is not sent.
func TestChangedInput(t *testing.T) {
	in := Input{Path: write(t, "a.ndjson", "{\"method\":\"GET\",\"path\":\"/a\"}\n"), Format: NDJSON}
	chunks, _, err := in.plan(batch.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"{\"method\":\"GET\",\"path\":\"/b\"}\n", ""} {
		if err := os.WriteFile(in.Path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := in.check(chunks, batch.Options{}); err == nil || !strings.Contains(err.Error(), "has changed since") {
			t.Errorf("%q: got %v", text, err)
		}
	}
}
