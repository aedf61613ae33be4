package postgres

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"regexp"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/sheafapi/sheaf/internal/storage/internal/driver"
)

// The steps of the schema. From the seventh on, each step is a single statement, so that a crash
// can only happen between two steps. A step must not disturb running nodes:
//
//   - It expands the schema, so that nodes of the previous version can still use the existing parts.
//   - It builds an index with CREATE INDEX CONCURRENTLY IF NOT EXISTS and NO TRANSACTION.
//   - If it contracts the schema (drops or changes something that an older version uses), it is
//     part of a later release than the step that made this part unused. A line "-- needs: N" says
//     that only versions that know step N can use the schema from then on.
//
// TestSteps checks these rules.
//
//go:embed migrations/*.sql
var migrationFiles embed.FS

// versionTable is the table in which goose records the steps that were made.
const versionTable = "sheaf_schema"

// patience is the limits on how long a change of the schema waits.
type patience struct {
	lock  time.Duration // for one attempt to lock a table; every call on that table waits for it
	index time.Duration // for one attempt to build an index; no call waits for it
	step  time.Duration // for all attempts at a step
	turn  time.Duration // for changes by other nodes
	pause time.Duration // maximum pause between two attempts, before jitter
}

var usualPatience = patience{lock: time.Second, index: 30 * time.Second, step: 2 * time.Minute, turn: 10 * time.Minute, pause: 5 * time.Second}

// migrationPause is the first pause between two attempts.
const migrationPause = 200 * time.Millisecond

// migrator brings the schema of a database up to date.
type migrator struct {
	patience
	config *pgx.ConnConfig
	files  fs.FS
	schema driver.Schema
}

func newMigrator(config *pgx.ConnConfig) (*migrator, error) {
	files, err := fs.Sub(migrationFiles, "migrations")
	if err != nil {
		return nil, err
	}
	return newMigratorOf(config, files)
}

// newMigratorOf returns a migrator for the schema that the files describe.
func newMigratorOf(config *pgx.ConnConfig, files fs.FS) (*migrator, error) {
	schema, err := driver.ReadSchema(files)
	return &migrator{patience: usualPatience, config: config, files: files, schema: schema}, err
}

// Migrate brings the schema of a database up to date and returns its version. It may be called
// concurrently, and while nodes run.
func Migrate(ctx context.Context, url string) (version int64, err error) {
	config, err := configure(url, processName(), leastConnections)
	if err == nil {
		version, err = migrate(ctx, config.ConnConfig)
	}
	return version, explain(err)
}

func migrate(ctx context.Context, config *pgx.ConnConfig) (version int64, err error) {
	m, err := newMigrator(config)
	if err != nil {
		return 0, err
	}
	return m.migrate(ctx)
}

// migrate applies the missing migrations, each while it holds the schema lock. It accepts a newer schema
// that this version can use.
func (m *migrator) migrate(ctx context.Context) (version int64, err error) {
	c, err := m.connect(ctx)
	if err != nil {
		return 0, err
	}
	defer c.Close(context.WithoutCancel(ctx))
	if version, err = m.version(ctx, c); err != nil || version > m.target() {
		return version, err
	}
	if version == m.target() {
		return version, m.note(ctx, c, version)
	}
	if err := makeLock(ctx, c); err != nil {
		return version, fmt.Errorf("create the schema lock: %w", err)
	}
	session := stdlib.OpenDB(*m.config, stdlib.OptionAfterConnect(bePatient))
	session.SetMaxOpenConns(1) // so that its settings and its process ID apply to the step
	steps, err := goose.NewProvider(goose.DialectPostgres, session, m.files, goose.WithTableName(versionTable),
		goose.WithDisableGlobalRegistry(true), goose.WithLogger(goose.NopLogger()))
	if err != nil {
		return version, errors.Join(err, session.Close())
	}
	for err == nil && version < m.target() {
		version, err = m.makeNext(ctx, &change{migrator: m, lock: c, session: session, steps: steps})
	}
	if err != nil {
		err = fmt.Errorf("bring the schema up to date: %w", err)
	}
	return version, errors.Join(err, steps.Close())
}

// checkSchema refuses a schema that this version can't use. It changes nothing.
func checkSchema(ctx context.Context, config *pgx.ConnConfig) error {
	m, err := newMigrator(config)
	if err != nil {
		return err
	}
	c, err := m.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close(context.WithoutCancel(ctx))
	const advice = "run sheaf migrate first, or start without --migrate=off"
	version, err := m.version(ctx, c)
	switch {
	case err != nil:
		return err
	case version < 0:
		return errors.New("the database has no schema yet: " + advice)
	case version < m.target():
		return errors.New("the database's schema is older than this version's: " + advice)
	}
	return nil
}

// connect opens a connection that can hold the schema lock. It uses the simple protocol, in which a
// completed statement leaves nothing behind. In the extended protocol, its portal would live as
// long as the transaction, and building an index would wait for the portal's snapshot.
func (m *migrator) connect(ctx context.Context) (*pgx.Conn, error) {
	config := m.config.Copy()
	config.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	c, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	if err := bePatient(ctx, c); err != nil {
		return nil, errors.Join(err, c.Close(context.WithoutCancel(ctx)))
	}
	return c, nil
}

// bePatient removes timeouts that the server may set for all clients, because one connection is
// idle in a transaction while another one changes the schema. If a node is lost, the server soon
// ends its statements and, after a few seconds, its connections.
func bePatient(ctx context.Context, c *pgx.Conn) error {
	const set = `SELECT set_config(name, CASE name
			WHEN 'client_connection_check_interval' THEN '2000'
			WHEN 'tcp_keepalives_idle' THEN '5' WHEN 'tcp_keepalives_interval' THEN '2' WHEN 'tcp_keepalives_count' THEN '3'
			WHEN 'tcp_user_timeout' THEN '10000' ELSE '0' END, false)
		FROM pg_settings WHERE name IN ('idle_in_transaction_session_timeout', 'idle_session_timeout', 'lock_timeout', 'statement_timeout',
			'transaction_timeout', 'client_connection_check_interval', 'tcp_keepalives_idle', 'tcp_keepalives_interval', 'tcp_keepalives_count', 'tcp_user_timeout')`
	if _, err := c.Exec(ctx, set, pgx.QueryExecModeExec); err != nil {
		return fmt.Errorf("set a connection up: %w", err)
	}
	return nil
}

// makeLock creates the row that is locked while the schema changes. If several nodes create the
// table at once, one succeeds and PostgreSQL fails the others.
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

// queryer is a connection or a transaction on one.
type queryer interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

type execer interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// version returns the last step that was made; -1 if there is no schema. It refuses a newer schema
// that this version can't use.
func (m *migrator) version(ctx context.Context, c queryer) (version int64, err error) {
	var found bool
	if err := c.QueryRow(ctx, "SELECT to_regclass($1) IS NOT NULL", versionTable).Scan(&found); err != nil || !found {
		return -1, err
	}
	if err := c.QueryRow(ctx, "SELECT coalesce(max(version_id), 0) FROM "+versionTable).Scan(&version); err != nil || version <= m.target() {
		return version, err
	}
	var note string
	const read = "SELECT coalesce((SELECT convert_from(value, 'UTF8') FROM settings WHERE name = $1), '')"
	if err := c.QueryRow(ctx, read, []byte(driver.SchemaSetting)).Scan(&note); err != nil {
		return version, err
	}
	return version, m.schema.Accept(version, note)
}

// target returns the newest step that this version knows.
func (m *migrator) target() int64 { return m.schema.Version() }

// note stores which versions can use the schema. Versions older than this one read it.
func (m *migrator) note(ctx context.Context, c execer, version int64) error {
	_, err := c.Exec(ctx, "INSERT INTO settings (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value WHERE settings.value <> excluded.value",
		[]byte(driver.SchemaSetting), []byte(m.schema.Note(version)))
	return err
}

// change is a migration that is being applied.
type change struct {
	*migrator
	lock     *pgx.Conn // holds the schema lock
	session  *sql.DB   // applies the migration, on its only connection
	steps    *goose.Provider
	blockers string // the sessions that blocked the last attempt
}

// makeNext applies the first missing migration and returns the new version. Between two attempts, it
// releases its locks, so that calls and other nodes can proceed.
func (m *migrator) makeNext(ctx context.Context, c *change) (version int64, err error) {
	tries, turns := time.Now().Add(m.step), time.Now().Add(m.turn)
	for next := min(migrationPause, m.pause); ; {
		var locked bool
		pause := next
		version, locked, err = c.try(ctx)
		switch {
		case err == nil && locked:
			return version, nil
		case err == nil && time.Now().After(turns):
			return version, fmt.Errorf("another node has been changing the schema for %v: find out what it waits for (SELECT * FROM pg_stat_activity), then start again", m.turn)
		case err == nil:
			pause = min(migrationPause, m.pause)
		case !isBlocked(err):
			return version, err
		case time.Now().After(tries):
			return version, fmt.Errorf("step %d could not get its lock within %v because of %s: end it or wait until it ends, then start again; earlier steps are complete, and running nodes are not disturbed (%w)", max(version, 0)+1, m.step, c.blockedBy(), err)
		default:
			next = min(2*next, m.pause)
		}
		if !wait(ctx, pause/2+rand.N(pause)) { //nolint:gosec // jitter needn't be secret
			return version, ctx.Err()
		}
	}
}

// isBlocked reports whether a step failed because others hold locks.
func isBlocked(err error) bool {
	state := sqlState(err)
	return state == "55P03" || state == "40P01" || state == "40001"
}

func (c *change) blockedBy() string {
	if c.blockers == "" {
		return "an unknown transaction"
	}
	return c.blockers
}

// try takes the schema lock and makes the next step, if one is still missing. It reports whether it
// got the lock. It never waits for the lock, because a waiting statement has a snapshot, and the
// owner of the lock might be building an index, which would wait for that snapshot.
func (c *change) try(ctx context.Context) (version int64, locked bool, err error) {
	// At READ COMMITTED, a transaction has no snapshot between two statements.
	err = pgx.BeginTxFunc(ctx, c.lock, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		err := tx.QueryRow(ctx, "SELECT true FROM sheaf_lock FOR UPDATE SKIP LOCKED").Scan(&locked)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("lock the schema: %w", err)
		}
		if version, err = c.version(ctx, tx); err != nil || version >= c.target() {
			return err
		}
		next := max(version, 0) + 1
		if err := c.watched(ctx, tx, next); err != nil {
			return err
		}
		version = next
		return c.note(ctx, tx, version)
	})
	return version, locked, err
}

// watched makes a step. While the step runs, it records which sessions block the step, through the
// connection that holds the schema lock.
func (c *change) watched(ctx context.Context, tx pgx.Tx, number int64) error {
	var process int
	if err := c.session.QueryRowContext(ctx, "SELECT pg_backend_pid()").Scan(&process); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	made := make(chan error, 1)
	go func() { made <- c.make(ctx, number) }()
	tick := time.NewTicker(c.migrator.lock / 4)
	defer tick.Stop()
	for {
		select {
		case err := <-made:
			return err
		case <-tick.C:
			var blockers string
			if err := tx.QueryRow(ctx, findBlockers, process).Scan(&blockers); err != nil {
				cancel()
				return fmt.Errorf("the schema lock was lost: %w", errors.Join(err, <-made))
			}
			if blockers != "" {
				c.blockers = blockers
			}
		}
	}
}

const findBlockers = `SELECT coalesce(string_agg(format('process %s (%s, user %s, in a transaction since %s)',
		pid, coalesce(nullif(application_name, ''), 'no application_name'), coalesce(usename, 'unknown'), coalesce(date_trunc('second', xact_start)::text, 'an unknown moment')), ' and '), '')
	FROM pg_stat_activity WHERE pid = ANY (pg_blocking_pids($1))`

// make makes a step. If the step builds an index, make first removes what a failed attempt left of
// it.
func (c *change) make(ctx context.Context, number int64) error {
	index := c.indexOf(number)
	limit := c.migrator.lock
	if index != "" {
		limit = c.index
	}
	if _, err := c.session.ExecContext(ctx, fmt.Sprintf("SET lock_timeout = %d", limit.Milliseconds())); err != nil {
		return err
	}
	if index != "" {
		if err := c.dropInvalid(ctx, index); err != nil {
			return fmt.Errorf("remove the index %s, which was left unfinished: %w", index, err)
		}
	}
	_, err := c.steps.UpByOne(ctx)
	return err
}

var concurrentIndex = regexp.MustCompile(`\bINDEX CONCURRENTLY IF NOT EXISTS (\w+)`)

// indexOf returns the index that a step builds while the table is in use; empty if it builds none.
func (m *migrator) indexOf(number int64) string {
	if found := concurrentIndex.FindStringSubmatch(m.schema.Step(number)); found != nil {
		return found[1]
	}
	return ""
}

func (c *change) dropInvalid(ctx context.Context, index string) error {
	var invalid bool
	const look = "SELECT EXISTS (SELECT FROM pg_index WHERE indexrelid = to_regclass($1) AND NOT indisvalid)"
	if err := c.session.QueryRowContext(ctx, look, index).Scan(&invalid); err != nil || !invalid {
		return err
	}
	_, err := c.session.ExecContext(ctx, "DROP INDEX CONCURRENTLY IF EXISTS "+index)
	return err
}
