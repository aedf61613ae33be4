//go:build postgres

package postgres

import (
	"context"
	"fmt"
	"io/fs"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/sheafapi/sheaf/internal/pgtest"
)

// TestSteps checks the rules for the steps of the schema. See migrationFiles.
func TestSteps(t *testing.T) {
	names, err := fs.Glob(migrationFiles, "migrations/*.sql")
	if err != nil || len(names) < 19 {
		t.Fatal(names, err)
	}
	comment := regexp.MustCompile(`(?m)--.*$`)
	function := regexp.MustCompile(`(?s)\$\$.*?\$\$`)
	for _, name := range names[6:] {
		text, err := fs.ReadFile(migrationFiles, name)
		if err != nil {
			t.Fatal(err)
		}
		up, _, _ := strings.Cut(string(text), "-- +goose Down")
		statements := strings.ToUpper(function.ReplaceAllString(comment.ReplaceAllString(up, ""), ""))
		if n := strings.Count(statements, ";"); n != 1 {
			t.Errorf("%s has %d statements, want 1", name, n)
		}
		if !strings.Contains(statements, "INDEX") {
			continue
		}
		if !concurrentIndex.Match(text) || !strings.HasPrefix(up, "-- +goose NO TRANSACTION\n") {
			t.Errorf("%s must build its index with NO TRANSACTION and CREATE INDEX CONCURRENTLY IF NOT EXISTS", name)
		}
	}
}

// impatient gives up soon.
var impatient = patience{lock: 50 * time.Millisecond, index: 50 * time.Millisecond, step: 300 * time.Millisecond, turn: 300 * time.Millisecond, pause: 50 * time.Millisecond}

// later returns the migrator of a version that has more steps than this one.
func later(t *testing.T, url string, more ...string) *migrator {
	t.Helper()
	files := fstest.MapFS{}
	names, err := fs.Glob(migrationFiles, "migrations/*.sql")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		text, err := fs.ReadFile(migrationFiles, name)
		if err != nil {
			t.Fatal(err)
		}
		files[strings.TrimPrefix(name, "migrations/")] = &fstest.MapFile{Data: text}
	}
	for i, text := range more {
		files[fmt.Sprintf("%03d_later.sql", len(names)+1+i)] = &fstest.MapFile{Data: []byte(text)}
	}
	return migratorOf(t, url, files)
}

func migratorOf(t *testing.T, url string, files fs.FS) *migrator {
	t.Helper()
	config, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	m, err := newMigratorOf(config, files)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

const (
	widen = "-- +goose Up\nALTER TABLE batches ADD COLUMN later text NOT NULL DEFAULT '';\n"
	index = "-- +goose NO TRANSACTION\n-- +goose Up\nCREATE INDEX CONCURRENTLY IF NOT EXISTS batches_later ON batches (total);\n"
)

// TestMigrationBehindOthers: a transaction that reads the tables, such as a dump, delays a step.
// Nodes' calls don't wait for the step. If the step gives up, it names the transaction that it
// waited for. Once that has ended, the step succeeds.
func TestMigrationBehindOthers(t *testing.T) {
	for what, step := range map[string]string{"a column": widen, "an index": index} {
		t.Run(what, func(t *testing.T) {
			url := pgtest.NewDatabase(t)
			db := open(t, url, Options{timing: &still})
			create(t, db, newBatch("s", 1))
			reader := connection(t, url)
			defer reader.Close(t.Context())
			read(t, reader, "SET application_name = 'the nightly dump'; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM batches")

			m := later(t, url, step)
			m.patience = impatient
			before := m.target() - 1
			version, err := m.migrate(t.Context())
			if err == nil || version != before || !strings.Contains(err.Error(), "the nightly dump") || !strings.Contains(err.Error(), fmt.Sprint("step ", m.target())) {
				t.Errorf("got %d, %v; want an error that names the one it waited for", version, err)
			}

			m.step, m.lock, m.index = time.Hour, time.Second, time.Second
			made := make(chan error, 1)
			go func() {
				_, err := m.migrate(context.WithoutCancel(t.Context()))
				made <- err
			}()
			eventually(t, "the step waits for nobody", func() bool {
				return number(t, url, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND cardinality(pg_blocking_pids(pid)) > 0") > 0
			})
			create(t, db, newBatch("t", 1)) // fails if it waits for longer than a call may take
			read(t, reader, "COMMIT")
			if err := <-made; err != nil {
				t.Error(err)
			}
			expect(t, "steps made", number(t, url, "SELECT max(version_id) FROM sheaf_schema"), int(m.target()))
			expect(t, "invalid indexes", number(t, url, "SELECT count(*) FROM pg_index WHERE NOT indisvalid"), 0)
		})
	}
}

func read(t *testing.T, c *pgx.Conn, sql string) {
	t.Helper()
	if _, err := c.Exec(t.Context(), sql, pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatal(err)
	}
}

// TestMigrationBehindOldWaiter: nodes of earlier versions wait for the schema lock in a statement,
// which has a snapshot. An index is still built.
func TestMigrationBehindOldWaiter(t *testing.T) {
	url := pgtest.NewDatabase(t)
	open(t, url, Options{timing: &still})
	ours := connection(t, url)
	defer ours.Close(t.Context())
	read(t, ours, "BEGIN; SELECT id FROM sheaf_lock FOR UPDATE")
	waiter := connection(t, url)
	defer waiter.Close(t.Context())
	waited := make(chan error, 1)
	go func() {
		_, err := waiter.Exec(context.WithoutCancel(t.Context()), "BEGIN; SELECT id FROM sheaf_lock FOR UPDATE; COMMIT", pgx.QueryExecModeSimpleProtocol)
		waited <- err
	}()
	eventually(t, "nobody waits", func() bool {
		return number(t, url, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND cardinality(pg_blocking_pids(pid)) > 0") > 0
	})
	m := later(t, url, index)
	m.index, m.pause = 300*time.Millisecond, 50*time.Millisecond
	made := make(chan error, 1)
	go func() {
		_, err := m.migrate(context.WithoutCancel(t.Context()))
		made <- err
	}()
	read(t, ours, "COMMIT")
	if err := <-waited; err != nil {
		t.Error(err)
	}
	if err := <-made; err != nil {
		t.Error(err)
	}
}

// TestUnfinishedIndex: the remains of an index after a crash are removed, and the index is built.
func TestUnfinishedIndex(t *testing.T) {
	url := pgtest.NewDatabase(t)
	open(t, url, Options{timing: &still})
	execute(t, url, `CREATE INDEX batches_later ON batches (parallel);
		UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'batches_later'::regclass`)
	if _, err := later(t, url, index).migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	expect(t, "the index is valid and the step's", number(t, url, "SELECT count(*) FROM pg_index WHERE indexrelid = 'batches_later'::regclass AND indisvalid AND pg_get_indexdef(indexrelid) LIKE '%(total)%'"), 1)
}

// TestResumedMigration: a migration that ended after any of its steps is resumed there, even if the
// step was made but not recorded.
func TestResumedMigration(t *testing.T) {
	url := pgtest.NewDatabase(t)
	whole := later(t, url)
	for n := 1; n <= int(whole.target()); n++ {
		files := fstest.MapFS{}
		for i := range n {
			name := fmt.Sprintf("%03d_step.sql", i+1)
			files[name] = &fstest.MapFile{Data: []byte(whole.schema.Step(int64(i + 1)))}
		}
		m := migratorOf(t, url, files)
		if version, err := m.migrate(t.Context()); err != nil || version != int64(n) {
			t.Fatal(n, version, err)
		}
		if whole.indexOf(int64(n)) != "" { // the index is built outside a transaction
			execute(t, url, fmt.Sprintf("DELETE FROM sheaf_schema WHERE version_id = %d", n))
			if version, err := m.migrate(t.Context()); err != nil || version != int64(n) {
				t.Fatal(n, version, err)
			}
		}
	}
	create(t, open(t, url, Options{NoMigrations: true, timing: &still}), newBatch("s", 1))
}

// TestNewerSchema: this version works with a schema that a newer one has expanded. It refuses a
// schema that it doesn't know, or from which a newer version has removed something that it needs.
func TestNewerSchema(t *testing.T) {
	url := pgtest.NewDatabase(t)
	first := open(t, url, Options{timing: &still})
	newer := later(t, url, widen, index)
	if _, err := newer.migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	x := newBatch("s", 1)
	create(t, first, x)
	for _, o := range []Options{{timing: &still}, {NoMigrations: true, timing: &still}} {
		db := open(t, url, o)
		expect(t, "outcome", outcome(t, db, x), "QUEUED")
		create(t, db, newBatch("s", 1))
	}
	expect(t, "steps that are noted", number(t, url, "SELECT max(version_id) FROM sheaf_schema"), int(newer.target()))

	const contract = "-- +goose Up\n-- needs: 999\nALTER TABLE batches DROP COLUMN later;\n"
	if _, err := later(t, url, widen, index, contract).migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, o := range []Options{{}, {NoMigrations: true}} {
		db, err := Open(t.Context(), url, o)
		if err == nil {
			db.Close()
		}
		if err == nil || !strings.Contains(err.Error(), "newer version of Sheaf") || !strings.Contains(err.Error(), "before schema 999") {
			t.Errorf("got %v", err)
		}
	}
}
