// Package sqlite keeps batches in one SQLite file that one process owns.
//
// # What it guarantees
//
// A change that was acknowledged is in the file's write-ahead log and synced to
// the disk (journal_mode=WAL, synchronous=FULL, both read back when the file is
// opened): it survives kill -9 and the loss of power. One that was answered with
// an error other than those of package storage may or may not have been stored,
// and the call can be made again.
//
// One process owns the file: a lock on FILE.lock, held by the operating system,
// lasts as long as the process lives and no longer. So whoever opens the file
// knows that every earlier owner of a queue is dead: ownership needs no expiry
// here, and recovery starts at once.
//
// # How it works
//
// One goroutine writes. It takes every operation that is queued at that moment,
// runs them in one transaction, commits, and answers all of them: one sync of
// the disk for as many as came meanwhile, and no timer that would make a lone
// one wait. If an operation fails, the group is rolled back and its operations
// run one by one, so that none is hurt by another.
//
// Results are recorded in a journal (see there), from which they are moved to their
// places when their batch ends: so a commit writes two or three pages, however many
// batches it records results of.
//
// Reads run beside it, on connections of their own that can't write, each in one
// short transaction. Nothing is held while a client is slow. Stores take turns at them, and
// at the writer, and the service's own reads have a connection that callers can't take.
//
// After a failed sync, it is unknown what is on the disk, and a later sync may report success for
// data that was never written. So a commit whose sync failed is never reported as stored, and the
// second such error ends the process (Options.Fatal), as a crash would. The next process rewrites
// the log before it trusts it.
//
// When the disk is full or the file damaged, operations fail with an error that
// says so. Nothing that was acknowledged is lost by it, and they succeed again as
// soon as the cause is gone.
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

// now returns the time, and notices when the clock was set.
func (db *DB) now() time.Time {
	db.steps.Note(db.clock.Skew())
	return db.clock.Now()
}

const (
	// readers is how many reads run at the same time, and callersReads how many of them are
	// callers'. The service never waits for these.
	readers      = 4
	callersReads = 3
	// callersWrites is how many operations of callers wait for the writer at the same time.
	// The others wait in turns, so that a result that is recorded meets at most so many.
	callersWrites = 128
	// callerTimeout bounds how long a read of a caller takes, and how long a change waits for
	// its turn.
	callerTimeout = 5 * time.Second
)

var errSlow = fmt.Errorf("the database did not answer within %v", callerTimeout)

// Options configure Open. The zero value works.
type Options struct {
	Logger *slog.Logger // Default: slog.Default()

	// Fatal is called with the second error of a sync, after it was logged. It is then unknown how
	// much of the file is on the disk, so nothing more is written to it: if Fatal returns, every
	// change fails. Default: end the process.
	Fatal func(error)
}

// DB is a storage.Storage in a SQLite file.
type DB struct {
	path    string // absolute, without symbolic links
	process int64  // this process among all that ever opened the file; marks the queues that it owns
	log     *slog.Logger
	lock    *flock.Flock
	writer  *writer
	journal *journal
	pool    *sqlitex.Pool     // of read-only connections
	reads   *driver.Scheduler // of these
	writes  *driver.Scheduler // of callers' operations that wait for the writer
	large   *driver.Scheduler // of large operations: one at a time
	opened  time.Time
	fatal   func(error) // see Options

	callerTimeout time.Duration // as the constant, except in tests
	clock         driver.Clock
	steps         driver.Steps // of the clock

	gate driver.Gate // of the calls under way
}

var _ storage.Storage = (*DB)(nil)

// Open opens the database file at path, makes it if there is none, and brings
// its schema up to date. Symbolic links are followed; the folder has to exist.
//
// It fails, having changed nothing, if another process has the file open, if the
// file belongs to another application or to a newer version of this one, or if it is
// no database. The context bounds the opening only.
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

// Close waits for the calls under way, gives up the queues, moves the log into
// the file and releases the lock. A second Close does nothing.
func (db *DB) Close() error {
	if !db.gate.Close() {
		return nil
	}
	if err := db.release(); err != nil {
		return fmt.Errorf("close the database: %w", explain(err))
	}
	return nil
}

// release undoes as much of open as was done. The writer's connection is closed
// after the readers', so that it is the last one and moves the log.
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

// read runs fn in a read transaction of its own, for the service. what says in an error
// what was being done.
func (db *DB) read(ctx context.Context, what string, fn func(c *sqlite.Conn) error) error {
	if err := db.gate.Enter(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	defer db.gate.Leave()
	return db.failure(ctx, what, db.readAs(ctx, driver.Claims, storage.Caller{}, fn))
}

// readFor runs fn in a read transaction of its own, for a caller.
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

// readBy is readFor for a read whose arguments name no caller.
func (db *DB) readBy(ctx context.Context, what string, fn func(c *sqlite.Conn) error) error {
	if storage.IsForService(ctx) {
		return db.read(ctx, what, fn)
	}
	return db.readFor(ctx, storage.CallerOf(ctx), what, fn)
}

// readAs runs fn when it is its turn.
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

// acquire waits for the turn of a call.
func acquire(ctx context.Context, s *driver.Scheduler, class driver.Class, by storage.Caller) error {
	err := s.Acquire(ctx, class, by)
	if errors.Is(err, errSlow) {
		return storage.ErrBusy
	}
	return err
}

// write runs fn on the writer's connection, in a transaction that it may share with
// other calls, and returns when that is committed. fn may run more than once; it
// returns an error of package storage only before it has changed anything.
func (db *DB) write(ctx context.Context, what string, fn func(c *sqlite.Conn) error) error {
	return db.operate(ctx, what, &operation{run: fn})
}

// writeFor is write for a caller. The operation writes about this many bytes. It waits for the
// caller's turns before it waits for the writer: first among large operations, if it is one, so
// that those don't keep small ones waiting.
func (db *DB) writeFor(ctx context.Context, by storage.Caller, bytes int, what string, fn func(c *sqlite.Conn) error) error {
	op := &operation{bytes: bytes, by: by, class: driver.Creates, run: fn}
	return db.entered(what, func() error {
		limited, cancel := context.WithTimeoutCause(ctx, db.callerTimeout, errSlow)
		defer cancel()
		leave, err := db.turn(limited, op)
		if err != nil {
			return db.failure(ctx, what, err)
		}
		defer leave()
		if err := acquire(limited, db.writes, driver.Creates, by); err != nil {
			return db.failure(ctx, what, err)
		}
		defer db.writes.Release(driver.Creates, by)
		return db.failure(ctx, what, db.writer.do(ctx, op))
	})
}

// callerOf returns who a key belongs to.
func callerOf(key storage.Key) storage.Caller {
	return storage.Caller{Store: key.Store, Owner: key.Owner}
}

// operate is write for any operation of the service.
func (db *DB) operate(ctx context.Context, what string, op *operation) error {
	return db.entered(what, func() error {
		leave, err := db.turn(ctx, op)
		if err != nil {
			return db.failure(ctx, what, err)
		}
		defer leave()
		return db.failure(ctx, what, db.writer.do(ctx, op))
	})
}

// entered makes a call unless the database is closed. Close waits for it.
func (db *DB) entered(what string, call func() error) error {
	if err := db.gate.Enter(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	defer db.gate.Leave()
	return call()
}

// turn waits until a large operation may go to the writer. Stores take turns at those.
func (db *DB) turn(ctx context.Context, op *operation) (leave func(), err error) {
	if !op.isLarge() {
		return func() {}, nil
	}
	if err := acquire(ctx, db.large, op.class, op.by); err != nil {
		return nil, err
	}
	return func() { db.large.Release(op.class, op.by) }, nil
}

// failure returns the error of a call, see driver.Failure.
func (db *DB) failure(ctx context.Context, what string, err error) error {
	return driver.Failure(ctx, what, err, explain, isDamage, isRefusal)
}

// isDamage reports whether what was read can't be what was stored.
func isDamage(err error) bool {
	return errors.Is(err, storage.ErrDamaged) || err != nil && sqlite.ErrCode(err).ToPrimary() == sqlite.ResultCorrupt
}

// isRefusal reports whether the database refuses the content of a call, and not the moment.
func isRefusal(err error) bool {
	refusals := []sqlite.ResultCode{sqlite.ResultConstraint, sqlite.ResultTooBig, sqlite.ResultMismatch, sqlite.ResultRange}
	return slices.Contains(refusals, sqlite.ErrCode(err).ToPrimary())
}
