package sheaf_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sheafapi/sheaf"
	"github.com/sheafapi/sheaf/examples/store"
	"github.com/sheafapi/sheaf/internal/webhook"
)

// block is an example of the guide, and the JSON that the example must print; nil: any output.
type block struct {
	line int
	code string
	want any
}

// fence is a block of code on a page. line is the first line of its code.
type fence struct {
	kind string // such as "sh"
	line int
	code string
}

// fences returns the blocks of code on a page.
func fences(t *testing.T, page string) (out []fence) {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	var open *fence
	var lines []string
	for i, line := range strings.Split(string(text), "\n") {
		kind, ok := strings.CutPrefix(line, "```")
		switch {
		case !ok:
			lines = append(lines, line)
		case open == nil:
			open, lines = &fence{kind: strings.TrimSpace(kind), line: i + 2}, nil
		default:
			open.code = strings.Join(lines, "\n")
			out = append(out, *open)
			open = nil
		}
	}
	return out
}

// blocks reads the examples of a page: each ```sh block, and the ```json block that it must print.
func blocks(t *testing.T, page string) (out []block) {
	t.Helper()
	for _, f := range fences(t, page) {
		switch f.kind {
		case "sh":
			out = append(out, block{line: f.line, code: f.code})
		case "json":
			if err := json.Unmarshal([]byte(f.code), &out[len(out)-1].want); err != nil {
				t.Fatalf("%s:%d: %v", page, f.line, err)
			}
		}
	}
	return out
}

// matches reports whether a value equals the one on the page, where "…" stands for anything.
func matches(got, want any) bool {
	switch want := want.(type) {
	case map[string]any:
		g, ok := got.(map[string]any)
		if !ok || len(g) != len(want) {
			return false
		}
		for name, w := range want {
			v, there := g[name]
			if !there || !matches(v, w) {
				return false
			}
		}
		return true
	case []any:
		g, ok := got.([]any)
		if !ok || len(g) != len(want) {
			return false
		}
		for i := range want {
			if !matches(g[i], want[i]) {
				return false
			}
		}
		return true
	}
	return want == "…" || got == want
}

// TestGuide runs the examples of docs/guide.md one after the other in one shell, as if a reader pasted
// them.
func TestGuide(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "hooks.secret")
	if err := webhook.CreateSecret(secret); err != nil {
		t.Fatal(err)
	}
	receiver := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer receiver.Close()
	service, err := sheaf.New(sheaf.Options{
		Webhooks: sheaf.Webhooks{SecretFile: secret, Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}},
		Upstream: sheaf.Upstream{URL: "http://in-process/api/v3/{storeId}", Handler: store.New(store.Options{})},
		Database: sheaf.Database{URL: "sqlite:" + filepath.Join(t.TempDir(), "guide.db")},
		Retries:  sheaf.Retries{Interval: 100 * time.Millisecond},
		Logger:   slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- service.Run(ctx) }()
	server := httptest.NewServer(service)
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		server.Close()
		if err := service.Close(); err != nil {
			t.Error(err)
		}
	}()

	const end = "--- end of an example ---"
	pieces := blocks(t, "docs/guide.md")
	var script strings.Builder
	fmt.Fprintf(&script, "set -e -o pipefail\nBATCH=%s/api/v3/1003/batch\nRECEIVER=%s\n", server.URL, receiver.URL)
	for _, b := range pieces {
		fmt.Fprintf(&script, "%s\necho; echo '%s'\n", b.code, end)
	}
	limited, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	shell := exec.CommandContext(limited, "bash", "-s")
	shell.Stdin = strings.NewReader(script.String())
	var stderr strings.Builder
	shell.Stderr = &stderr
	stdout, err := shell.Output()
	if err != nil {
		t.Errorf("%v\n%s", err, stderr.String())
	}
	printed := strings.Split(string(stdout), end)
	if len(printed) != len(pieces)+1 {
		t.Fatalf("only %d of %d examples ran:\n%s", len(printed)-1, len(pieces), stdout)
	}
	checked := 0
	for i, b := range pieces {
		if b.want == nil {
			continue
		}
		checked++
		var got any
		d := json.NewDecoder(strings.NewReader(printed[i]))
		if err := d.Decode(&got); err != nil {
			t.Errorf("docs/guide.md:%d printed %q: %v", b.line, printed[i], err)
			continue
		}
		if rest, err := io.ReadAll(d.Buffered()); err != nil || strings.TrimSpace(string(rest)) != "" || !matches(got, b.want) {
			want, _ := json.Marshal(b.want)
			t.Errorf("docs/guide.md:%d printed\n%s\nand the page says\n%s", b.line, strings.TrimSpace(printed[i]), want)
		}
	}
	if checked < 8 {
		t.Errorf("only %d examples have an answer to compare with", checked)
	}
}
