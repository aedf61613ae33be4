//go:build postgres

package pgtest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// child is the variable that makes the test binary start a server and wait for its death.
const child = "PGTEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(child) != "" {
		c, err := Start(context.Background(), Options{Dir: os.Getenv(child)})
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(c.Pid())
		select {}
	}
	os.Exit(Main(m))
}

// query returns the one value that a statement yields.
func query(t *testing.T, url, sql string) (value string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if err := conn.QueryRow(t.Context(), sql).Scan(&value); err != nil && !errors.Is(err, pgx.ErrNoRows) {
		t.Fatalf("%s: %v", sql, err)
	}
	return value
}

func newCluster(t *testing.T, o Options) *Cluster {
	t.Helper()
	c, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(c.dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("after Close, %s: %v", c.dir, err)
		}
	})
	return c
}

// TestKill checks that committed data survives a crash in every database, and that the server can be
// stopped and started in every way.
func TestKill(t *testing.T) {
	ctx := t.Context()
	c := newCluster(t, Options{Settings: map[string]string{"application_name": "told", "max_connections": "20"}})
	if got := query(t, c.URL(), "SELECT current_setting('max_connections')"); got != "20" {
		t.Errorf("max_connections is %s", got)
	}
	for _, name := range []string{"fsync", "synchronous_commit", "full_page_writes"} {
		if got := query(t, c.URL(), "SELECT current_setting('"+name+"')"); got != "on" {
			t.Errorf("%s is %s", name, got)
		}
	}
	var urls []string
	for i := range 2 {
		u, err := c.Database(ctx)
		if err != nil {
			t.Fatal(err)
		}
		urls = append(urls, u)
		query(t, u, fmt.Sprintf("CREATE TABLE kept AS SELECT 'of %d' AS value", i))
	}
	if urls[0] == urls[1] {
		t.Fatalf("twice the same database: %s", urls)
	}
	idle, err := pgx.Connect(ctx, urls[0])
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close(context.Background())
	for name, stop := range map[string]func() error{"Kill": c.Kill, "Down": c.Down} {
		all, err := family(c.Pid())
		if err != nil || len(all) < 4 {
			t.Fatalf("the postmaster and its children: %v, %v", all, err)
		}
		if err := stop(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if slices.ContainsFunc(all, runs) {
			t.Errorf("%s left processes of %v", name, all)
		}
		if err := accepts(ctx, c.URL()); err == nil || c.Pid() != 0 {
			t.Errorf("%s: it still answers", name)
		}
		if err := stop(); err != nil {
			t.Errorf("a second %s: %v", name, err)
		}
		if err := c.Up(ctx); err != nil {
			t.Fatalf("Up after %s: %v", name, err)
		}
		if err := c.Up(ctx); err == nil {
			t.Error("Up of a server that is up succeeded")
		}
		for i, u := range urls {
			if got, want := query(t, u, "SELECT value FROM kept"), fmt.Sprintf("of %d", i); got != want {
				t.Errorf("after %s, %s has %q, want %q", name, u, got, want)
			}
		}
	}
	if !strings.Contains(c.Log(), "was not properly shut down") {
		t.Errorf("Kill was no crash:\n%s", c.Log())
	}
}

// TestDiesWithParent checks that the server ends when the test binary is killed.
func TestDiesWithParent(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Log("only Linux has a way")
		return
	}
	dir, err := os.MkdirTemp("", "pgtest-") // only root can access t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), child+"="+dir)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	line, _ := bufio.NewReader(out).ReadString('\n')
	_, err = fmt.Sscan(line, &pid)
	cmd.Process.Kill()
	cmd.Wait()
	if err != nil {
		t.Fatalf("the child said %q: %v", line, err)
	}
	for limit := time.After(stopPatience); runs(pid); {
		select {
		case <-limit:
			t.Fatalf("PostgreSQL, process %d, outlived its parent", pid)
		case <-time.After(pollInterval):
		}
	}
}

// TestShared checks that tests get separate databases on one server, and that a server that the tests did not
// start can't be stopped.
func TestShared(t *testing.T) {
	var kept string
	t.Run("database", func(t *testing.T) {
		kept = NewDatabase(t)
		if kept == NewDatabase(t) {
			t.Error("twice the same database")
		}
		query(t, kept, "CREATE TABLE x AS SELECT '1'")
	})
	c, err := Shared()
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(kept)
	if err != nil {
		t.Fatal(err)
	}
	if n := query(t, c.URL(), "SELECT count(*)::text FROM pg_database WHERE datname = '"+u.Path[1:]+"'"); n != "0" {
		t.Errorf("the database still exists after its test")
	}

	t.Setenv(Environment, c.URL())
	foreign, err := named()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := foreign.Database(t.Context()); err != nil {
		t.Error(err)
	}
	for name, err := range map[string]error{"Kill": foreign.Kill(), "Down": foreign.Down(), "Up": foreign.Up(t.Context())} {
		if !errors.Is(err, errForeign) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := foreign.Close(); err != nil || c.Pid() == 0 && os.Getenv(Environment) == "" {
		t.Errorf("Close of a server that the tests did not start: %v", err)
	}
	t.Setenv(Environment, "localhost:5432")
	if _, err := named(); err == nil {
		t.Error("an address that is no URL was accepted")
	}
}

// TestMissing checks that the error says what to install.
func TestMissing(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	saved := folders
	folders = []string{t.TempDir()}
	defer func() { folders = saved }()
	_, err := Start(t.Context(), Options{})
	if err == nil || !strings.Contains(err.Error(), "apt-get install postgresql") || !strings.Contains(err.Error(), Environment) {
		t.Errorf("the error is %v", err)
	}
}
