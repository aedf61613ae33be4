package integration

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sheafapi/sheaf/internal/pgtest"
	"github.com/sheafapi/sheaf/internal/strictupstream"
)

// patience limits every wait for an event. A test that reaches it fails. It is long, because a busy
// machine can take more than 30 s to start a process.
const patience = 2 * time.Minute

var logFolder = flag.String("logs", "", "the folder in which to keep the complete logs of all services")

// binary is the service's executable, built by TestMain.
var binary string

func TestMain(m *testing.M) {
	if os.Getenv(attackEnv) != "" {
		os.Exit(attackUntilEOF())
	}
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "sheaf-integration-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "sheaf")
	if err := build("-o", binary); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	flag.Parse()
	if !isFlagSet("test.parallel") {
		flag.Set("test.parallel", "8") // parallel tests mostly wait
	}
	code := pgtest.Main(m)
	if len(neighborRows) > 0 {
		printNeighbors(os.Stdout)
	}
	if len(rows) > 0 && (isFlagSet("faults") || testing.Verbose()) {
		printReport(os.Stdout)
	}
	return code
}

// build builds the service with additional arguments for go build.
func build(args ...string) error {
	args = append([]string{"build", "-C", ".."}, append(args, "./cmd/sheaf")...)
	if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("build the service: %w\n%s", err, out)
	}
	return nil
}

// service is a process of the real binary.
type service struct {
	args    []string
	base    string // http://host:port
	cmd     *exec.Cmd
	started time.Time
	ended   chan struct{} // closed when the process has ended

	mu      sync.Mutex
	log     bytes.Buffer
	changed chan struct{} // closed and replaced when log grows
}

// launch starts the binary and returns at once. The process is killed when the test ends.
func launch(t *testing.T, args ...string) *service {
	t.Helper()
	return launchBinary(t, binary, nil, args...)
}

// launchBinary is launch for any binary, with additional environment variables.
func launchBinary(t *testing.T, binary string, environ []string, args ...string) *service {
	t.Helper()
	s := &service{
		args: args, cmd: exec.Command(binary, args...),
		ended: make(chan struct{}), changed: make(chan struct{}),
	}
	s.cmd.Env = environ
	for _, entry := range os.Environ() {
		if !strings.HasPrefix(entry, "SHEAF_") {
			s.cmd.Env = append(s.cmd.Env, entry)
		}
	}
	s.cmd.Stderr = s
	s.started = time.Now()
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		s.cmd.Wait() // ProcessState has the result
		close(s.ended)
	}()
	t.Cleanup(func() {
		s.cmd.Process.Kill()
		<-s.ended
		if *logFolder != "" {
			name := fmt.Sprintf("%s-%d.log", strings.ReplaceAll(t.Name(), "/", "-"), s.cmd.Process.Pid)
			os.WriteFile(filepath.Join(*logFolder, name), []byte(s.logText()), 0o600)
		}
		if t.Failed() {
			t.Logf("the log of %s:\n%s", strings.Join(args, " "), tail(s.logText(), 2000))
		}
	})
	return s
}

// start starts sheaf serve at a free address and waits until it is ready. The database is an SQLite
// file or a PostgreSQL URL.
func start(t *testing.T, upstream, database string, args ...string) *service {
	t.Helper()
	address := freeAddress(t)
	args = append(serveArgs(address, upstream, database), args...)
	if isPostgres(database) {
		args = append(args, "--secret-key-file", newKeyFile(t))
	}
	s := launch(t, args...)
	s.base = "http://" + address
	s.waitReady(t)
	return s
}

func isPostgres(database string) bool { return strings.HasPrefix(database, "postgres:") }

// isFlagSet reports whether a flag is on the command line.
func isFlagSet(name string) (found bool) {
	flag.Visit(func(f *flag.Flag) { found = found || f.Name == name })
	return found
}

// serveArgs returns the arguments that all services have in common.
func serveArgs(address, upstream, database string) []string {
	if !isPostgres(database) {
		database = "sqlite:" + database
	}
	return []string{
		"serve", "--listen", address, "--upstream", upstream, "--database", database,
		"--retry-interval", "10ms", "--log-format", "json",
	}
}

// newKeyFile creates a file with a secret key and returns its path.
func newKeyFile(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "key")
	command(t, "secret", "new", file)
	return file
}

// onEach runs a test on each kind of database.
func onEach(t *testing.T, test func(t *testing.T, database string)) {
	t.Run("sqlite", func(t *testing.T) { test(t, filepath.Join(t.TempDir(), "sheaf.db")) })
	t.Run("postgres", func(t *testing.T) { test(t, pgtest.NewDatabase(t)) })
}

// parallel lets a test run beside others, except in make chaos, which measures durations.
func parallel(t *testing.T) {
	t.Helper()
	if *faults == 0 && *kills == 0 {
		t.Parallel()
	}
}

// restart starts another process with the same arguments and additional ones.
func (s *service) restart(t *testing.T, more ...string) *service {
	t.Helper()
	next := launch(t, append(s.args[:len(s.args):len(s.args)], more...)...)
	next.base = s.base
	next.waitReady(t)
	return next
}

// freeAddress returns an address that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := listen()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// newLedger starts a strict upstream that is closed when the test ends. It allows incomplete
// requests, because tests kill the service.
func newLedger(t *testing.T, reply func(Arrival) Reply) *Ledger {
	t.Helper()
	l, err := NewLedger(reply, func(l net.Listener) net.Listener { return strictupstream.Watch(t, l).AllowPartial() })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// newHoldingLedger starts an upstream that never answers requests whose path contains /hold.
func newHoldingLedger(t *testing.T) *Ledger {
	t.Helper()
	never := make(chan struct{})
	return newLedger(t, func(a Arrival) (r Reply) {
		if strings.Contains(a.Path, "/hold") {
			r.Until = never
		}
		return r
	})
}

// waitAnswer waits until a process that doesn't log its readiness answers at /readyz.
func (s *service) waitAnswer(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		resp, err := http.Get(s.base + "/readyz")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
		select {
		case <-s.ended:
			t.Fatal("the process has ended")
		default:
		}
		if !pause(ctx) {
			t.Fatal("no answer at /readyz")
		}
	}
}

// waitReady waits until the service logs that it is ready, and checks that /readyz agrees.
func (s *service) waitReady(t *testing.T) {
	t.Helper()
	s.await(t, `"msg":"ready"`)
	resp, err := http.Get(s.base + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("/readyz: %s", resp.Status)
	}
}

// Write appends to the log.
func (s *service) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.changed)
	s.changed = make(chan struct{})
	return s.log.Write(b)
}

// logText returns the log so far.
func (s *service) logText() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.String()
}

// await waits until the log matches the pattern.
func (s *service) await(t *testing.T, pattern string) {
	t.Helper()
	re := regexp.MustCompile(pattern)
	limit := time.After(patience)
	for over := false; ; {
		s.mu.Lock()
		found, changed := re.Match(s.log.Bytes()), s.changed
		s.mu.Unlock()
		if found {
			return
		}
		if over {
			t.Fatalf("the service ended (%v) and never logged %s:\n%s", s.cmd.ProcessState, pattern, s.logText())
		}
		select {
		case <-changed:
		case <-s.ended:
			over = true // one last look: the log is complete now
		case <-limit:
			t.Fatalf("the service never logged %s:\n%s", pattern, s.logText())
		}
	}
}

// signal sends a signal to the process.
func (s *service) signal(t *testing.T, sig os.Signal) {
	t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		t.Fatalf("%v: %v", sig, err)
	}
}

// awaitExit waits for the end of the process and returns how it ended.
func (s *service) awaitExit(t *testing.T) *os.ProcessState {
	t.Helper()
	select {
	case <-s.ended:
	case <-time.After(patience):
		t.Fatal("the service did not end")
	}
	return s.cmd.ProcessState
}

// kill9 kills the process with SIGKILL.
func (s *service) kill9(t *testing.T) {
	t.Helper()
	s.signal(t, syscall.SIGKILL)
	s.awaitExit(t)
}

// term asks the process to stop, and expects exit code 0.
func (s *service) term(t *testing.T) {
	t.Helper()
	s.signal(t, syscall.SIGTERM)
	if state := s.awaitExit(t); state.ExitCode() != 0 {
		t.Fatalf("after SIGTERM: %v", state)
	}
}

// runRefused runs the binary, expects it to refuse to start, and returns its output.
func runRefused(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, binary, args...).CombinedOutput()
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok || exit.ExitCode() < 1 {
		t.Fatalf("sheaf %s: %v, want a refusal\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// tail returns the last n bytes of s.
func tail(s string, n int) string { return s[max(0, len(s)-n):] }
