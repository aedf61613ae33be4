package main

import (
	"encoding/json"
	"math"
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
		{[]float64{100, 500, 490}, 0.49, 0.1, 1, false},
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

// Both sides have to do the same work: that of the text.
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
		{figure{Value: value(14), Unit: "ms", Goal: 15}, "14.00 ms: goal ≤ 15 ms, met"},
		{figure{Value: value(123.4), Unit: "ms", Goal: 15}, "123 ms: goal ≤ 15 ms, MISSED"},
		{figure{Value: megabytes(-1), Unit: "MB", Goal: 200}, "not measured: goal ≤ 200 MB"},
		{figure{Value: value(1), Unit: "s"}, "1.00 s: "},
	} {
		if got := c.figure.text() + ": " + c.figure.judgement(); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}
