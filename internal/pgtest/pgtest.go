// Package pgtest provides a real PostgreSQL for tests: a private server on a loopback port, with
// its data in a temporary folder. Tests can kill it and start it again. It is as durable as a
// server with default settings. On Linux the server dies with the process that started it. If
// that process is killed, the folder remains.
//
// Tests that need only a database share one server per test binary (Main, NewDatabase, Template).
// SHEAF_TEST_POSTGRES can name another server for them. Tests that break the server start their
// own (Start).
package pgtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// Options configure Start. The zero value works.
type Options struct {
	Settings map[string]string // settings in postgresql.conf, such as synchronous_commit
	Dir      string            // an empty folder, for the data; empty: a temporary one. Close removes it
}

// settings apply to every server. They are as durable as the defaults.
var settings = map[string]string{
	"listen_addresses":        "127.0.0.1",
	"unix_socket_directories": "", // none, so that nothing is shared
	"max_connections":         "200",
	"shared_buffers":          "32MB",
	"max_wal_size":            "256MB",
}

const (
	startPatience = 60 * time.Second // includes crash recovery
	stopPatience  = 30 * time.Second
	pollInterval  = 10 * time.Millisecond
)

// errForeign is the error of stopping or starting a server that the tests didn't start.
var errForeign = errors.New("SHEAF_TEST_POSTGRES names this server, and tests don't stop or start it")

// Cluster is a PostgreSQL server. Its methods may be called from many goroutines. Calls that stop
// or start it wait for each other.
type Cluster struct {
	url *url.URL // the URL of the database postgres

	// Of a private server:
	programs programs
	account  *account // the account that the server runs as; nil: the caller's
	dir      string   // empty: the tests did not start the server
	port     int
	settings []string // the server's settings, as arguments

	mu      sync.Mutex
	process *process // nil while it is down
}

// process is a running postmaster.
type process struct {
	pid    int
	exited chan struct{} // closed when it has ended
}

// Start starts a private server and waits until it accepts connections. Close it when done.
func Start(ctx context.Context, o Options) (_ *Cluster, err error) {
	c := &Cluster{dir: o.Dir}
	if c.programs, err = find(ctx); err != nil {
		return nil, err
	}
	if c.account, err = serverAccount(); err != nil {
		return nil, err
	}
	if c.dir == "" {
		if c.dir, err = os.MkdirTemp("", "sheaf-postgres-"); err != nil {
			return nil, err
		}
	}
	if err = c.begin(ctx, o); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// begin creates the data folder and starts the server for the first time.
func (c *Cluster) begin(ctx context.Context, o Options) error {
	if c.account != nil {
		if err := os.Chown(c.dir, c.account.uid, c.account.gid); err != nil {
			return err
		}
	}
	initdb := exec.CommandContext(ctx, c.programs.initdb, "-D", c.data(), "-U", "postgres", //nolint:gosec // the programs are PostgreSQL's
		"--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions")
	c.prepare(initdb)
	if out, err := initdb.CombinedOutput(); err != nil {
		return fmt.Errorf("create a PostgreSQL cluster in %s: %w\n%s", c.dir, err, out)
	}
	for name, value := range settings {
		if _, other := o.Settings[name]; !other {
			c.settings = append(c.settings, "--"+name+"="+value)
		}
	}
	for name, value := range o.Settings {
		c.settings = append(c.settings, "--"+name+"="+value)
	}
	slices.Sort(c.settings) // so that the command line is always the same
	return c.choosePort(ctx)
}

// choosePort starts the server on a free port. It tries again if another process takes the port.
func (c *Cluster) choosePort(ctx context.Context) (err error) {
	for range 5 {
		if c.port, err = freePort(); err != nil {
			return err
		}
		c.url = &url.URL{
			Scheme: "postgres", User: url.User("postgres"), Host: fmt.Sprintf("127.0.0.1:%d", c.port),
			Path: "/postgres", RawQuery: "sslmode=disable",
		}
		if err = c.Up(ctx); err == nil || !strings.Contains(err.Error(), "could not bind") {
			return err
		}
	}
	return err
}

// freePort returns a port below those of outgoing connections, so that none of them takes the port
// while the server is down.
func freePort() (int, error) {
	var err error
	for range 100 {
		port := 20000 + rand.N(12000) //nolint:gosec // a port isn't secret
		var l net.Listener
		if l, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			return port, l.Close()
		}
	}
	return 0, err
}

func (c *Cluster) data() string    { return filepath.Join(c.dir, "data") }
func (c *Cluster) logFile() string { return filepath.Join(c.dir, "log") }

// prepare sets the account, folder and environment of a PostgreSQL program.
func (c *Cluster) prepare(cmd *exec.Cmd) {
	cmd.Dir = c.dir
	cmd.SysProcAttr = attributes(c.account)
	cmd.Env = []string{"LC_ALL=C"} // messages in English
	for _, entry := range os.Environ() {
		if !strings.HasPrefix(entry, "PG") && !strings.HasPrefix(entry, "LC_") {
			cmd.Env = append(cmd.Env, entry)
		}
	}
}

// URL returns the URL of the database postgres, for the superuser.
func (c *Cluster) URL() string { return c.url.String() }

// Pid returns the process id of the postmaster. It is 0 while the server is down, or if the tests did not
// start it.
func (c *Cluster) Pid() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.alive() {
		return 0
	}
	return c.process.pid
}

// Log returns what the server has logged.
func (c *Cluster) Log() string {
	text, _ := os.ReadFile(c.logFile())
	return string(text)
}

func (c *Cluster) alive() bool {
	if c.process == nil {
		return false
	}
	select {
	case <-c.process.exited:
		return false
	default:
		return true
	}
}

// Up starts the server again after Kill or Down, on its port, and waits until it accepts
// connections.
func (c *Cluster) Up(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dir == "" {
		return errForeign
	}
	if c.alive() {
		return errors.New("PostgreSQL is up already")
	}
	logged := int64(0)
	if info, err := os.Stat(c.logFile()); err == nil {
		logged = info.Size()
	}
	p, err := c.launch()
	if err != nil {
		return fmt.Errorf("start PostgreSQL: %w", err)
	}
	c.process = p
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	for {
		err := accepts(ctx, c.URL())
		if err == nil {
			return nil
		}
		select {
		case <-p.exited:
			text, _ := os.ReadFile(c.logFile())
			return fmt.Errorf("PostgreSQL ended while it started:\n%s", text[min(logged, int64(len(text))):])
		case <-ctx.Done():
			return fmt.Errorf("PostgreSQL does not accept connections: %w", err)
		case <-time.After(pollInterval):
		}
	}
}

// accepts reports whether the server answers.
func accepts(ctx context.Context, url string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	return conn.Close(ctx)
}

// launch starts the postmaster on a thread that waits for it, so that the server dies with this process.
func (c *Cluster) launch() (*process, error) {
	out, err := os.OpenFile(c.logFile(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd := exec.Command(c.programs.postgres, slices.Concat([]string{"-D", c.data(), "-p", fmt.Sprint(c.port)}, c.settings)...) //nolint:gosec // as above
	c.prepare(cmd)
	cmd.Stdout, cmd.Stderr = out, out
	p := &process{exited: make(chan struct{})}
	started := make(chan error)
	go func() {
		dieTogether(cmd)
		err := cmd.Start()
		started <- err
		if err == nil {
			cmd.Wait() //nolint:errcheck // its log has the reason
			close(p.exited)
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	p.pid = cmd.Process.Pid
	return p, nil
}

// Down stops the server cleanly. It aborts open transactions and closes connections.
func (c *Cluster) Down() error { return c.stop(syscall.SIGINT) }

// stop sends a signal to the postmaster and waits until it has stopped.
func (c *Cluster) stop(how os.Signal) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dir == "" {
		return errForeign
	}
	if !c.alive() {
		return nil
	}
	if err := signal(c.process.pid, how); err != nil {
		return err
	}
	select {
	case <-c.process.exited:
		return nil
	case <-time.After(stopPatience):
		return fmt.Errorf("PostgreSQL did not stop within %v of %v", stopPatience, how)
	}
}

// Kill ends the server like a crash of the machine: the postmaster and all its children receive
// SIGKILL at once. None of them runs when Kill returns.
func (c *Cluster) Kill() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dir == "" {
		return errForeign
	}
	if !c.alive() {
		return nil
	}
	if err := freeze(c.process.pid); err != nil {
		return err
	}
	all, err := family(c.process.pid)
	if err != nil {
		return err
	}
	for _, pid := range all {
		signal(pid, os.Kill) //nolint:errcheck // it may have ended already
	}
	limit := time.After(stopPatience)
	for {
		select {
		case <-c.process.exited:
			if !slices.ContainsFunc(all, runs) {
				return c.removeStale()
			}
		case <-limit:
			return fmt.Errorf("PostgreSQL, processes %v, did not die", all)
		default:
		}
		<-time.After(pollInterval)
	}
}

// removeStale removes the postmaster's file. At the next start the process id in it could belong to
// another process.
func (c *Cluster) removeStale() error {
	err := os.Remove(filepath.Join(c.data(), "postmaster.pid"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// Close stops the server at once and removes its folder.
func (c *Cluster) Close() error {
	if c.dir == "" {
		return nil
	}
	err := c.stop(syscall.SIGQUIT)
	if err != nil {
		err = errors.Join(err, c.Kill())
	}
	return errors.Join(err, os.RemoveAll(c.dir))
}
