package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sheafapi/sheaf"
	"github.com/sheafapi/sheaf/internal/private"
	"github.com/sheafapi/sheaf/openapi"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// TestHosts: a service on a loopback address answers only requests for this machine's names and those in --hosts.
func TestHosts(t *testing.T) {
	served := onlyHosts([]string{"batch.example.com"}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) }))
	for host, want := range map[string]int{
		"localhost": 200, "LOCALHOST:8080": 200, "localhost.": 200, "api.localhost:8080": 200, "127.0.0.1": 200, "127.9.9.9:8080": 200,
		"[::1]": 200, "[::1]:8080": 200, "": 200, "batch.example.com": 200, "BATCH.example.com:443": 200, "batch.example.com.": 200,
		"evil.example": 421, "evil.example:8080": 421, "localhost.evil.example": 421, "127.0.0.1.evil.example": 421,
		"evil-localhost": 421, "x.batch.example.com": 421, "10.0.0.1": 421, "[2001:db8::1]:8080": 421, "0.0.0.0:8080": 421, "2130706433": 421,
	} {
		r := httptest.NewRequest(http.MethodGet, "/healthz", nil)
		r.Host = host
		w := httptest.NewRecorder()
		served.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("host %q: %d, want %d", host, w.Code, want)
		}
		if w.Code == http.StatusOK {
			continue
		}
		var refusal struct{ ErrorMessage, ErrorCode string }
		if err := json.Unmarshal(w.Body.Bytes(), &refusal); err != nil || refusal.ErrorMessage == "" {
			t.Errorf("host %q: %s, %v", host, w.Body, err)
		}
		if row := fmt.Sprintf("| `%s` | %d |", refusal.ErrorCode, w.Code); !bytes.Contains(openapi.Document, []byte(row)) {
			t.Errorf("host %q: openapi.yaml has no row %s", host, row)
		}
	}
}

// TestSampling: the caller's sampling flag doesn't decide whether a trace is recorded here.
func TestSampling(t *testing.T) {
	provider := sdktrace.NewTracerProvider(sampler(nil)...)
	for _, flags := range []trace.TraceFlags{0, trace.FlagsSampled} {
		parent := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1, 15: 1}, SpanID: trace.SpanID{1}, TraceFlags: flags, Remote: true})
		_, span := provider.Tracer("").Start(trace.ContextWithRemoteSpanContext(context.Background(), parent), "call")
		if !span.SpanContext().IsSampled() {
			t.Errorf("a caller's flag %v decides whether the trace is recorded", flags)
		}
	}
	if sampler([]string{"OTEL_TRACES_SAMPLER=traceidratio"}) != nil {
		t.Error("OTEL_TRACES_SAMPLER is ignored")
	}
}

// TestCredentialsDirectory: settings can name files that systemd has loaded.
func TestCredentialsDirectory(t *testing.T) {
	t.Setenv("CREDENTIALS_DIRECTORY", "")
	if _, err := private.Name("$CREDENTIALS_DIRECTORY/sheaf.key"); err == nil {
		t.Error("a credential that was not loaded is accepted")
	}
	t.Setenv("CREDENTIALS_DIRECTORY", "/run/credentials/sheaf.service")
	for text, want := range map[string]string{
		"$CREDENTIALS_DIRECTORY/sheaf.key":   "/run/credentials/sheaf.service/sheaf.key",
		"${CREDENTIALS_DIRECTORY}/sheaf.key": "/run/credentials/sheaf.service/sheaf.key",
		"/etc/sheaf/sheaf.key":               "/etc/sheaf/sheaf.key",
		"$CREDENTIALS_DIRECTORYX/sheaf.key":  "$CREDENTIALS_DIRECTORYX/sheaf.key",
	} {
		if got, err := private.Name(text); got != want || err != nil {
			t.Errorf("%s: %q, %v, want %q", text, got, err, want)
		}
	}
	var a sheaf.Auth
	assign, err := setAuth(&a)("keys=$CREDENTIALS_DIRECTORY/keys.json")
	if err != nil {
		t.Fatal(err)
	}
	if assign(); a.KeysFile != "/run/credentials/sheaf.service/keys.json" {
		t.Errorf("%+v", a)
	}
}

// TestImagesByDigest: images are named by digest, and the image is built without keys.
func TestImagesByDigest(t *testing.T) {
	for file, word := range map[string]string{"Dockerfile": "FROM ", "compose.yaml": "image: "} {
		text, err := os.ReadFile(filepath.Join("..", "..", "deploy", file))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if line = strings.TrimSpace(line); strings.HasPrefix(line, word) && !strings.Contains(line, "@sha256:") {
				t.Errorf("%s: %s", file, line)
			}
		}
	}
	text, err := os.ReadFile(filepath.Join("..", "..", ".dockerignore"))
	if err != nil || !strings.Contains(string(text), "\n*\n") || !strings.Contains(string(text), "**/*.key\n") {
		t.Errorf("%s, %v", text, err)
	}
}
