package postgres

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/sheafapi/sheaf/internal/storage/internal/driver"
)

//go:embed queries.sql
var queryFile string

// queries are the statements of queries.sql by name.
var queries = driver.ParseQueries(queryFile)

// step is one statement of a call.
type step struct {
	name  string
	args  []any
	row   func(r pgx.Rows) error // called for each row; nil: rows are ignored
	fresh func()                 // called before the first row; nil: nothing to reset
}

// do returns a step whose rows are ignored.
func do(name string, args ...any) step { return step{name: name, args: args} }

// get returns a step whose rows are read.
func get(name string, row func(r pgx.Rows) error, args ...any) step {
	return step{name: name, args: args, row: row}
}

// anew returns the step with a function that discards the rows that an earlier, failed attempt has
// read.
func (s step) anew(forget func()) step {
	s.fresh = forget
	return s
}

// scan returns a row function that reads the columns of a row into variables and sets found. If
// there are several rows, the last one remains.
func scan(found *bool, columns ...any) func(r pgx.Rows) error {
	return func(r pgx.Rows) error {
		*found = true
		return r.Scan(columns...)
	}
}

// read runs statements in one round trip.
func (db *DB) read(ctx context.Context, l lane, what string, steps ...step) error {
	return db.call(ctx, what, again, func(ctx context.Context) error { return db.sendIn(ctx, l, steps) })
}

// readAtOnce runs statements in one round trip, on one snapshot.
func (db *DB) readAtOnce(ctx context.Context, l lane, what string, steps ...step) error {
	all := append([]step{do("begin_read")}, steps...)
	return db.read(ctx, l, what, append(all, do("commit"))...)
}

// write runs statements in one round trip and one transaction, which is on disk when write returns
// nil. Because the statements are sent together, a node that stops or is cut off in the middle
// leaves no open transaction whose locks others would wait for.
func (db *DB) write(ctx context.Context, l lane, what string, steps ...step) error {
	certainly := func(err error) bool { return again(err) && !unknown(err) }
	return db.call(ctx, what, certainly, func(ctx context.Context) error {
		return db.sendIn(ctx, l, append([]step{do("sync_commit")}, steps...))
	})
}

// writeAgain makes a call that can safely be repeated if it is unknown whether it was stored.
func (db *DB) writeAgain(ctx context.Context, what string, call func(ctx context.Context) error) error {
	return db.call(ctx, what, again, call)
}

// call makes a call and repeats it after temporary failures. It gives up early enough for its
// caller to react.
func (db *DB) call(ctx context.Context, what string, repeat func(error) bool, call func(ctx context.Context) error) error {
	if err := db.gate.Enter(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	defer db.gate.Leave()
	limited, cancel := context.WithTimeoutCause(ctx, callTimeout, errSlow)
	defer cancel()
	for pause := firstPause; ; pause *= 2 {
		err := call(limited)
		if err == nil || !repeat(err) || pause > lastPause || !wait(limited, pause) {
			return db.failure(ctx, what, err)
		}
	}
}

// The pauses between the attempts of one call.
const (
	firstPause = 20 * time.Millisecond
	lastPause  = 320 * time.Millisecond
)

// send runs statements in one round trip, in the lane of results.
func (db *DB) send(ctx context.Context, steps []step) error { return db.sendIn(ctx, results, steps) }

// take reads the rows of one statement.
func take(results pgx.BatchResults, s step) error {
	if s.fresh != nil {
		s.fresh()
	}
	rows, err := results.Query()
	if err == nil {
		for rows.Next() && err == nil && s.row != nil {
			err = s.row(rows)
		}
		rows.Close()
		err = errors.Join(err, rows.Err())
	}
	if err != nil {
		return fmt.Errorf("statement %s: %w", s.name, err)
	}
	return nil
}

// wait pauses. It returns false if ctx ends.
func wait(ctx context.Context, pause time.Duration) bool {
	select {
	case <-time.After(pause):
		return true
	case <-ctx.Done():
		return false
	}
}

// again reports whether a call that failed with err can be repeated at once: because the database
// ended it to resolve a conflict, or is restarting, or because the connection was dead.
func again(err error) bool {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch e.Code {
		case "40001", "40P01", // serialization failure, deadlock
			"0A000",                   // a migration has changed the result type of a cached plan
			"57P01", "57P02", "57P03": // the server is shutting down, has crashed, is starting
			return true
		}
		return false
	}
	return errors.Is(err, errGone) || pgconn.SafeToRetry(err) || isLost(err)
}
