package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// sessionSettings are set on every connection if the server knows them.
//
// The timeouts end what a dead node has left behind: open transactions and unanswered connections.
// At the isolation level READ COMMITTED, a statement sees everything that was committed before the
// previous statements got their locks. The planner settings force index scans: every statement
// finds its rows by an index, but is planned only once, perhaps while the tables are still empty
// and every plan looks cheap.
var sessionSettings = map[string]string{
	"idle_in_transaction_session_timeout": "5000",
	"statement_timeout":                   fmt.Sprint(statementTimeout.Milliseconds()),
	"lock_timeout":                        "5000",
	"tcp_keepalives_idle":                 "5",
	"tcp_keepalives_interval":             "2",
	"tcp_keepalives_count":                "3",
	"tcp_user_timeout":                    "10000",
	"default_transaction_isolation":       "read committed",
	"plan_cache_mode":                     "force_generic_plan",
	"enable_seqscan":                      "off",
	"enable_hashjoin":                     "off",
	"enable_mergejoin":                    "off",
	"jit":                                 "off",
}

// configure returns the configuration of a pool.
func configure(address, process string, connections int) (*pgxpool.Config, error) {
	config, err := pgxpool.ParseConfig(address)
	if err != nil {
		return nil, badAddress(address, err)
	}
	config.MaxConns = int32(connections)
	config.MinConns = 0
	c := config.ConnConfig
	c.ConnectTimeout = connectTimeout
	c.RuntimeParams["application_name"] = process
	if c.ValidateConnect == nil {
		c.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite // not a standby, if the URL names several servers
	}
	c.AfterConnect = nil
	config.AfterConnect = prepareSession
	return config, nil
}

// ErrNoURL is the error for an address that isn't a URL.
var ErrNoURL = errors.New("the database's address can't be read as a URL; in the user and the password every special character must be escaped (% is %25, / is %2F, # is %23)")

// badAddress returns the error for a malformed address without repeating the address: if it can't
// be parsed, any part of it may be the password.
func badAddress(address string, err error) error {
	if _, malformed := url.Parse(address); malformed != nil {
		return ErrNoURL
	}
	if e, ok := errors.AsType[*pgconn.ParseConfigError](err); ok {
		bare := *e
		bare.ConnString = ""
		err = &bare
	}
	return fmt.Errorf("the database's address is wrong: %w", err)
}

// prepareSession configures a new connection. It refuses a server on which commits would not be
// durable.
func prepareSession(ctx context.Context, c *pgx.Conn) error {
	names, values := make([]string, 0, len(sessionSettings)), make([]string, 0, len(sessionSettings))
	for name, value := range sessionSettings {
		names, values = append(names, name), append(values, value)
	}
	const set = "SELECT set_config(s.name, s.value, false) FROM unnest($1::text[], $2::text[]) AS s (name, value) JOIN pg_settings ON pg_settings.name = s.name"
	if _, err := c.Exec(ctx, set, pgx.QueryExecModeExec, names, values); err != nil {
		return fmt.Errorf("set a connection up: %w", err)
	}
	return checkDurable(ctx, c)
}

// checkDurable refuses a server that acknowledges commits before they are on disk.
func checkDurable(ctx context.Context, c *pgx.Conn) error {
	for _, name := range []string{"synchronous_commit", "fsync", "full_page_writes"} {
		var value string
		err := c.QueryRow(ctx, "SELECT coalesce(current_setting($1, true), 'on')", pgx.QueryExecModeExec, name).Scan(&value)
		if err != nil {
			return err
		}
		if value == "off" {
			return fmt.Errorf("the server has %s=off and would lose acknowledged batches in a crash: set it to on (ALTER SYSTEM SET %s = on; SELECT pg_reload_conf();) and start again", name, name)
		}
	}
	return nil
}

// inspect refuses a server on which the storage contract can't be kept.
func (db *DB) inspect(ctx context.Context) error {
	first, err := db.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer first.Release()
	second, err := db.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer second.Release()
	var version int
	if err := first.QueryRow(ctx, "SELECT current_setting('server_version_num')::int", pgx.QueryExecModeSimpleProtocol).Scan(&version); err != nil {
		return err
	}
	if version < 140000 {
		return fmt.Errorf("the server is PostgreSQL %d; version 14 or later is needed", version/10000)
	}
	return refusePooler(ctx, first.Conn(), second.Conn())
}

// refusePooler returns an error if a pooler shares sessions among connections. An advisory lock
// would then pass to another client, and nobody would receive notifications.
func refusePooler(ctx context.Context, a, b *pgx.Conn) error {
	for first, nth := int32(0), 0; nth < 5; nth++ {
		var one, two int32
		if err := a.QueryRow(ctx, "SELECT pg_backend_pid()", pgx.QueryExecModeSimpleProtocol).Scan(&one); err != nil {
			return err
		}
		if err := b.QueryRow(ctx, "SELECT pg_backend_pid()", pgx.QueryExecModeSimpleProtocol).Scan(&two); err != nil {
			return err
		}
		if first == 0 {
			first = one
		}
		if one == two || one != first {
			return errPooler
		}
	}
	return nil
}

var errPooler = errors.New("the connection goes through a pooler that gives each transaction another session, and a node needs sessions of its own: name the server itself in --database, or a pooler in session mode (PgBouncer: pool_mode = session)")

// unknown reports whether an error leaves open if the change was stored.
func unknown(err error) bool {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return strings.HasPrefix(e.Code, "57P") || strings.HasPrefix(e.Code, "08") || e.Code == "40003" // statement completion unknown, from CockroachDB
	}
	return err != nil && !pgconn.SafeToRetry(err) && !neverConnected(err)
}

// neverConnected reports whether no connection could be made.
func neverConnected(err error) bool {
	_, ok := errors.AsType[*pgconn.ConnectError](err)
	return ok
}

// isLost reports whether a connection broke.
func isLost(err error) bool {
	return neverConnected(err) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// explain adds to a PostgreSQL error what the operator can do about it.
func explain(err error) error {
	if err == nil {
		return nil
	}
	advice := ""
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		advice = adviceFor(e.Code)
	} else if neverConnected(err) {
		advice = "the server can't be reached: see that it runs and that the address is right"
	}
	if advice == "" {
		return oneLine{err}
	}
	return fmt.Errorf("%s (%w)", advice, oneLine{err})
}

// oneLine is an error whose text is put on one line.
type oneLine struct{ error }

func (e oneLine) Error() string { return strings.Join(strings.Fields(e.error.Error()), " ") }

func (e oneLine) Unwrap() error { return e.error }

// adviceFor returns advice for an SQLSTATE.
func adviceFor(code string) string {
	switch code {
	case "28P01", "28000":
		return "the server refuses the user or the password: see the address and pg_hba.conf"
	case "3D000":
		return "there is no such database: make it first (createdb NAME)"
	case "42501":
		return "the user may not do that in this database: make it the database's owner"
	case "53100":
		return "the database's disk is full: make room, nothing that was acknowledged is lost"
	case "53300":
		return "the server has no connection left: raise its max_connections, or lower pool_max_conns in its URL"
	case "25006":
		return "the server is a read-only standby: name the primary"
	case "57P01", "57P02", "57P03":
		return "the server is being started or stopped"
	case "26000", "42P05":
		return errPooler.Error()
	case "57014", "55P03":
		return "the database took too long"
	}
	return ""
}
