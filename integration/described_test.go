package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// runClient runs steps in a copy of clients/NAME, and returns what the last one printed.
func runClient(t *testing.T, name string, steps ...[]string) string {
	t.Helper()
	folder := filepath.Join(t.TempDir(), name)
	if err := os.CopyFS(folder, os.DirFS(filepath.Join("clients", name))); err != nil {
		t.Fatal(err)
	}
	return runSteps(t, folder, steps...)
}

// runSteps runs steps in a folder, and returns what the last one printed.
func runSteps(t *testing.T, folder string, steps ...[]string) (printed string) {
	t.Helper()
	for _, step := range steps {
		c := exec.CommandContext(t.Context(), step[0], step[1:]...)
		c.Dir = folder
		out, err := c.CombinedOutput()
		if printed = string(out); err != nil {
			t.Fatalf("%s: %v\n%s", strings.Join(step, " "), err, tail(printed, 8000))
		}
	}
	return printed
}

// description returns the path of openapi.yaml.
func description(t *testing.T) string {
	t.Helper()
	path, err := filepath.Abs("../openapi/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// TestDescriptionIsValid: two linters find nothing in openapi.yaml, not even a warning.
func TestDescriptionIsValid(t *testing.T) {
	t.Parallel()
	runClient(t, "lint",
		[]string{"npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"},
		[]string{"node_modules/.bin/redocly", "lint", "--extends", "recommended-strict", description(t)},
		[]string{"node_modules/.bin/spectral", "lint", "--fail-severity", "warn", "--ruleset", "spectral.yaml", description(t)},
	)
}

// TestSchemathesis: schemathesis generates valid and invalid calls, and sequences of calls, from
// openapi.yaml. The service's answers conform to it.
func TestSchemathesis(t *testing.T) {
	t.Parallel()
	api, folder := newStage(t), t.TempDir()
	file := func(name string) string { return filepath.Join(folder, name) }
	command(t, "secret", "new", file("secret.key"))
	command(t, "webhooks", "new-secret", file("hook.key"))
	add := exec.CommandContext(t.Context(), binary, "keys", "add", "--file", file("keys.json"), "--name", "all", "--store", "*",
		"--right", "create,read,cancel,operate", "--secret-key-file", file("secret.key"))
	add.Stdin = strings.NewReader("upstream-token\n")
	key, err := add.Output()
	if err != nil {
		t.Fatal(err)
	}
	s := start(t, api.URL, file("sheaf.db"), "--secret-key-file", file("secret.key"), "--auth", "keys="+file("keys.json"), "--webhook-secret-file", file("hook.key"))
	runClient(t, "schemathesis",
		[]string{"python3", "-m", "venv", "venv"},
		[]string{"venv/bin/pip", "install", "--quiet", "--disable-pip-version-check", "--requirement", "requirements.txt"},
		[]string{
			"venv/bin/schemathesis", "run", s.base + "/openapi.yaml", "--header", "Authorization: Bearer " + strings.TrimSpace(string(key)),
			"--max-examples", "5", "--seed", "1", "--request-timeout", "60", "--no-color",
		},
	)
}

// TestGeneratedGoClient: the client that oapi-codegen generates from openapi.yaml creates, reads,
// searches, cancels and deletes.
func TestGeneratedGoClient(t *testing.T) {
	t.Parallel()
	s := start(t, newStage(t).URL, filepath.Join(t.TempDir(), "sheaf.db"))
	printed := runClient(t, "go",
		[]string{"mkdir", "sheafapi"},
		[]string{"go", "tool", "oapi-codegen", "-generate", "types,client", "-package", "sheafapi", "-o", "sheafapi/client.go", description(t)},
		[]string{"go", "run", ".", s.base},
	)
	if want := "COMPLETED COMPLETED found canceled 0 deleted 1 BATCH_NOT_FOUND\n"; printed != want {
		t.Errorf("%q, want %q", printed, want)
	}
}
