package postgres

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// versionTable is where goose notes which steps of the schema were made.
const versionTable = "sheaf_schema"

// Migrate brings the schema of a database up to date and returns its version. Any
// number of callers may do it at once, and nodes that run go on meanwhile.
func Migrate(ctx context.Context, url string) (version int64, err error) {
	config, err := configure(url, processName(), leastConnections)
	if err == nil {
		version, err = migrate(ctx, config.ConnConfig)
	}
	return version, explain(err)
}

// migrate brings the schema up to date, one caller at a time.
func migrate(ctx context.Context, config *pgx.ConnConfig) (version int64, err error) {
	c, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return 0, err
	}
	defer c.Close(context.WithoutCancel(ctx))
	if err := bePatient(ctx, c); err != nil {
		return 0, err
	}
	if err := makeLock(ctx, c); err != nil {
		return 0, fmt.Errorf("make the lock of the schema: %w", err)
	}
	err = pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SELECT id FROM sheaf_lock FOR UPDATE"); err != nil {
			return fmt.Errorf("lock the schema: %w", err)
		}
		return withGoose(config, func(p *goose.Provider) error {
			if err := refuseNewer(ctx, p); err != nil {
				return err
			}
			if _, err := p.Up(ctx); err != nil {
				return fmt.Errorf("bring the schema up to date: %w", err)
			}
			version, err = p.GetDBVersion(ctx)
			return err
		})
	})
	return version, err
}

// bePatient ends the timeouts that the server may have for everybody: one caller's
// transaction is idle while goose works beside it, and others wait for it.
func bePatient(ctx context.Context, c *pgx.Conn) error {
	_, err := c.Exec(ctx, "SET idle_in_transaction_session_timeout = 0; SET lock_timeout = 0; SET statement_timeout = 0")
	if err != nil {
		return fmt.Errorf("set a connection up: %w", err)
	}
	return nil
}

// makeLock makes the row that is locked while the schema changes. Of several that make
// the table at once, PostgreSQL lets one win and fails the others.
func makeLock(ctx context.Context, c *pgx.Conn) (err error) {
	for range 10 {
		_, err = c.Exec(ctx, `
			CREATE TABLE IF NOT EXISTS sheaf_lock (id integer PRIMARY KEY);
			INSERT INTO sheaf_lock (id) VALUES (1) ON CONFLICT DO NOTHING`)
		e, ours := errors.AsType[*pgconn.PgError](err)
		if !ours || e.Code != "23505" && e.Code != "42P07" && e.Code != "42710" && e.Code != "40001" {
			return err
		}
	}
	return err
}

func withGoose(config *pgx.ConnConfig, fn func(p *goose.Provider) error) error {
	steps, err := fs.Sub(migrationFiles, "migrations")
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectPostgres, stdlib.OpenDB(*config, stdlib.OptionAfterConnect(bePatient)), steps, goose.WithTableName(versionTable),
		goose.WithDisableGlobalRegistry(true), goose.WithLogger(goose.NopLogger()))
	if err != nil {
		return err
	}
	return errors.Join(fn(p), p.Close())
}

// lookAtSchema refuses a schema that is not this version's, and changes nothing.
func lookAtSchema(ctx context.Context, config *pgx.ConnConfig) error {
	c, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	defer c.Close(context.WithoutCancel(ctx))
	var there bool
	if err := c.QueryRow(ctx, "SELECT to_regclass($1) IS NOT NULL", versionTable).Scan(&there); err != nil {
		return err
	}
	const advice = "run sheaf migrate first, or start without --migrate=off"
	if !there {
		return errors.New("the database has no schema yet: " + advice)
	}
	return withGoose(config, func(p *goose.Provider) error {
		if err := refuseNewer(ctx, p); err != nil {
			return err
		}
		pending, err := p.HasPending(ctx)
		if err == nil && pending {
			err = errors.New("the database's schema is older than this version's: " + advice)
		}
		return err
	})
}

// refuseNewer refuses a schema that a newer version has made.
func refuseNewer(ctx context.Context, p *goose.Provider) error {
	current, target, err := p.GetVersions(ctx)
	if err == nil && current > target {
		err = fmt.Errorf("it was made by a newer version of Sheaf (schema %d; this version knows up to %d); start that version, nothing was changed", current, target)
	}
	return err
}
