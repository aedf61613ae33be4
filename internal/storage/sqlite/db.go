// Package sqlite stores batches in one SQLite file that one process owns.
package sqlite

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/gofrs/flock"
	"github.com/sheafapi/sheaf/internal/storage"
	"github.com/sheafapi/sheaf/internal/storage/internal/driver"
	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"
)

// now returns the time. It also detects whether the clock was set.
func (db *DB) now() time.Time {
	db.steps.Note(db.clock.Skew())
	return db.clock.Now()
}

const (
	// readers is the maximum number of concurrent reads, and callersReads is how many of them may
	// be callers'. The service never waits for callers' reads.
	readers      = 4
	callersReads = 3
	// callersWrites is the maximum number of callers' operations in the writer's queue. The others
	// take turns to enter it, so that recording a result waits for at most this many.
	callersWrites = 128
	// callerTimeout limits how long a caller's read takes, and how long a caller's change waits for
	// its turn.
	callerTimeout = 5 * time.Second
)

var errSlow = fmt.Errorf("the database did not answer within %v", callerTimeout)

// Options configure Open. The zero value works.
type Options struct {
	Logger *slog.Logger // Default: slog.Default()

	// Fatal is called after the second failed sync was logged. It is then unknown how much of the
	// file is on the disk, so nothing more is written to it: if Fatal returns, every change fails.
	// Default: end the process.
	Fatal func(error)
}

// DB is a storage.Storage in a SQLite file.
type DB struct {
	path    string // absolute, without symbolic links
	process int64  // the number of this process, unique among all that ever opened the file; marks the queues that it owns
	log     *slog.Logger
	lock    *flock.Flock
	writer  *writer
	journal *journal
	pool    *sqlitex.Pool     // read-only connections
	reads   *driver.Scheduler // shares the pool's connections
	writes  *driver.Scheduler // admits callers' operations to the writer's queue
	large   *driver.Scheduler // admits large operations, one at a time
	opened  time.Time
	fatal   func(error) // see Options

	callerTimeout time.Duration // the constant callerTimeout, except in tests
	clock         driver.Clock
	steps         driver.Steps // steps of the clock

	gate driver.Gate // counts the running calls
}

var _ storage.Storage = (*DB)(nil)

// Open opens the database file at path, creates it if there is none, and brings its schema up to
// date. It follows symbolic links. The folder must exist.
//
// Open fails and changes nothing if another process has the file open, if the file belongs to
// another application or to a newer version of this one, or if it is not a database. The context
// limits only Open itself.
func Open(ctx context.Context, path string, opts Options) (*DB, error) {
	db := &DB{
		fatal: opts.Fatal,
		log:   opts.Logger, callerTimeout: callerTimeout,
		reads:  driver.NewScheduler(driver.Slots{driver.Results: readers, driver.Claims: readers, driver.Creates: callersReads, driver.Reads: callersReads}),
		writes: driver.NewScheduler(driver.Slots{callersWrites, callersWrites, callersWrites, callersWrites}),
		large:  driver.NewScheduler(driver.Slots{1, 1, 1, 1}),
	}
	if db.log == nil {
		db.log = slog.Default()
	}
	if db.fatal == nil {
		db.fatal = func(error) { os.Exit(1) }
	}
	if err := db.open(ctx, path); err != nil {
		return nil, errors.Join(explain(err), db.release())
	}
	return db, nil
}

func (db *DB) open(ctx context.Context, path string) (err error) {
	if db.path, err = resolve(path); err != nil {
		return err
	}
	if db.lock, err = lockFile(db.path); err != nil {
		return err
	}
	if err := inspect(ctx, db.path); err != nil {
		return err
	}
	c, err := openWriter(ctx, db.path)
	if err != nil {
		return err
	}
	if db.process, err = queryInt(c, "next_process"); err != nil {
		return errors.Join(err, c.Close())
	}
	if err := replay(c); err != nil {
		return errors.Join(err, c.Close())
	}
	mover, err := openMover(db.path)
	if err != nil {
		return errors.Join(err, c.Close())
	}
	db.journal, db.opened = newJournal(), db.now()
	db.writer = startWriter(c, mover, db.journal, db.path, db.log, db.fatal)
	db.pool, err = sqlitex.NewPool(db.path, sqlitex.PoolOptions{
		Flags:       sqlite.OpenReadOnly,
		PoolSize:    readers,
		PrepareConn: prepareReader,
	})
	return err
}

// Close waits for the running calls, gives up the queues, moves the log into the file and releases
// the lock. A second Close does nothing.
func (db *DB) Close() error {
	if !db.gate.Close() {
		return nil
	}
	if err := db.release(); err != nil {
		return fmt.Errorf("close the database: %w", explain(err))
	}
	return nil
}

// release undoes everything that Open has done so far. It closes the writer's connection after the
// readers', so that this connection is the last one and moves the log.
func (db *DB) release() error {
	var errs []error
	if db.pool != nil {
		errs = append(errs, db.pool.Close())
	}
	if db.writer != nil {
		errs = append(errs, db.writer.close())
	}
	if db.lock != nil {
		errs = append(errs, db.lock.Unlock())
	}
	return errors.Join(errs...)
}

// read runs fn for the service, in its own read transaction. In errors, what names the operation.
func (db *DB) read(ctx context.Context, what string, fn func(c *sqlite.Conn) error) error {
	if err := db.gate.Enter(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	defer db.gate.Leave()
	return db.failure(ctx, what, db.readAs(ctx, driver.Claims, storage.Caller{}, fn))
}

// readFor runs fn for a caller, in its own read transaction.
func (db *DB) readFor(ctx context.Context, by storage.Caller, what string, fn func(c *sqlite.Conn) error) error {
	if err := db.gate.Enter(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	defer db.gate.Leave()
	limited, cancel := context.WithTimeoutCause(ctx, db.callerTimeout, errSlow)
	defer cancel()
	err := db.readAs(limited, driver.Reads, by, fn)
	if sqlite.ErrCode(err).ToPrimary() == sqlite.ResultInterrupt && limited.Err() != nil {
		err = context.Cause(limited)
	}
	return db.failure(ctx, what, err)
}

// readBy runs a read whose arguments name no caller.
func (db *DB) readBy(ctx context.Context, what string, fn func(c *sqlite.Conn) error) error {
	if storage.IsForService(ctx) {
		return db.read(ctx, what, fn)
	}
	return db.readFor(ctx, storage.CallerOf(ctx), what, fn)
}

// readAs waits for a turn and then runs fn.
func (db *DB) readAs(ctx context.Context, class driver.Class, by storage.Caller, fn func(c *sqlite.Conn) error) (err error) {
	if err := acquire(ctx, db.reads, class, by); err != nil {
		return err
	}
	defer db.reads.Release(class, by)
	c, err := db.pool.Take(ctx)
	if err != nil {
		return err
	}
	defer db.pool.Put(c)
	end := sqlitex.Transaction(c)
	err = fn(c)
	end(&err)
	return err
}

// acquire waits for a call's turn.
func acquire(ctx context.Context, s *driver.Scheduler, class driver.Class, by storage.Caller) error {
	err := s.Acquire(ctx, class, by)
	if errors.Is(err, errSlow) {
		return storage.ErrBusy
	}
	return err
}

// write runs fn on the writer's connection, in a transaction that it may share with other calls,
// and returns when that transaction is committed. fn may run more than once. It must return an
// error of package storage only before it has changed anything.
func (db *DB) write(ctx context.Context, what string, fn func(c *sqlite.Conn) error) error {
	return db.operate(ctx, what, &operation{run: fn})
}

// writeFor is write for a caller. bytes is about how much the operation writes. The operation waits
// for its caller's turn before it enters the writer's queue. Large operations have turns of their
// own, so that they don't delay small ones.
func (db *DB) writeFor(ctx context.Context, by storage.Caller, bytes int, what string, fn func(c *sqlite.Conn) error) error {
	op := &operation{bytes: bytes, by: by, class: driver.Creates, run: fn}
	turns := db.writes
	if op.isLarge() {
		turns = db.large
	}
	return db.entered(what, func() error {
		limited, cancel := context.WithTimeoutCause(ctx, db.callerTimeout, errSlow)
		defer cancel()
		if err := acquire(limited, turns, op.class, by); err != nil {
			return db.failure(ctx, what, err)
		}
		defer turns.Release(op.class, by)
		return db.failure(ctx, what, db.writer.do(ctx, op))
	})
}

// callerOf returns the store and owner of a key.
func callerOf(key storage.Key) storage.Caller {
	return storage.Caller{Store: key.Store, Owner: key.Owner}
}

// operate is write for any operation of the service.
func (db *DB) operate(ctx context.Context, what string, op *operation) error {
	return db.entered(what, func() error {
		if op.isLarge() {
			if err := acquire(ctx, db.large, op.class, op.by); err != nil {
				return db.failure(ctx, what, err)
			}
			defer db.large.Release(op.class, op.by)
		}
		return db.failure(ctx, what, db.writer.do(ctx, op))
	})
}

// entered makes a call unless the database is closed. Close waits for the call.
func (db *DB) entered(what string, call func() error) error {
	if err := db.gate.Enter(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	defer db.gate.Leave()
	return call()
}

// failure returns the error of a call; see driver.Failure.
func (db *DB) failure(ctx context.Context, what string, err error) error {
	return driver.Failure(ctx, what, err, explain, isDamage, isRefusal)
}

// isDamage reports whether an error means that the stored data is damaged.
func isDamage(err error) bool {
	return errors.Is(err, storage.ErrDamaged) || err != nil && sqlite.ErrCode(err).ToPrimary() == sqlite.ResultCorrupt
}

// isRefusal reports whether the database refused a call because of its content, and not because of
// the database's state.
func isRefusal(err error) bool {
	refusals := []sqlite.ResultCode{sqlite.ResultConstraint, sqlite.ResultTooBig, sqlite.ResultMismatch, sqlite.ResultRange}
	return slices.Contains(refusals, sqlite.ErrCode(err).ToPrimary())
}
