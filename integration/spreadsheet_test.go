package integration

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// spoilable are cells that spreadsheets are known to corrupt: separators, quotes, line ends, leading
// zeros, texts that look like dates, numbers or formulas, and other scripts.
var spoilable = []string{
	"Crème brûlée", `5" pipe, "black"`, "a;b\tc,d", "two\nlines", "007", "1-2", "3/4", "1e5", "TRUE", "-", "€ 5", "ß Ü ñ",
	"'quoted", " spaces ", "100%", "+49 30 1", "=1+1 as text", "@home", "#REF", "{{name}}", `\n`, "12.50", "9,5", "00:30",
}

// spreadsheet is LibreOffice without windows.
type spreadsheet struct {
	t       *testing.T
	profile string
}

// filters are LibreOffice's options for CSV: delimiter, quote, encoding, first line, formats of
// columns (2: text), language, and whether all cells are quoted or stored as shown.
var filters = map[string]struct {
	options  string
	encoding string // for --encoding; empty: detected from the file
}{
	"UTF-8 with commas":           {"44,34,76,1,,0,false,true,false", ""},
	"UTF-8 with semicolons":       {"59,34,76,1,,0,false,true,false", ""},
	"UTF-16 with tabs":            {"9,34,65535,1,,0,false,true,false", ""},
	"windows-1252 with semicolon": {"59,34,1,1,,0,false,true,false", "windows-1252"},
}

// convert converts a file to another format with the spreadsheet.
func (s *spreadsheet) convert(file, to, reading string) string {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 3*time.Minute)
	defer cancel()
	out := s.t.TempDir()
	args := []string{"-env:UserInstallation=file://" + s.profile, "--headless", "--convert-to", to, "--outdir", out}
	if reading != "" {
		args = append(args, "--infilter="+reading)
	}
	text, err := exec.CommandContext(ctx, "soffice", append(args, file)...).CombinedOutput()
	if err != nil {
		s.t.Fatalf("soffice: %v\n%s", err, text)
	}
	made, err := filepath.Glob(filepath.Join(out, "*"))
	if err != nil || len(made) != 1 {
		s.t.Fatalf("soffice wrote %v, %v:\n%s", made, err, text)
	}
	return made[0]
}

// TestSpreadsheet exports 2,000 rows from a real spreadsheet, submits them, opens the results in the
// spreadsheet and submits the failed rows again. No cell changes, and no row is lost or sent twice.
func TestSpreadsheet(t *testing.T) {
	t.Parallel()
	const rows = 2000
	sheet := &spreadsheet{t, t.TempDir()}
	// The sheet comes from CSV, all of whose columns are read as text.
	var b bytes.Buffer
	w := csv.NewWriter(&b)
	_ = w.Write([]string{"sku", "name", "price"})
	names := map[string]string{}
	for i := range rows {
		sku := fmt.Sprintf("%05d", i)
		names[sku] = fmt.Sprintf("%s %d", spoilable[i%len(spoilable)], i)
		_ = w.Write([]string{sku, names[sku], fmt.Sprintf("%d.50", i)})
	}
	w.Flush()
	source := filepath.Join(t.TempDir(), "products.csv")
	if err := os.WriteFile(source, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	const asText = "CSV:44,34,76,1,1/2/2/2/3/2/4/2/5/2/6/2/7/2,0,false,false,false"
	book := sheet.convert(source, "xlsx", asText)

	for name, filter := range filters {
		t.Run(name, func(t *testing.T) {
			sheet := &spreadsheet{t, sheet.profile}
			shop := newShop(t)
			s := start(t, shop.URL, filepath.Join(t.TempDir(), "sheaf.db"))
			input := sheet.convert(book, "csv:Text - txt - csv (StarCalc):"+filter.options, "")
			shop.refuse(func(sku string) bool { return strings.HasSuffix(sku, "7") })
			results := submitTable(t, s, input, filter.encoding, 3)

			// The results are opened in the spreadsheet, and the rows that failed are kept.
			read := "CSV:" + delimiterOf(t, filter.options) + "," + resultsEncoding(filter.encoding, filter.options) + ",1,1/2/2/2/3/2/4/2/5/2/6/2/7/2,0,false,false,false"
			reopened := sheet.convert(sheet.convert(results, "xlsx", read), "csv:Text - txt - csv (StarCalc):44,34,76,1,,0,false,true,false", "")
			table := readTable(t, reopened)
			if len(table) != rows+1 {
				t.Fatalf("the results have %d rows", len(table))
			}
			again := [][]string{table[0]}
			for _, row := range table[1:] {
				if row[1] != names[row[0]] {
					t.Errorf("the name of %s is %q, want %q", row[0], row[1], names[row[0]])
				}
				if row[3] != "COMPLETED" {
					again = append(again, row)
				}
			}
			if len(again) != rows/10+1 {
				t.Fatalf("%d rows failed", len(again)-1)
			}
			corrected := filepath.Join(t.TempDir(), "corrected.csv")
			var b bytes.Buffer
			w := csv.NewWriter(&b)
			_ = w.WriteAll(again)
			if err := os.WriteFile(corrected, b.Bytes(), 0o600); err != nil {
				t.Fatal(err)
			}
			book := sheet.convert(corrected, "xlsx", asText)
			input = sheet.convert(book, "csv:Text - txt - csv (StarCalc):"+filter.options, "")
			shop.refuse(func(string) bool { return false })
			submitTable(t, s, input, filter.encoding, 0)
			shop.check(t, names)
		})
	}
}

// submitTable submits a table of products and returns the results file.
func submitTable(t *testing.T, s *service, input, encoding string, exit int) string {
	t.Helper()
	args := []string{
		"submit", input, "--server", s.base, "--store", "1", "--quiet",
		"--template", `{"method":"PUT","path":"/products/{{sku}}","body":{"sku":{{sku}},"name":{{name}},"price":{{price:number}}}}`,
	}
	if encoding != "" {
		args = append(args, "--encoding", encoding)
	}
	cmd := exec.CommandContext(t.Context(), binary, args...)
	cmd.Env = append(os.Environ(), "SHEAF_TOKEN=t0ken")
	if out, _ := cmd.CombinedOutput(); cmd.ProcessState.ExitCode() != exit {
		t.Fatalf("sheaf submit: %v, want exit code %d\n%s", cmd.ProcessState, exit, out)
	}
	return strings.TrimSuffix(input, filepath.Ext(input)) + ".results.csv"
}

func readTable(t *testing.T, file string) [][]string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	table, err := csv.NewReader(bytes.NewReader(bytes.TrimPrefix(text, []byte("\ufeff")))).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func delimiterOf(t *testing.T, options string) string {
	t.Helper()
	parts := strings.Split(options, ",")
	return parts[0] + "," + parts[1]
}

// resultsEncoding returns LibreOffice's number for the encoding of the results.
func resultsEncoding(encoding, options string) string {
	if encoding != "" {
		return "76" // UTF-8
	}
	return strings.Split(options, ",")[2]
}

// shop is an API that stores products, and refuses some.
type shop struct {
	*httptest.Server
	mu      sync.Mutex
	refused func(sku string) bool
	names   map[string]string
	puts    map[string]int // by SKU, without those that were refused
	wrong   []string
}

func newShop(t *testing.T) *shop {
	t.Helper()
	s := &shop{names: map[string]string{}, puts: map[string]int{}}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *shop) refuse(which func(sku string) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refused = which
}

// ServeHTTP stores or refuses a product.
func (s *shop) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var p struct {
		SKU, Name string
		Price     json.Number
	}
	err := json.NewDecoder(r.Body).Decode(&p)
	s.mu.Lock()
	defer s.mu.Unlock()
	n, _ := strconv.Atoi(p.SKU)
	if want := fmt.Sprintf("%d.50", n); err != nil || !strings.HasSuffix(r.URL.Path, "/"+p.SKU) || string(p.Price) != want && string(p.Price)+"0" != want {
		s.wrong = append(s.wrong, fmt.Sprint(r.URL.Path, p, err))
	}
	w.Header().Set("Content-Type", "application/json")
	if s.refused(p.SKU) {
		w.WriteHeader(http.StatusConflict)
		_, _ = io.WriteString(w, `"=HYPERLINK(\"https://example.com\")"`)
		return
	}
	s.names[p.SKU] = p.Name
	s.puts[p.SKU]++
	_, _ = io.WriteString(w, `{}`)
}

// check compares the products that arrived with those in the sheet.
func (s *shop) check(t *testing.T, want map[string]string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !maps.Equal(s.names, want) {
		for _, sku := range slices.Sorted(maps.Keys(want)) {
			if s.names[sku] != want[sku] {
				t.Errorf("the name of %s arrived as %q, want %q", sku, s.names[sku], want[sku])
			}
		}
	}
	for sku, n := range s.puts {
		if n != 1 {
			t.Errorf("%s was put %d times", sku, n)
		}
	}
	if len(s.wrong) > 0 {
		t.Errorf("%d wrong requests, such as %s", len(s.wrong), s.wrong[0])
	}
}
