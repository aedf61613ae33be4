package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestSubmitSurvivesKill9 repeatedly kills sheaf submit while it submits a file of POSTs, and kills
// the service twice. After the last --resume, every request has reached the upstream once or is
// reported as in doubt, and every line of the file has its result.
func TestSubmitSurvivesKill9(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	const lines, kills = 6000, 8
	ledger := newLedger(t, func(Arrival) Reply { return Reply{} })
	s := start(t, ledger.URL, filepath.Join(t.TempDir(), "sheaf.db"))
	file := filepath.Join(t.TempDir(), "calls.ndjson")
	var text bytes.Buffer
	for i := range lines {
		fmt.Fprintf(&text, `{"method":"POST","path":"things/%d","body":{"n":%d}}`+"\n", i, i)
	}
	if err := os.WriteFile(file, text.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	submit := func(more ...string) *service {
		args := append([]string{"submit", file, "--server", s.base, "--store", "1003", "--parallel"}, more...)
		return launchBinary(t, binary, []string{"SHEAF_TOKEN=t0ken"}, args...)
	}
	p := submit()
	for i := range kills {
		awaitArrivals(ctx, t, ledger.After([]int{1, 400, 40, 700}[i%4]))
		p.kill9(t)
		if i%3 == 2 {
			s.kill9(t)
			s = s.restart(t)
		}
		if i == kills-1 && ledger.Count() >= lines {
			t.Fatal("all requests had arrived before the last kill: the test proves nothing")
		}
		p = submit("--resume")
	}
	select {
	case <-p.ended:
	case <-ctx.Done():
		t.Fatal(ctx.Err())
	}
	if code := p.cmd.ProcessState.ExitCode(); code != 0 && code != 3 {
		t.Fatalf("exit code %d: %s", code, p.logText())
	}

	results, err := os.ReadFile(strings.TrimSuffix(file, "ndjson") + "results.ndjson")
	if err != nil {
		t.Fatal(err)
	}
	arrivals := map[string]int{}
	for _, a := range ledger.Arrivals() {
		arrivals[a.Path]++
	}
	n, doubts := 0, 0
	for line := range strings.Lines(string(results)) {
		var r struct {
			Line   int
			Path   string
			Status string
			Code   int `json:"httpStatusCode"`
		}
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatal(err)
		}
		if n++; r.Line != n || r.Path != fmt.Sprintf("things/%d", n-1) {
			t.Fatalf("result %d is for line %d: %s", n, r.Line, line)
		}
		got := arrivals["/"+r.Path]
		switch {
		case r.Status == "COMPLETED" && got == 1:
		case r.Status == "FAILED" && r.Code == 502 && got <= 1:
			doubts++ // it was in flight when the service was killed
		default:
			t.Errorf("line %d arrived %d times and is reported as %s", n, got, line)
		}
	}
	if n != lines {
		t.Errorf("%d results for %d lines", n, lines)
	}
	t.Logf("%d kills of submit, 2 of the service: %d requests, %d of them in doubt", kills, n, doubts)
}
