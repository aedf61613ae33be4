package integration

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/sheafapi/sheaf/internal/strictupstream"
)

// TestGeneratedClients: clients that public generators produce from openapi.yaml work with the
// service. Each program in clients/ makes the same calls and prints the results.
func TestGeneratedClients(t *testing.T) {
	t.Parallel()
	upstream, _ := strictupstream.Start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if strings.HasSuffix(r.URL.Path, "/missing") {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"id":17}`)
	}))
	t.Cleanup(upstream.Close)
	s := start(t, upstream.URL, filepath.Join(t.TempDir(), "sheaf.db"))
	description, err := filepath.Abs("../openapi/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for language, steps := range map[string][][]string{
		"typescript": {
			{"npm", "ci", "--no-audit", "--no-fund"},
			{"node_modules/.bin/openapi-typescript", description, "-o", "api.d.ts"},
			{"node_modules/.bin/tsc", "--project", "."},
			{"node", "main.js", s.base},
		},
		"python": {
			{"python3", "-m", "venv", "venv"},
			{"venv/bin/pip", "install", "--quiet", "--disable-pip-version-check", "--requirement", "requirements.txt"},
			{"venv/bin/openapi-python-client", "generate", "--path", description, "--meta", "none", "--output-path", "api", "--fail-on-warning"},
			{"venv/bin/python", "main.py", s.base},
		},
	} {
		t.Run(language, func(t *testing.T) {
			t.Parallel()
			folder := filepath.Join(t.TempDir(), language)
			if err := os.CopyFS(folder, os.DirFS(filepath.Join("clients", language))); err != nil {
				t.Fatal(err)
			}
			var printed []byte
			for _, step := range steps {
				c := exec.CommandContext(t.Context(), step[0], step[1:]...)
				c.Dir = folder
				c.Env = append(os.Environ(), "PATH="+filepath.Join(folder, "venv/bin")+":"+os.Getenv("PATH"))
				var stderr bytes.Buffer
				c.Stderr = &stderr
				out, err := c.Output()
				if printed = out; err != nil {
					t.Fatalf("%s: %v\n%s%s", strings.Join(step, " "), err, printed, stderr.Bytes())
				}
			}
			type outcome struct {
				Statuses []string
				Path     string
				Found    bool
				Ended    int
				Refused  string
			}
			var got outcome
			if err := json.Unmarshal(printed, &got); err != nil {
				t.Fatalf("%s: %v", printed, err)
			}
			want := outcome{[]string{"COMPLETED", "COMPLETED", "FAILED"}, "products/{pid}/variations", true, 2, "BATCH_NOT_FOUND"}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("%+v, want %+v", got, want)
			}
		})
	}
}
