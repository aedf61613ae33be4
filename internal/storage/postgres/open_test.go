//go:build postgres

package postgres

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/sheafapi/sheaf/internal/pgtest"
)

// planted is a password that must not appear in any error or log line.
const planted = "hunter2horse"

// private starts a server that the test may break. The user sheaf needs its password.
func private(t *testing.T) *pgtest.Cluster {
	t.Helper()
	dir, err := os.MkdirTemp("", "sheaf-hba-") // only root can read t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	hba := filepath.Join(dir, "hba")
	const rules = "host all sheaf 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n"
	if err := errors.Join(os.WriteFile(hba, []byte(rules), 0o644), os.Chmod(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	c, err := pgtest.Start(t.Context(), pgtest.Options{Settings: map[string]string{"hba_file": hba}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	execute(t, c.URL(), "CREATE ROLE sheaf LOGIN PASSWORD '"+planted+"'")
	return c
}

// newDatabase creates a database on a private server. It returns its URL for the user sheaf and for
// the superuser.
func newDatabase(t *testing.T, c *pgtest.Cluster) (address, root string) {
	t.Helper()
	root, err := c.Database(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	execute(t, root, "ALTER SCHEMA public OWNER TO sheaf")
	return withUser(t, root, url.UserPassword("sheaf", planted)), root
}

// set changes a setting of the whole server and waits until it applies to new connections.
func set(t *testing.T, c *pgtest.Cluster, name, value string) {
	t.Helper()
	execute(t, c.URL(), fmt.Sprintf("ALTER SYSTEM SET %s = '%s'", name, value))
	execute(t, c.URL(), "SELECT pg_reload_conf()")
	eventually(t, name+" is not "+value, func() bool {
		return number(t, c.URL(), "SELECT CASE WHEN current_setting($1) = $2 THEN 1 ELSE 0 END", name, value) == 1
	})
}

// everything describes the content of a database: its tables, the steps of its schema, and the
// number of its rows.
func everything(t *testing.T, address string) (out string) {
	t.Helper()
	c := connection(t, address)
	defer c.Close(t.Context())
	rows, _ := c.Query(t.Context(), "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' ORDER BY 1")
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range tables {
		var text string
		if err := c.QueryRow(t.Context(), "SELECT coalesce(string_agg(t::text, ' '), '') FROM "+table+" AS t").Scan(&text); err != nil {
			t.Fatal(err)
		}
		out += table + ": " + text + "\n"
	}
	return out
}

// TestRefusals: Open refuses a database in which a node can't keep its guarantees. It says what to
// do and changes nothing.
func TestRefusals(t *testing.T) {
	c := private(t)
	nothing := func(*testing.T, string) {}
	on := func(sql string) func(t *testing.T, root string) {
		return func(t *testing.T, root string) {
			t.Helper()
			config, err := pgx.ParseConfig(root)
			if err != nil {
				t.Fatal(err)
			}
			execute(t, root, strings.ReplaceAll(sql, "DB", config.Database))
		}
	}
	everywhere := func(name string) func(t *testing.T, root string) {
		return func(t *testing.T, _ string) {
			t.Helper()
			set(t, c, name, "off")
			t.Cleanup(func() { set(t, c, name, "on") })
		}
	}
	used := func(sql string) func(t *testing.T, root string) {
		return func(t *testing.T, root string) {
			t.Helper()
			db := open(t, withUser(t, root, url.UserPassword("sheaf", planted)), Options{})
			create(t, db, newBatch("s", 3))
			db.Close()
			execute(t, root, sql)
		}
	}
	as := func(change func(u *url.URL)) func(address string) string {
		return func(address string) string {
			u, _ := url.Parse(address)
			change(u)
			return u.String()
		}
	}
	for name, tt := range map[string]struct {
		make    func(t *testing.T, root string)
		address func(address string) string
		options Options
		want    string
	}{
		"a newer version's": {make: used("INSERT INTO sheaf_schema (version_id, is_applied) VALUES (9000, true)"), want: "newer version of Sheaf (schema 9000"},
		"a newer version's, left as it is": {
			make: used("INSERT INTO sheaf_schema (version_id, is_applied) VALUES (9000, true)"), options: Options{NoMigrations: true},
			want: "newer version of Sheaf (schema 9000",
		},
		"synchronous_commit off":             {make: everywhere("synchronous_commit"), want: "synchronous_commit=off"},
		"fsync off":                          {make: everywhere("fsync"), want: "fsync=off"},
		"full_page_writes off":               {make: everywhere("full_page_writes"), want: "full_page_writes=off"},
		"synchronous_commit off for it":      {make: on("ALTER DATABASE DB SET synchronous_commit = off"), want: "ALTER SYSTEM SET synchronous_commit = on"},
		"synchronous_commit off for us":      {make: on("ALTER ROLE sheaf IN DATABASE DB SET synchronous_commit = off"), want: "synchronous_commit=off"},
		"synchronous_commit off, as we said": {address: as(func(u *url.URL) { u.RawQuery += "&synchronous_commit=off" }), want: "synchronous_commit=off"},
		"no schema":                          {options: Options{NoMigrations: true}, want: "run sheaf migrate first"},
		"an old schema":                      {make: used("DELETE FROM sheaf_schema WHERE version_id > 0"), options: Options{NoMigrations: true}, want: "older than this version's: run sheaf migrate"},
		"too few connections":                {options: Options{Connections: 3}, want: "at least 4"},
		"none left":                          {make: on("ALTER ROLE sheaf CONNECTION LIMIT 1"), want: "pool_max_conns"},
		"nobody there":                       {address: as(func(u *url.URL) { u.Host = "127.0.0.1:1" }), want: "can't be reached"},
		"another password":                   {address: as(func(u *url.URL) { u.User = url.UserPassword("sheaf", planted+planted) }), want: "refuses the user or the password"},
		"no such database":                   {address: as(func(u *url.URL) { u.Path = "/nowhere" }), want: "createdb"},
		"no right to make tables":            {make: on("ALTER SCHEMA public OWNER TO postgres"), want: "make it the database's owner"},
	} {
		t.Run(name, func(t *testing.T) {
			address, root := newDatabase(t, c)
			if tt.make == nil {
				tt.make = nothing
			}
			tt.make(t, root)
			t.Cleanup(func() { execute(t, c.URL(), "ALTER ROLE sheaf CONNECTION LIMIT -1") })
			if tt.address != nil {
				address = tt.address(address)
			}
			before := everything(t, root)
			var log logs
			tt.options.Logger = log.logger()
			db, err := Open(t.Context(), address, tt.options)
			if err == nil {
				db.Close()
				t.Fatal("it was opened")
			}
			if text := err.Error(); !strings.Contains(text, tt.want) || strings.Contains(text, "\n") {
				t.Errorf("the error does not say %q in one line: %s", tt.want, text)
			}
			if strings.Contains(err.Error()+log.String(), planted) {
				t.Errorf("the password was told: %s\n%s", err, log.String())
			}
			expect(t, "the database", everything(t, root), before)
			eventually(t, "connections are left", func() bool {
				return number(t, c.URL(), "SELECT count(*) FROM pg_stat_activity WHERE usename = 'sheaf'") == 0
			})
		})
	}
}

// TestAddressErrors: an address that can't be parsed is not repeated, because any part of it may be
// the password.
func TestAddressErrors(t *testing.T) {
	for _, address := range []string{
		"postgres://u:" + planted + "%zz@h/db",
		"postgres://u:" + planted + "/x@h/db",
		"postgres://u:x#" + planted + "@h/db",
		"postgres://u:" + planted + ":x@h:bad/db",
		"postgres://u:" + planted + "@h:bad/db",
		"postgres://u:" + planted + "@h/db?sslmode=bad",
		"postgres://u:x@h/db?sslmode=bad&password=" + planted,
		"host=h password = " + planted + " port=bad",
		"host=h password='x " + planted + "' port=bad",
		`host=h password=x\ ` + planted + " port=bad",
	} {
		db, err := Open(t.Context(), address, Options{})
		if err == nil {
			db.Close()
			t.Fatalf("%s was opened", address)
		}
		if strings.Contains(err.Error(), planted) || !strings.Contains(err.Error(), "address") {
			t.Errorf("%s: %s", address, err)
		}
		if _, err := Migrate(t.Context(), address); err == nil || strings.Contains(err.Error(), planted) {
			t.Errorf("%s: %v", address, err)
		}
	}
}

// pooler starts PgBouncer in front of a database and returns the database's URL through it.
func pooler(t *testing.T, address, mode string) string {
	t.Helper()
	program, err := exec.LookPath("pgbouncer")
	if err != nil {
		program = "/usr/sbin/pgbouncer"
	}
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	dir, err := os.MkdirTemp("", "sheaf-pooler-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	password := ""
	if word, ok := u.User.Password(); ok {
		password = "password='" + word + "'"
	}
	account := "" // PgBouncer refuses to run as root
	if os.Getuid() == 0 {
		account = "user = nobody"
	}
	config := fmt.Sprintf(`[databases]
* = host=%s port=%s user=%s %s
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = any
pool_mode = %s
%s
`, u.Hostname(), u.Port(), u.User.Username(), password, port, mode, account)
	file := filepath.Join(dir, "pgbouncer.ini")
	if err := errors.Join(os.WriteFile(file, []byte(config), 0o644), os.Chmod(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	var log logs
	cmd := exec.Command(program, file)
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	u.Host = fmt.Sprintf("127.0.0.1:%d", port)
	eventually(t, "PgBouncer does not answer", func() bool {
		c, err := pgx.Connect(t.Context(), u.String())
		if err == nil {
			c.Close(t.Context())
		}
		return err == nil
	})
	return u.String()
}

// TestPoolerOfTransactions: a pooler that gives each transaction another session is refused,
// whether it is idle or busy with other clients' transactions.
func TestPoolerOfTransactions(t *testing.T) {
	root := pgtest.NewDatabase(t)
	address := pooler(t, root, "transaction")
	for _, clients := range []int{0, 3} {
		for range clients {
			c := connection(t, address)
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				for {
					if _, err := c.Exec(t.Context(), "SELECT pg_sleep(0.001)"); err != nil {
						return
					}
				}
			}()
			t.Cleanup(func() { // t.Context has ended
				<-ended
				c.Close(t.Context())
			})
		}
		for range 5 {
			db, err := Open(t.Context(), address, Options{})
			if err == nil {
				db.Close()
				t.Fatalf("it was opened, with %d other clients", clients)
			}
			if !strings.Contains(err.Error(), "pool_mode = session") {
				t.Fatalf("the error does not say what to do: %s", err)
			}
		}
	}
	expect(t, "the database", everything(t, root), "")
}

// TestPoolerOfSessions: a pooler that gives each client its own session is accepted.
func TestPoolerOfSessions(t *testing.T) {
	root := pgtest.NewDatabase(t)
	address := pooler(t, root, "session")
	var log logs
	a, b := open(t, address, Options{Logger: log.logger()}), open(t, root, Options{})
	x := newBatch("s", 1)
	c := claimed(t, a, x)
	authorize(t, a, c)
	if _, err := a.Finish(t.Context(), c, nil, "", false); err != nil {
		t.Fatal(err)
	}
	woken := watch(t, a).woken
	acquaint(t, b)
	b.Offer(c.Queue)
	expect(t, "the queue that was offered", receive(t, woken), c.Queue)
	expect(t, "warnings", log.String(), "")
}
