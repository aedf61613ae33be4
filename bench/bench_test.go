package main

import (
	"encoding/json"
	"image/png"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestPercentile(t *testing.T) {
	var hundred []time.Duration
	for i := range 100 {
		hundred = append(hundred, time.Duration(100-i))
	}
	for _, c := range []struct {
		times []time.Duration
		p     float64
		want  time.Duration
	}{
		{nil, 50, 0},
		{[]time.Duration{7}, 99, 7},
		{[]time.Duration{3, 1, 2}, 50, 2},
		{[]time.Duration{4, 1, 3, 2}, 50, 2},
		{hundred, 50, 50},
		{hundred, 99, 99},
		{hundred, 100, 100},
		{hundred, 0, 1},
	} {
		if got := percentile(c.times, c.p); got != c.want {
			t.Errorf("p%v of %d times: got %d, want %d", c.p, len(c.times), got, c.want)
		}
	}
}

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   float64
	}{
		{nil, 0},
		{[]float64{5}, 5},
		{[]float64{9, 1, 2}, 2},
		{[]float64{4, 1, 2, 9}, 3},
	} {
		if got := median(c.values); got != c.want {
			t.Errorf("median of %v: got %v, want %v", c.values, got, c.want)
		}
	}
}

func TestComparison(t *testing.T) {
	for _, c := range []struct {
		service                []float64
		ratio, lowest, highest float64
		met                    bool
	}{
		{[]float64{100, 500, 490}, 0.245, 0.1, 1, false},
		{[]float64{500, 900, 100}, 0.50, 0.05, 1.8, true},
	} {
		got := comparison{Plain: []float64{1000, 500, 2000}, Service: c.service, Goal: 0.5}
		got.conclude()
		for _, v := range [][2]float64{{got.Ratio, c.ratio}, {got.Lowest, c.lowest}, {got.Highest, c.highest}} {
			if math.Abs(v[0]-v[1]) > 1e-9 {
				t.Errorf("%v: got %v, want %v", c.service, v[0], v[1])
			}
		}
		if got.Met != c.met {
			t.Errorf("%v: met is %v, want %v", c.service, got.Met, c.met)
		}
	}
}

// TestScenarios checks the number of calls of each scenario, which both sides make.
func TestScenarios(t *testing.T) {
	want := map[string]int{
		"parallel 0s": 10_000, "parallel 5ms": 10_000,
		"stores 0s": 10_000, "stores 5ms": 10_000,
		"sequential 0s": 2000, "sequential 5ms": 500,
	}
	for _, s := range scenarios {
		name := s.theme + " " + s.latency.String()
		if s.calls() != want[name] {
			t.Errorf("%s: %d calls, want %d", name, s.calls(), want[name])
		}
		if warm := s.warmUp(); warm.calls()*10 != s.calls() || warm.requests > 500 {
			t.Errorf("%s: warm-up of %d calls in batches of %d", name, warm.calls(), warm.requests)
		}
		delete(want, name)
	}
	for name := range want {
		t.Errorf("%s is missing", name)
	}
}

func TestBatchBody(t *testing.T) {
	var requests []struct {
		Path, Method string
		Body         json.RawMessage
	}
	if err := json.Unmarshal(batchBody(3), &requests); err != nil {
		t.Fatal(err)
	}
	if len(requests) != 3 {
		t.Fatalf("got %d requests, want 3", len(requests))
	}
	for _, r := range requests {
		if r.Method != "POST" || r.Path != requestPath || len(r.Body) != 250 {
			t.Errorf("got %s %s with %d bytes, want POST %s with 250", r.Method, r.Path, len(r.Body), requestPath)
		}
	}
}

func TestCheckAnswers(t *testing.T) {
	for _, c := range []struct {
		status string
		want   string // part of the error
	}{
		{`{"status":"COMPLETED","responses":[{"status":"COMPLETED","httpStatusCode":201},{"status":"COMPLETED","httpStatusCode":201}]}`, ""},
		{`{"status":"COMPLETED","responses":[{"status":"COMPLETED","httpStatusCode":201}]}`, "1 responses instead of 2"},
		{`{"status":"COMPLETED","responses":[{"status":"COMPLETED","httpStatusCode":201},{"status":"NOT_EXECUTED"}]}`, "response 1 is NOT_EXECUTED"},
		{`{"status":"COMPLETED","responses":[{"status":"FAILED","httpStatusCode":201},{"status":"COMPLETED","httpStatusCode":201}]}`, "response 0 is FAILED"},
		{`nonsense`, "invalid character"},
	} {
		err := checkAnswers([]byte(c.status), 2)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: got %v, want %q", c.status, err, c.want)
		}
	}
}

func TestLines(t *testing.T) {
	const status = "Name:\tsheaf\nVmHWM:\t   20480 kB\nVmRSS:\t   10240 kB\n"
	if got := kibibytes(status, "VmHWM"); got != 20<<20 {
		t.Errorf("VmHWM: got %d", got)
	}
	if got := kibibytes(status, "VmSwap"); got != -1 {
		t.Errorf("VmSwap: got %d, want -1", got)
	}
	if got := lineValue("NAME=x\nPRETTY_NAME=\"Some Linux 1\"\n", "PRETTY_NAME"); got != "Some Linux 1" {
		t.Errorf("PRETTY_NAME: got %q", got)
	}
	if got := lineValue("model\t\t: 1\nmodel name\t: A CPU\n", "model name"); got != "A CPU" {
		t.Errorf("model name: got %q", got)
	}
}

func TestFigure(t *testing.T) {
	for _, c := range []struct {
		figure figure
		want   string
	}{
		{figure{Value: value(14), Unit: "ms", Goal: 15}, "14.00 ms: ≤ 15 ms: met"},
		{figure{Value: value(123.4), Unit: "ms", Goal: 15}, "123 ms: ≤ 15 ms: MISSED"},
		{figure{Value: megabytes(-1), Unit: "MB", Goal: 200}, "not measured: ≤ 200 MB: "},
		{figure{Value: value(1), Unit: "s"}, "1.00 s: : "},
	} {
		if got := c.figure.text() + ": " + c.figure.goal() + ": " + c.figure.judgment(); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}

func TestFlags(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"-database oracle", "must be sqlite or postgres"},
		{"-only nodes", "the themes on sqlite are"},
		{"-only purge,nothing -database postgres", `names "nothing"`},
		{"-nodes 1,x", `"x" isn't one`},
		{"-rounds 0", "at least 1"},
		{"-wave-requests 501", "1 to 500"},
		{"-queued 1", "-queued must be"},
		{"-plans file", "needs -database postgres"},
		{"-renew", "needs -baseline"},
		{"more", "no arguments"},
	} {
		_, _, err := parse(strings.Fields(c.args), io.Discard)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.args, err, c.want)
		}
	}
}

func TestBaseline(t *testing.T) {
	file := filepath.Join(t.TempDir(), "baseline.json")
	measured := func(parallel, stores float64) []comparison {
		return []comparison{{Scenario: parallelName, Upstream: "0 ms", Ratio: parallel}, {Scenario: storesName, Upstream: "0 ms", Ratio: stores}}
	}
	check := func(database string, c []comparison) (string, error) {
		b, err := readBaseline(file)
		if err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		err = b.check(&out, database, c)
		return out.String(), err
	}
	if _, err := check(onSQLite, measured(1, 1)); err == nil {
		t.Error("without a baseline, the check did not fail")
	}
	b, err := readBaseline(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.renew(file, onSQLite, measured(0.8, 0.4)); err != nil {
		t.Fatal(err)
	}
	if _, err := check(onPostgres, measured(0.8, 0.4)); err == nil {
		t.Error("the ratios of one database were used for another")
	}
	for _, c := range []struct {
		parallel, stores float64
		lost             int
	}{{0.8, 0.4, 0}, {0.69, 0.35, 0}, {2, 0.33, 1}, {0.67, 0.4, 1}, {0.1, 0.1, 2}} {
		out, err := check(onSQLite, measured(c.parallel, c.stores))
		if (err != nil) != (c.lost > 0) || strings.Count(out, "LOST") != c.lost {
			t.Errorf("%.2f and %.2f: %v\n%s", c.parallel, c.stores, err, out)
		}
	}
	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readBaseline(file); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("a broken file: %v", err)
	}
}

func TestParseStat(t *testing.T) {
	const line = "42 (a) b (c) S 7 42 42 0 -1 4194560 900 800 0 0 150 50 30 20 20 0 9 0 123 456 789"
	got, ok := parseStat(line)
	want := processStat{parent: 7, own: 2 * time.Second, children: 500 * time.Millisecond}
	if !ok || got != want {
		t.Errorf("got %+v, %v, want %+v", got, ok, want)
	}
	if _, ok := parseStat("42 (cut off) S 7"); ok {
		t.Error("a truncated line was parsed")
	}
}

func TestParsePlans(t *testing.T) {
	const file = "-- A comment.\n\n-- name: first\nSELECT 1\nFROM marks;\n\n-- name: second\nSELECT 2;\n"
	const log = `x LOG:  duration: 2.500 ms  plan:
	Query Text: SELECT 1
	FROM marks
	Index Scan using a on marks  (cost=0.4..8 rows=1 width=5)
	  Buffers: shared hit=3 read=2 dirtied=1
	  ->  Seq Scan on other
	        Buffers: shared hit=1
x LOG:  something else
x LOG:  duration: 0.125 ms  plan:
	Query Text: SELECT 3
	Result
`
	statements := parsePlans(log, parseQueries(file))
	if len(statements) != 2 || len(statements[0].plans) != 1 || len(statements[1].plans) != 0 {
		t.Fatalf("got %+v, want one plan of the first statement", statements)
	}
	got := statements[0].plans[0]
	if got.took != 2500*time.Microsecond || !strings.HasPrefix(got.text, "Index Scan") || pagesOf(got.text) != 5 {
		t.Errorf("got %+v with %d pages", got, pagesOf(got.text))
	}
}

// TestSmall runs every measurement at a small scale, with real services and databases.
func TestSmall(t *testing.T) {
	for _, c := range []struct {
		database string
		want     []string
	}{
		{onSQLite, []string{
			parallelName, storesName, sequentialName, "create of 500 requests, p50", "polls with 500 responses", "polls with responses=false, 64 connections",
			"restart to ready, 200 queued", "Database: SQLite", "stores at work",
		}},
		{onPostgres, []string{
			parallelName, storesName, sequentialName, "What a million of these sub-requests cost", "create of 500 requests, p50",
			"restart to ready, 200 queued, 1,000 finished", "nodes: 2, " + storesName, "dead rows after the purge",
			"rows, 256 in a commit", "Database: PostgreSQL", sheafOnSQLite, riverName, asynqAlways, "memory with 20 stores at work", "plain client, 50 at once",
		}},
	} {
		t.Run(c.database, func(t *testing.T) {
			t.Parallel() // the times measured here don't matter
			plots := t.TempDir()
			args := []string{"-database", c.database, "-small", "-plots", plots}
			plans := filepath.Join(t.TempDir(), "plans.md")
			if c.database == onPostgres {
				args = append(args, "-plans", plans)
			}
			var out, progress strings.Builder
			if err := measure(t.Context(), args, &out, &progress); err != nil {
				t.Fatalf("%v\n%s", err, progress.String())
			}
			for _, want := range c.want {
				if !strings.Contains(out.String(), want) {
					t.Errorf("the report lacks %q:\n%s", want, out.String())
				}
			}
			if c.database == onPostgres {
				checkPlans(t, plans)
			}
			if f, err := os.Open(filepath.Join(plots, "growth-"+c.database+".png")); err != nil {
				t.Error(err)
			} else if _, err := png.DecodeConfig(f); err != nil {
				t.Error(err)
			}
		})
	}
}

// checkPlans checks that the file of plans has the statements that a service runs often.
func checkPlans(t *testing.T, file string) {
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"insert_batch", "own_queue", "start_next", "record", "end_batch", "status", "runnable", "purge"} {
		if !strings.Contains(string(text), "\n## "+name+"\n") {
			t.Errorf("the plan of %s is missing", name)
		}
	}
}

// TestMain runs main if a test has started this binary as one of the program's processes.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && slices.Contains([]string{upstreamCommand, plainCommand, riverCommand, asynqCommand}, os.Args[1]) {
		main()
		return
	}
	os.Exit(m.Run())
}
