package submit_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sheafapi/sheaf/internal/submit"
	"golang.org/x/text/encoding/ianaindex"
	"golang.org/x/text/encoding/unicode"
)

// Results and failed requests are written in the input's dialect: encoding, byte order mark, delimiter,
// line endings and the line that names the delimiter. Cells keep every byte.
func TestDialects(t *testing.T) {
	const table = "sep=;\r\nid;name;;result_status\r\n1;\"St\u00fchle\r\nrot\";;old\r\n2;=1+1;;\r\n"
	const again = "sep=;\r\nid;name;;result_status\r\n2;=1+1;;\r\n"
	const results = "sep=;\r\nid;name;;result_status;result_code;result_message;result_body\r\n" +
		"1;\"St\u00fchle\r\nrot\";;COMPLETED;200;OK;'=HYPERLINK()\r\n2;=1+1;;FAILED;404;Not Found;\"{\"\"errorMessage\"\":\"\"no, \\\"\"404\\\"\"\"\"}\"\r\n"
	for name, c := range map[string]struct {
		encoding     string // of the input
		given        string // as --encoding
		mark         string
		resultsMark  string // "": as in the input
		resultsPlain bool   // results are UTF-8
	}{
		"UTF-8":                {mark: ""},
		"UTF-8 with a mark":    {mark: "\ufeff"},
		"UTF-16 little endian": {encoding: "utf-16le", mark: "\ufeff"},
		"UTF-16 big endian":    {encoding: "utf-16be", mark: "\ufeff"},
		"UTF-16 without mark":  {encoding: "utf-16le", given: "utf-16le"},
		"windows-1252":         {encoding: "windows-1252", given: "windows-1252", resultsMark: "\ufeff", resultsPlain: true},
	} {
		t.Run(name, func(t *testing.T) {
			w, dir := start(t), t.TempDir()
			w.fails["/1/products/2"] = 404
			w.says = map[string]string{"/1/products/1": "\"=HYPERLINK()\""}
			store := func(text string) string { return encoded(t, c.encoding, c.mark+text) }
			in := file(t, dir, "names.csv", store(table))
			o := submit.Options{
				Input:      submit.Input{Path: in, Encoding: c.given, Template: `{"method":"PUT","path":"/products/{{id}}","body":{"name":{{name}}}}`},
				FailedOnly: filepath.Join(dir, "again.csv"),
			}
			if _, err := begin(t, w, "1", o).Do(t.Context(), w.clients("1", nil)); err != nil {
				t.Fatal(err)
			}
			expect(t, string(must(os.ReadFile(o.FailedOnly))), store(again))
			want := store(results)
			if c.resultsPlain {
				want = c.resultsMark + results
			}
			expect(t, string(must(os.ReadFile(filepath.Join(dir, "names.results.csv")))), want)
			if got := w.body("PUT /1/products/1"); got != `{"name":"St\u00fchle\r\nrot"}` && got != "{\"name\":\"Stühle\\r\\nrot\"}" {
				t.Errorf("the API got %s", got)
			}
		})
	}
}

// encoded returns text in an encoding; "": UTF-8.
func encoded(t *testing.T, name, text string) string {
	t.Helper()
	if name == "" {
		return text
	}
	e := must(ianaindex.IANA.Encoding(name))
	if name == "utf-16le" || name == "utf-16be" { // their encoders write no byte order mark
		order := unicode.LittleEndian
		if name == "utf-16be" {
			order = unicode.BigEndian
		}
		e = unicode.UTF16(order, unicode.IgnoreBOM)
	}
	return must(e.NewEncoder().String(text))
}

// Spreadsheets don't run text in answers as formulas, unless Raw is set.
func TestFormulas(t *testing.T) {
	for _, raw := range []bool{false, true} {
		w, dir := start(t), t.TempDir()
		w.says = map[string]string{"/1/a": `"@SUM(A1)"`}
		o := submit.Options{
			Input: submit.Input{Path: file(t, dir, "a.csv", "x\n-1\n"), Template: `{"method":"GET","path":"/a"}`}, Raw: raw,
		}
		if _, err := begin(t, w, "1", o).Do(t.Context(), w.clients("1", nil)); err != nil {
			t.Fatal(err)
		}
		want := "x,result_status,result_code,result_message,result_body\n-1,COMPLETED,200,OK,'@SUM(A1)\n"
		if raw {
			want = strings.ReplaceAll(want, "'", "")
		}
		expect(t, string(must(os.ReadFile(filepath.Join(dir, "a.results.csv")))), want)
	}
}

// A row whose only cell is empty is sent again, and blank rows are counted.
func TestBlankRows(t *testing.T) {
	w, dir := start(t), t.TempDir()
	w.fails["/1/a"] = 500
	o := submit.Options{
		Input:      submit.Input{Path: file(t, dir, "a.csv", "id,x\n1,\n,\n\n2,\n , \n"), Template: `{"method":"PUT","path":"/a","body":{{x}}}`},
		FailedOnly: filepath.Join(dir, "again.csv"),
	}
	s, err := begin(t, w, "1", o).Do(t.Context(), w.clients("1", nil))
	if err != nil {
		t.Fatal(err)
	}
	if s.Blank != 3 || s.Failed != 2 || s.Requests != 2 {
		t.Errorf("%+v", s)
	}
	expect(t, string(must(os.ReadFile(o.FailedOnly))), "id,x\n1,\n2,\n")
}
