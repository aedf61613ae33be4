package sheaf

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// TestImports checks that packages import only what the table in AGENTS.md allows.
func TestImports(t *testing.T) {
	const module = "github.com/sheafapi/sheaf"
	rules := map[string][]string{
		"/internal/batch":                   {},
		"/internal/storage":                 {"/internal/batch"},
		"/internal/storage/storagetest":     {"/internal/batch", "/internal/storage"},
		"/internal/storage/internal/driver": {"/internal/batch", "/internal/storage"},
		"/internal/storage/sqlite":          {"/internal/batch", "/internal/storage", "/internal/storage/internal/driver"},
		"/internal/storage/postgres":        {"/internal/batch", "/internal/storage", "/internal/storage/internal/driver", "/internal/outage"},
		"/internal/budget":                  {},
		"/internal/outage":                  {},
		"/internal/private":                 {},
		"/internal/secret":                  {"/internal/private"},
		"/internal/audit":                   {"/internal/outage"},
		"/internal/certificate":             {},
		"/internal/auth":                    {"/internal/batch", "/internal/outbound", "/internal/private", "/internal/secret", "/internal/outage"},
		"/internal/pgtest":                  {},
		"/internal/strictupstream":          {},
		"/internal/outbound":                {"/internal/batch", "/internal/budget"},
		"/internal/governor":                {"/internal/batch", "/internal/storage", "/internal/outage"},
		"/internal/tracing":                 {},
		"/internal/telemetry":               {"/internal/batch", "/internal/storage", "/internal/engine", "/internal/outbound"},
		"/internal/admission":               {"/internal/batch"},
		"/internal/database":                {"/internal/batch", "/internal/private", "/internal/secret", "/internal/storage", "/internal/storage/sqlite", "/internal/storage/postgres"},
		"/internal/engine":                  {"/internal/batch", "/internal/storage", "/internal/budget", "/internal/cpu", "/internal/governor", "/internal/outbound", "/internal/ratelimit", "/internal/tracing", "/internal/outage"},
		"/internal/ratelimit":               {},
		"/internal/webhook":                 {"/internal/batch", "/internal/storage", "/internal/outbound", "/internal/private", "/internal/ratelimit", "/internal/outage"},
		"/internal/gate":                    {},
		"/internal/cpu":                     {"/internal/gate"},
		"/internal/inbound":                 {"/internal/gate"},
		"/internal/api":                     {"/internal/api/reply", "/internal/api/watch", "/internal/batch", "/internal/storage", "/internal/audit", "/internal/auth", "/internal/budget", "/internal/cpu", "/internal/gate", "/internal/outbound", "/internal/telemetry", "/internal/tracing", "/internal/webhook"},
		"/internal/api/reply":               {"/internal/api/watch", "/internal/batch", "/internal/budget", "/internal/gate", "/internal/storage"},
		"/internal/api/watch":               {"/internal/storage"},
		"/internal/dashboard":               {},
		"":                                  {"/internal/admission", "/internal/api", "/internal/api/watch", "/internal/audit", "/internal/auth", "/internal/batch", "/internal/cpu", "/internal/database", "/internal/engine", "/internal/governor", "/internal/outage", "/internal/outbound", "/internal/secret", "/internal/storage", "/internal/telemetry", "/internal/tracing", "/internal/webhook"},
		"/cmd/sheaf":                        {"", "/internal/batch", "/client", "/internal/auth", "/internal/certificate", "/internal/dashboard", "/internal/database", "/internal/inbound", "/internal/secret", "/internal/outbound", "/internal/private", "/internal/submit", "/internal/webhook", "/openapi"},
		"/client":                           {},
		"/internal/submit":                  {"/internal/batch", "/client", "/internal/private"},
		"/openapi":                          {},
		"/examples/store":                   {},
	}
	// Packages that open sockets, or serve them.
	sockets := []string{"net", "net/http", "crypto/tls"}
	maySocket := []string{"/client", "/internal/submit" /* http.Status… */, "/internal/outbound", "/internal/api", "/internal/api/reply", "", "/cmd/sheaf", "/internal/engine" /* http.Status… */, "/internal/pgtest" /* looks for a free port */, "/internal/strictupstream" /* serves tests */, "/internal/certificate", "/internal/inbound", "/internal/auth" /* http.Status… */, "/internal/audit" /* http.Request */, "/internal/webhook" /* the client is outbound's */, "/openapi", "/internal/dashboard", "/internal/tracing" /* http.Header */, "/internal/ratelimit" /* http.Header */, "/internal/telemetry" /* serves metrics */}

	// Packages that may import only the standard library.
	bare := []string{"/client"}

	out, err := exec.Command("go", "list", "-json=ImportPath,Imports", "./...").Output()
	if err != nil {
		t.Fatal(err)
	}
	dec := json.NewDecoder(strings.NewReader(string(out)))
	seen := map[string]bool{}
	for {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		room := strings.TrimPrefix(p.ImportPath, module)
		seen[room] = true
		allowed, known := rules[room]
		for _, i := range p.Imports {
			other, ours := strings.CutPrefix(i, module)
			switch {
			case ours && known && !slices.Contains(allowed, other):
				t.Errorf("%s imports %s", p.ImportPath, i)
			case !ours && slices.Contains(bare, room) && strings.Contains(strings.Split(i, "/")[0], "."):
				t.Errorf("%s imports %s, but may import only the standard library", p.ImportPath, i)
			case !ours && known && slices.Contains(sockets, i) && !slices.Contains(maySocket, room) && !strings.HasPrefix(room, "/examples"):
				t.Errorf("%s imports %s", p.ImportPath, i)
			}
		}
		if !known && !strings.HasPrefix(room, "/examples/") {
			t.Errorf("package %s is missing in this test and in AGENTS.md", p.ImportPath)
		}
	}
	for room := range rules {
		if !seen[room] {
			t.Errorf("package %s is gone: remove its line", module+room)
		}
	}
}
