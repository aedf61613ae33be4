package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sheafapi/sheaf/internal/strictupstream"

	"github.com/creack/pty"
)

// terminal is a command running in a terminal.
type terminal struct {
	cmd  *exec.Cmd
	tty  *os.File
	over chan struct{}

	mu  sync.Mutex
	out bytes.Buffer
}

// inTerminal starts sheaf in a terminal of its own.
func inTerminal(t *testing.T, dir string, columns uint16, env []string, args ...string) *terminal {
	t.Helper()
	c := exec.Command("sheaf", args...)
	c.Dir, c.Env = dir, append(os.Environ(), append([]string{"TERM=xterm-256color"}, env...)...)
	tty, err := pty.StartWithSize(c, &pty.Winsize{Rows: 10, Cols: columns})
	if err != nil {
		t.Fatal(err)
	}
	x := &terminal{cmd: c, tty: tty, over: make(chan struct{})}
	go func() {
		defer close(x.over)
		_, _ = io.Copy(x, tty) // ends with the command
	}()
	t.Cleanup(func() {
		_ = c.Process.Kill()
		_ = tty.Close()
	})
	return x
}

func (x *terminal) Write(p []byte) (int, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.out.Write(p)
}

func (x *terminal) text() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.out.String()
}

// await waits until the terminal shows the pattern.
func (x *terminal) await(t *testing.T, pattern string) {
	t.Helper()
	re := regexp.MustCompile(pattern)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !re.MatchString(x.text()); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("the terminal never showed %s:\n%q", pattern, x.text())
		}
	}
}

// exit waits until the command ends and returns its exit code.
func (x *terminal) exit(t *testing.T) int {
	t.Helper()
	select {
	case <-x.over:
	case <-time.After(patience):
		t.Fatalf("the command does not end:\n%q", x.text())
	}
	_ = x.cmd.Wait()
	return x.cmd.ProcessState.ExitCode()
}

// TestTerminal: a live progress bar is shown until Ctrl-C interrupts the submission. It is resumed in a
// narrower terminal without colors.
func TestTerminal(t *testing.T) {
	dir := t.TempDir()
	gate := make(chan struct{})
	upstream, _ := strictupstream.Start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if r.URL.Path == "/hold/1300" {
			select {
			case <-gate:
			case <-r.Context().Done():
			}
		}
		if r.URL.Path == "/hold/7" {
			http.Error(w, "no", http.StatusConflict)
		}
	}))
	defer upstream.Close()
	service := startService(t, dir, upstream.URL)
	var calls strings.Builder
	for i := range 1500 {
		fmt.Fprintf(&calls, "{\"method\":\"PUT\",\"path\":\"/hold/%d\"}\n", i)
	}
	if err := os.WriteFile(filepath.Join(dir, "calls.ndjson"), []byte(calls.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	env := []string{"SHEAF_SERVER=" + service, "SHEAF_STORE=1", "SHEAF_TOKEN=t0ken", "SHEAF_CONTEXTS=" + filepath.Join(dir, "none")}

	x := inTerminal(t, dir, 120, env, "submit", "calls.ndjson")
	x.await(t, `1,300 of 1,500 .*━.*87 %.*\x1b\[31m · 1 failed\x1b\[0m · [0-9.,]+/s`)
	if strings.Contains(x.text(), " requests, ") {
		t.Errorf("the bar is not the only output: %q", x.text())
	}
	if _, err := x.tty.WriteString("\x03"); err != nil { // Ctrl-C
		t.Fatal(err)
	}
	if code := x.exit(t); code != exitInterrupted {
		t.Fatalf("exit code %d: %q", code, x.text())
	}
	x.await(t, `sheaf: interrupted; 1,300 of 1,500 requests have ended, .*\r\n  continue: sheaf submit calls.ndjson --resume\r\n`)

	x = inTerminal(t, dir, 60, append(env, "NO_COLOR=1"), "submit", "calls.ndjson", "--resume")
	x.await(t, `1,300 of 1,500 `)
	close(gate)
	if code := x.exit(t); code != exitSomeFailed {
		t.Fatalf("exit code %d: %q", code, x.text())
	}
	x.await(t, `1,500 of 1,500 .*100 %`)
	x.await(t, `1,500 requests in 3 batches: 1,499 completed, 1 failed, 0 not executed`)
	x.await(t, ` 1 × 409 Conflict \(first: line 8\)`)
	if strings.Contains(x.text(), "\x1b[31m") {
		t.Errorf("the output is colored although NO_COLOR is set: %q", x.text())
	}
}

// TestTerminalThrottled: the bar shows that Sheaf waits because the API asked it to.
func TestTerminalThrottled(t *testing.T) {
	waits(t, `waiting [0-9ms]+ for the API`, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "600")
		w.WriteHeader(http.StatusTooManyRequests)
	})
}

// TestTerminalOutage: the bar shows that Sheaf waits because the API is unavailable.
func TestTerminalOutage(t *testing.T) {
	waits(t, `waiting for the API since [0-9:]+`, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
}

// waits submits a request to the upstream, and checks what the bar says.
func waits(t *testing.T, says string, upstreamHandler http.HandlerFunc) {
	t.Helper()
	dir := t.TempDir()
	upstream, _ := strictupstream.Start(t, upstreamHandler)
	defer upstream.Close()
	service := startService(t, dir, upstream.URL)
	if err := os.WriteFile(filepath.Join(dir, "calls.ndjson"), []byte(`{"method":"GET","path":"/a"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	x := inTerminal(t, dir, 120, []string{"SHEAF_SERVER=" + service, "SHEAF_STORE=1", "SHEAF_TOKEN=t0ken", "SHEAF_CONTEXTS=" + filepath.Join(dir, "none")}, "submit", "calls.ndjson")
	x.await(t, `0 of 1 .*0 % · `+says)
	if _, err := x.tty.WriteString("\x03"); err != nil { // Ctrl-C
		t.Fatal(err)
	}
	if code := x.exit(t); code != exitInterrupted {
		t.Fatalf("exit code %d: %q", code, x.text())
	}
}

// TestLogin: a token isn't shown while it is typed.
func TestLogin(t *testing.T) {
	dir := t.TempDir()
	x := inTerminal(t, dir, 80, []string{"SHEAF_CONTEXTS=" + filepath.Join(dir, "contexts.json")}, "login", "--store", "1", "--no-check")
	x.await(t, "Token: ")
	if _, err := x.tty.WriteString("s3cret\r"); err != nil {
		t.Fatal(err)
	}
	if code := x.exit(t); code != exitOK {
		t.Fatalf("exit code %d: %q", code, x.text())
	}
	stored, err := os.ReadFile(filepath.Join(dir, "contexts.json"))
	if err != nil || !bytes.Contains(stored, []byte(`"s3cret"`)) || strings.Contains(x.text(), "s3cret") {
		t.Errorf("%s, %v; shown: %q", stored, err, x.text())
	}
}

// startService starts sheaf serve and returns its address.
func startService(t *testing.T, dir, upstream string) string {
	t.Helper()
	p := &process{cmd: exec.Command("sheaf", "serve", "--listen", "127.0.0.1:0", "--log-format", "json", "--upstream", upstream, "--database", "sqlite:"+filepath.Join(dir, "b.db")), ended: make(chan struct{})}
	p.more = sync.NewCond(&p.mu)
	p.cmd.Stderr = p
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go p.wait()
	t.Cleanup(func() {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		<-p.ended
	})
	address := p.logged(`"msg":"listening","address":"([^"]+)"`)
	if address == "" {
		t.Fatalf("the service does not start:\n%s", p.log.Bytes())
	}
	return "http://" + address
}

// TestTop: in a terminal the view is live, shows when the service does not answer, and ends with q.
func TestTop(t *testing.T) {
	var down atomic.Bool
	var n atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if down.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		_, _ = fmt.Fprintf(w, `{"at":%q,"nodes":[{"name":"sheaf-a","self":true,"stores":3}],"stores":{"withWork":%d,"deepest":[],"slowest":[
			{"store":"1003","unfinishedBatches":12,"atWork":true},{"store":"1004","unfinishedBatches":1,"paused":true},
			{"store":"1005","unfinishedBatches":1,"waitingFor":"credential","waitingSince":"2026-01-02T03:04:05.000Z"}]},
			"node":{"upstream":{"codes":{"5xx":7},"outageSince":"2026-01-02T03:04:05.000Z","storesParked":2}}}`,
			time.Now().UTC().Format(time.RFC3339), n.Add(1))
	}))
	t.Cleanup(server.Close)
	x := inTerminal(t, t.TempDir(), 100, []string{"SHEAF_TOKEN=key"}, "top", "--server", server.URL, "--every", "100ms")
	if err := pty.Setsize(x.tty, &pty.Winsize{Rows: 30, Cols: 100}); err != nil {
		t.Fatal(err)
	}
	x.await(t, `1003 +12`)
	x.await(t, `5xx 7`)
	x.await(t, `paused`)
	x.await(t, `waiting for a new token since 2026-01-0\d \d`)
	x.await(t, `the API is unavailable since .*; 2 stores are waiting`)
	down.Store(true)
	x.await(t, `no answer since`)
	if _, err := x.tty.WriteString("q"); err != nil {
		t.Fatal(err)
	}
	if code := x.exit(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if !strings.Contains(x.text(), "\x1b[?1049l") {
		t.Error("the terminal's original screen is not restored")
	}
}
