package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// documentTimeout limits all commands of one page.
const documentTimeout = 2 * time.Minute

// piece is a piece of a page that a reader would paste, with its expected output.
type piece struct {
	line           int
	code           string
	language, want string // text or json; empty: no expected output
}

// pieces reads the ```sh of a page, each with the ```text or ```json behind it. One
// that stands behind <!-- not run: why --> is left out.
func pieces(t *testing.T, page string) (out []piece) {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	var language string
	var lines []string
	inside, skipped, begins := false, false, 0
	for i, line := range strings.Split(string(text), "\n") {
		fence, isFence := strings.CutPrefix(line, "```")
		switch {
		case !isFence && inside:
			lines = append(lines, line)
		case !isFence:
			skipped = strings.HasPrefix(line, "<!-- not run: ") || skipped && line == ""
		case !inside:
			inside, language, lines, begins = true, fence, nil, i+2
		default:
			inside = false
			code := strings.Join(lines, "\n")
			switch {
			case skipped:
			case language == "sh":
				out = append(out, piece{line: begins, code: code})
			case (language == "text" || language == "json") && len(out) > 0:
				out[len(out)-1].language, out[len(out)-1].want = language, code
			case language == "":
				t.Errorf("%s:%d: a piece without a language that is not marked as not run", page, begins)
			}
			skipped = false
		}
	}
	return out
}

// TestDocuments runs the commands of these pages in a shell, one after the other, and compares
// their output with the page. "…" matches anything.
func TestDocuments(t *testing.T) {
	t.Parallel()
	tools := t.TempDir()
	for _, name := range []string{"./cmd/sheaf", "./examples/store/cmd/store"} {
		if out, err := exec.Command("go", "build", "-C", "..", "-o", tools+"/", name).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	for page, begun := range map[string]bool{ // whether the page starts with a running service
		"README.md":          false,
		"docs/start.md":      false,
		"docs/api.md":        true,
		"docs/operations.md": true,
	} {
		t.Run(page, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), documentTimeout)
			defer cancel()
			folder := t.TempDir()
			if err := os.Symlink(tools, filepath.Join(folder, "bin")); err != nil {
				t.Fatal(err)
			}
			addresses := strings.NewReplacer("127.0.0.1:8080", freeAddress(t), "127.0.0.1:9000", freeAddress(t), "/tmp/", folder+"/")
			script := "cd " + folder + "\n"
			if begun {
				script += addresses.Replace(`store --listen 127.0.0.1:9000 >store.log &
sheaf serve --listen 127.0.0.1:8080 --upstream 'http://127.0.0.1:9000/api/v3/{storeId}' --database sqlite:page.db 2>sheaf.log &
until curl -fs -o /dev/null http://127.0.0.1:8080/readyz; do sleep 0.1; done
export SHEAF_SERVER=http://127.0.0.1:8080 SHEAF_STORE=1003 SHEAF_TOKEN=my-token
`)
			}
			all := pieces(t, filepath.Join("..", page))
			if len(all) == 0 {
				t.Fatal("there is nothing to run")
			}
			for i, p := range all {
				script += fmt.Sprintf("{\n%s\n} >out.%d\n", addresses.Replace(p.code), i)
			}
			shell := exec.CommandContext(ctx, "bash", "-e", "-c", script)
			shell.Env = append(os.Environ(), "PATH="+tools+":"+os.Getenv("PATH"), "HOME="+folder, "SHEAF_CONTEXTS="+filepath.Join(folder, "contexts.json"))
			shell.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
			log, err := os.Create(filepath.Join(folder, "shell.log"))
			if err != nil {
				t.Fatal(err)
			}
			defer log.Close()
			shell.Stdout, shell.Stderr = log, log
			err = shell.Run()
			// Programs that the page leaves running belong to the shell's session.
			exec.Command("pkill", "-KILL", "-s", fmt.Sprint(shell.Process.Pid)).Run()
			if err != nil {
				said, _ := os.ReadFile(log.Name())
				t.Errorf("%v\n%s", err, said)
			}
			for i, p := range all {
				got, err := os.ReadFile(filepath.Join(folder, fmt.Sprintf("out.%d", i)))
				if err != nil {
					t.Errorf("%s:%d was not reached", page, p.line)
				} else if !p.printed(t, addresses.Replace(p.want), string(got)) {
					t.Errorf("%s:%d prints\n%s\nand not\n%s", page, p.line, got, p.want)
				}
			}
		})
	}
}

// printed reports whether the output of a piece matches the page.
func (p *piece) printed(t *testing.T, want, got string) bool {
	t.Helper()
	switch p.language {
	case "json":
		var g, w any
		if err := json.Unmarshal([]byte(want), &w); err != nil {
			t.Fatal(err)
		}
		return json.Unmarshal([]byte(got), &g) == nil && reflect.DeepEqual(g, w)
	case "text":
		pattern := strings.ReplaceAll(regexp.QuoteMeta(strings.TrimSpace(want)), "…", "(?s:.*)")
		return regexp.MustCompile("^" + pattern + "$").MatchString(strings.TrimSpace(got))
	}
	return true
}
