package integration

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestPrometheus: the alerts pass their tests. Every expression of the alerts and of the Grafana
// dashboard is valid and uses metrics that the service exports. Each alert has a section in the
// documentation.
func TestPrometheus(t *testing.T) {
	t.Parallel()
	promtool := func(args ...string) {
		t.Helper()
		c := exec.CommandContext(t.Context(), "promtool", args...)
		c.Dir = "../deploy/prometheus"
		if out, err := c.CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	promtool("check", "rules", "alerts.yaml")
	promtool("check", "config", "prometheus.yaml")
	promtool("test", "rules", "alerts_test.yaml")

	rules, err := os.ReadFile("../deploy/prometheus/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	expressions := panels(t)
	check := "groups:\n- name: panels\n  rules:\n"
	for i, e := range expressions {
		e = strings.NewReplacer("$__rate_interval", "1m", "$instance", "x").Replace(e)
		check += fmt.Sprintf("  - record: panel:%d\n    expr: %s\n", i, quoteJSON(e))
	}
	file := filepath.Join(t.TempDir(), "panels.yaml")
	if err := os.WriteFile(file, []byte(check), 0o600); err != nil {
		t.Fatal(err)
	}
	promtool("check", "rules", file)

	api := newStage(t)
	s := start(t, api.URL, filepath.Join(t.TempDir(), "sheaf.db"), "--max-database", "1GiB")
	s.createBatch(t, "", "GET /fine")
	s.await(t, `"batch ended"`)
	resp, err := http.Get(s.base + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	metrics, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	lint := exec.CommandContext(t.Context(), "promtool", "check", "metrics")
	lint.Stdin = strings.NewReader(string(metrics))
	if out, err := lint.CombinedOutput(); err != nil {
		t.Errorf("metric names: %v\n%s", err, out)
	}
	metric := regexp.MustCompile(`\b(?:sheaf|http_server|process)_\w+`)
	suffix := regexp.MustCompile(`_(?:bucket|count|sum)$`)
	for _, name := range metric.FindAllString(strings.Join(expressions, "\n")+string(rules), -1) {
		base := suffix.ReplaceAllString(name, "")
		if !strings.Contains(string(metrics), "# TYPE "+base+" ") && !strings.Contains(string(metrics), "# TYPE "+name+" ") {
			t.Errorf("%s is used, but the service doesn't export it", name)
		}
	}
	tested, err := os.ReadFile("../deploy/prometheus/alerts_test.yaml")
	if err != nil {
		t.Fatal(err)
	}
	alerts := regexp.MustCompile(`(?m)^ +- alert: (\w+)$`).FindAllStringSubmatch(string(rules), -1)
	for _, alert := range alerts {
		if !strings.Contains(string(tested), `alertname="`+alert[1]+`"`) {
			t.Errorf("no test makes the alert %s fire", alert[1])
		}
	}
	if n := strings.Count(string(rules), "runbook: docs/operations.md#"); n != len(alerts) {
		t.Errorf("%d alerts link to %d sections", len(alerts), n)
	}
}

// panels returns the expressions of the Grafana dashboard.
func panels(t *testing.T) (out []string) {
	t.Helper()
	text, err := os.ReadFile("../deploy/grafana/sheaf.json")
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		Panels []struct{ Targets []struct{ Expr string } }
	}
	if err := json.Unmarshal(text, &board); err != nil {
		t.Fatal(err)
	}
	for _, p := range board.Panels {
		for _, target := range p.Targets {
			out = append(out, target.Expr)
		}
	}
	if len(out) < 20 {
		t.Fatalf("the dashboard has %d expressions", len(out))
	}
	return out
}

// TestTracesOfTheBinary: OpenTelemetry's environment variables turn traces on and off. The remaining
// spans are sent at shutdown. A missing collector is logged and has no other effect.
func TestTracesOfTheBinary(t *testing.T) {
	t.Parallel()
	api := newStage(t)
	got := make(chan string, 100)
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		got <- r.URL.Path + " " + string(body)
	}))
	t.Cleanup(collector.Close)
	run := func(environ []string) *service {
		t.Helper()
		address := freeAddress(t)
		s := launchBinary(t, binary, environ, serveArgs(address, api.URL, filepath.Join(t.TempDir(), "sheaf.db"))...)
		s.base = "http://" + address
		s.waitReady(t)
		s.createBatch(t, "", "GET /fine")
		s.await(t, `"batch ended"`)
		s.term(t)
		return s
	}
	for name, environ := range map[string][]string{
		"sheaf": {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=" + collector.URL + "/v1/traces"},
		"mine":  {"OTEL_EXPORTER_OTLP_ENDPOINT=" + collector.URL, "OTEL_SERVICE_NAME=mine"},
	} {
		run(environ)
		all := ""
		for len(got) > 0 {
			all += <-got
		}
		for _, want := range []string{"/v1/traces ", "batch run", "batch queue", "POST /api/v3/{storeId}/batch", name} {
			if !strings.Contains(all, want) {
				t.Errorf("%s: %q was not sent", name, want)
			}
		}
	}
	endpoint := "OTEL_EXPORTER_OTLP_ENDPOINT=" + collector.URL
	run([]string{"OTEL_TRACES_EXPORTER=otlp", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=" + collector.URL + "/mine", "OTEL_TRACES_SAMPLER=always_on"})
	if len(got) == 0 {
		t.Error("OTEL_TRACES_EXPORTER=otlp sends no traces")
	}
	for len(got) > 0 {
		<-got
	}
	run(nil)
	run([]string{endpoint, "OTEL_TRACES_EXPORTER=none"})
	run([]string{endpoint, "OTEL_TRACES_SAMPLER=always_off"})
	run([]string{endpoint, "OTEL_TRACES_SAMPLER=traceidratio", "OTEL_TRACES_SAMPLER_ARG=0"})
	run([]string{endpoint, "OTEL_SDK_DISABLED=true"})
	if len(got) > 0 {
		t.Error("traces are sent although they are off")
	}
	away := run([]string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://" + freeAddress(t)})
	away.await(t, "traces can't be sent")
}
