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

// documentTimeout limits the time of all commands of one page together.
const documentTimeout = 2 * time.Minute

// docExample is an example that a reader would paste into a shell, with its expected output.
type docExample struct {
	line           int
	code           string
	language, want string // text or json; empty: no expected output
}

// readExamples returns the sh blocks of a page, each with the text or json block that follows it.
// A block after <!-- not run: REASON --> is skipped.
func readExamples(t *testing.T, page string) (out []docExample) {
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
				out = append(out, docExample{line: begins, code: code})
			case (language == "text" || language == "json") && len(out) > 0:
				out[len(out)-1].language, out[len(out)-1].want = language, code
			case language == "":
				t.Errorf("%s:%d: this block has no language and isn't marked as not run", page, begins)
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
	for page, needsService := range map[string]bool{ // whether the page assumes a running service
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
			if needsService {
				script += addresses.Replace(`store --listen 127.0.0.1:9000 >store.log &
sheaf serve --listen 127.0.0.1:8080 --upstream 'http://127.0.0.1:9000/api/v3/{storeId}' --database sqlite:page.db 2>sheaf.log &
until curl -fs -o /dev/null http://127.0.0.1:8080/readyz; do sleep 0.1; done
export SHEAF_SERVER=http://127.0.0.1:8080 SHEAF_STORE=1003 SHEAF_TOKEN=my-token
`)
			}
			all := readExamples(t, filepath.Join("..", page))
			if len(all) == 0 {
				t.Fatal("the page has no examples")
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
			// This also ends the programs that the page left running: they belong to the shell's session.
			exec.Command("pkill", "-KILL", "-s", fmt.Sprint(shell.Process.Pid)).Run()
			if err != nil {
				said, _ := os.ReadFile(log.Name())
				t.Errorf("%v\n%s", err, said)
			}
			for i, p := range all {
				got, err := os.ReadFile(filepath.Join(folder, fmt.Sprintf("out.%d", i)))
				if err != nil {
					t.Errorf("%s:%d was not reached", page, p.line)
				} else if !p.isExpected(t, addresses.Replace(p.want), string(got)) {
					t.Errorf("%s:%d prints\n%s\ninstead of\n%s", page, p.line, got, p.want)
				}
			}
		})
	}
}

// isExpected reports whether the output of an example matches the page.
func (p *docExample) isExpected(t *testing.T, want, got string) bool {
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
