package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/sheafapi/sheaf/internal/pgtest"
)

// The databases that -database can name.
const (
	onSQLite   = "sqlite"
	onPostgres = "postgres"
)

// databasePause is the pause between two polls of the database.
const databasePause = 200 * time.Millisecond

// serverSettings are PostgreSQL's defaults for the settings that package pgtest changes for
// tests. pgtest doesn't change the settings for durability.
var serverSettings = map[string]string{"shared_buffers": "128MB", "max_wal_size": "1GB"}

// database is the database of the services of one measurement.
type database struct {
	flags []string // for sheaf serve
	url   string   // empty: SQLite
}

// goal returns the goal for the database that is measured.
func (b *bench) goal(sqlite, postgres float64) float64 {
	if b.cluster != nil {
		return postgres
	}
	return sqlite
}

// startCluster starts the PostgreSQL of this run, on the same disk as everything else.
func (b *bench) startCluster(ctx context.Context) (err error) {
	dir := filepath.Join(b.dir, "postgres")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	// The server may run as another user, who needs access to its directory.
	if err := os.Chmod(b.dir, 0o711); err != nil {
		return err
	}
	b.say("starting PostgreSQL")
	if b.cluster, err = pgtest.Start(ctx, pgtest.Options{Dir: dir, Settings: serverSettings}); err != nil {
		return err
	}
	b.key = filepath.Join(b.dir, "secret.key")
	if out, err := b.command(ctx, b.sheaf, "secret", "new", b.key).CombinedOutput(); err != nil {
		return fmt.Errorf("create a secret key: %w\n%s", err, out)
	}
	return nil
}

// stopCluster stops PostgreSQL, if it was started.
func (b *bench) stopCluster() {
	if b.cluster != nil {
		b.cluster.Close()
	}
}

// describeDatabase returns the report's description of the database.
func (b *bench) describeDatabase(ctx context.Context) (string, error) {
	if b.cluster == nil {
		return "SQLite, embedded", nil
	}
	conn, err := pgx.Connect(ctx, b.cluster.URL())
	if err != nil {
		return "", err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var text string
	err = conn.QueryRow(ctx, `SELECT format('PostgreSQL %s on this machine, fsync %s, synchronous_commit %s, full_page_writes %s, shared_buffers %s, max_wal_size %s',
		current_setting('server_version'), current_setting('fsync'), current_setting('synchronous_commit'),
		current_setting('full_page_writes'), current_setting('shared_buffers'), current_setting('max_wal_size'))`).Scan(&text)
	return text, err
}

// newDatabase returns a new, empty database. name is the base name of an SQLite file.
func (b *bench) newDatabase(ctx context.Context, name string) (database, error) {
	if b.cluster == nil {
		return database{flags: []string{"--database", "sqlite:" + filepath.Join(b.dir, name+".db")}}, nil
	}
	url, err := b.cluster.Database(ctx)
	if err != nil {
		return database{}, err
	}
	return database{flags: []string{"--database", url, "--secret-key-file", b.key}, url: url}, nil
}

// query runs a statement in the database and scans its only row.
func (d database) query(ctx context.Context, sql string, columns ...any) error {
	return d.withConn(ctx, func(c *pgx.Conn) error { return c.QueryRow(ctx, sql).Scan(columns...) })
}

// exec runs statements in the database, each in its own transaction.
func (d database) exec(ctx context.Context, statements ...string) error {
	return d.withConn(ctx, func(c *pgx.Conn) error {
		for _, sql := range statements {
			if _, err := c.Exec(ctx, sql); err != nil {
				return fmt.Errorf("%w in %s", err, sql)
			}
		}
		return nil
	})
}

// withConn calls f with a new connection.
func (d database) withConn(ctx context.Context, f func(c *pgx.Conn) error) error {
	c, err := pgx.Connect(ctx, d.url)
	if err != nil {
		return err
	}
	defer c.Close(context.WithoutCancel(ctx))
	return f(c)
}

// awaitAlone waits until there are no other connections to the database.
func (d database) awaitAlone(ctx context.Context) error {
	return d.await(ctx, `SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`)
}

// await repeats a query until it returns true.
func (d database) await(ctx context.Context, question string) error {
	return d.withConn(ctx, func(c *pgx.Conn) error {
		for {
			var yes bool
			if err := c.QueryRow(ctx, question).Scan(&yes); err != nil || yes {
				return err
			}
			if err := pause(ctx, databasePause); err != nil {
				return err
			}
		}
	})
}
