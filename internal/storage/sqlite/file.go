package sqlite

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"
	"github.com/sheafapi/sheaf/internal/storage/internal/driver"
	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitemigration"
	"zombiezen.com/go/sqlite/sqlitex"
)

// appID identifies this application in the header of its database files ("shea").
const appID = 0x73686561

const (
	checkpointPages = 4000 // length of the log, in pages of 4 KiB, at which it is moved into the file
	logReserve      = checkpointPages * (4096 + 24)
	logLimit        = 64 << 20    // maximum size in bytes of the log on disk after it was moved
	writerCache     = 16 << 10    // KiB of pages that the writer keeps in memory
	readerCache     = 2 << 10     // KiB of pages that each reader keeps in memory
	busyTimeout     = time.Minute // how long to wait for another program's lock, such as a backup's
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// readSchema returns the schema's steps. A released step never changes. As with PostgreSQL, a step
// that removes what older versions use has a line "-- needs: N".
func readSchema() (driver.Schema, error) {
	files, err := fs.Sub(migrationFiles, "migrations")
	if err != nil {
		return driver.Schema{}, err
	}
	return driver.ReadSchema(files)
}

// resolve returns the absolute path without symbolic links, so that two names of one file share a
// lock.
func resolve(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return "", errors.New("it is not a regular file; choose another")
	}
	if target, err := filepath.EvalSymlinks(path); err == nil {
		return target, nil
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil {
		return "", fmt.Errorf("the folder %s can't be used; create it, or choose another: %w", filepath.Dir(path), err)
	}
	return filepath.Join(dir, filepath.Base(path)), nil
}

// lockFile takes the lock that makes this process the owner of the file. The lock file is never
// removed: otherwise two processes could lock two different files of the same name.
func lockFile(path string) (*flock.Flock, error) {
	lock := flock.New(path+".lock", flock.SetPermissions(0o600))
	ok, err := lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("lock the database: %w", err)
	}
	if !ok {
		return nil, errors.New("another process has this database open; stop that process, or give each its own file")
	}
	return lock, nil
}

// inspect refuses a file that this version must not write to. It changes nothing.
func inspect(ctx context.Context, path string) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Size() == 0:
		return nil
	}
	schema, err := readSchema()
	if err != nil {
		return err
	}
	h, err := readHeader(ctx, path, sqlite.OpenReadOnly)
	if sqlite.ErrCode(err) == sqlite.ResultReadOnlyRollback {
		// The process that created the file died in its first transaction, before it switched on
		// the log. Opening the file for writing rolls that transaction back.
		h, err = readHeader(ctx, path, sqlite.OpenReadWrite)
	}
	switch {
	case err != nil:
		return err
	case h.application != appID && (h.application != 0 || h.schema != 0):
		return errors.New("it is the database of another application; choose another file")
	}
	return schema.Accept(h.version, h.note)
}

// header is the identity and version that a file states.
type header struct {
	application int64  // the application's ID; 0: none
	version     int64  // version of Sheaf's schema
	schema      int64  // how often the schema has changed; 0: the file has no schema
	note        string // see driver.SchemaSetting; empty: none
}

func readHeader(ctx context.Context, path string, flags sqlite.OpenFlags) (h header, err error) {
	c, err := sqlite.OpenConn(path, flags)
	if err != nil {
		return h, err
	}
	defer c.Close()
	c.SetInterrupt(ctx.Done())
	if h.application, err = pragmaInt(c, "application_id"); err != nil {
		return h, err
	}
	if h.version, err = pragmaInt(c, "user_version"); err != nil {
		return h, err
	}
	if h.schema, err = pragmaInt(c, "schema_version"); err != nil || h.version == 0 || h.application != appID {
		return h, err
	}
	h.note, err = readNote(c)
	return h, err
}

func readNote(c *sqlite.Conn) (note string, err error) {
	err = query(c, "setting", func(s *sqlite.Stmt) error {
		note = s.ColumnText(0)
		return nil
	}, driver.SchemaSetting)
	return note, err
}

// bringUp makes the missing steps of the schema, each in its own transaction, and records which
// versions can use the schema. It doesn't change a newer schema.
func bringUp(ctx context.Context, c *sqlite.Conn) error {
	schema, err := readSchema()
	if err != nil {
		return err
	}
	if err := sqlitemigration.Migrate(ctx, c, sqlitemigration.Schema{AppID: appID, Migrations: schema.Steps()}); err != nil {
		return err
	}
	version, err := pragmaInt(c, "user_version")
	if err != nil || version > schema.Version() {
		return err
	}
	note, err := readNote(c)
	if err != nil || note == schema.Note(version) {
		return err
	}
	return query(c, "put_setting", nil, driver.SchemaSetting, schema.Note(version))
}

// prepareFile creates the file if there is none, readable only by its owner, because it holds
// encrypted credentials. It rewrites and syncs the log that an earlier process left. After a failed
// sync, that log may exist only in the operating system's cache, and a later sync doesn't write
// pages that the cache considers clean. Call it before the file has connections, because closing a
// file releases all locks that the process has on it.
func prepareFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := rewrite(path + "-wal"); err != nil {
		return fmt.Errorf("rewrite the log: %w", err)
	}
	return nil
}

// rewrite writes a file's content over itself and syncs the file.
func rewrite(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	buf := make([]byte, 1<<20)
	for at := int64(0); err == nil; {
		var n int
		n, err = f.ReadAt(buf, at)
		if _, e := f.WriteAt(buf[:n], at); e != nil {
			err = e
		}
		at += int64(n)
	}
	if errors.Is(err, io.EOF) {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// openWriter prepares the file, opens the writer's connection, and brings the schema up to date.
func openWriter(ctx context.Context, path string) (*sqlite.Conn, error) {
	if err := prepareFile(path); err != nil {
		return nil, err
	}
	return connectWriter(ctx, path)
}

// connectWriter is openWriter for a file that already has connections.
func connectWriter(ctx context.Context, path string) (_ *sqlite.Conn, err error) {
	c, err := sqlite.OpenConn(path, sqlite.OpenReadWrite)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	c.SetBusyTimeout(busyTimeout)
	for _, pragma := range []string{
		"auto_vacuum = INCREMENTAL", // affects only a new file
		"journal_mode = WAL",
		"synchronous = FULL",
		"fullfsync = ON", // macOS: also sync the disk's own cache
		"checkpoint_fullfsync = ON",
		"trusted_schema = OFF",
		"temp_store = MEMORY",
		"secure_delete = ON",     // overwrite deleted data
		"wal_autocheckpoint = 0", // writer.checkpoint does this instead, because SQLite doesn't report failures
		fmt.Sprintf("journal_size_limit = %d", logLimit),
		fmt.Sprintf("cache_size = -%d", writerCache),
	} {
		if err := sqlitex.ExecuteTransient(c, "PRAGMA "+pragma, nil); err != nil {
			return nil, fmt.Errorf("pragma %s: %w", pragma, err)
		}
	}
	if err := checkDurable(c); err != nil {
		return nil, err
	}
	if err := bringUp(ctx, c); err != nil {
		return nil, err
	}
	return c, reserveLog(path + "-wal")
}

// reserveLog extends the log with zeros to the length at which it is moved into the file. Syncing a
// file that doesn't grow takes half as long (measured: 100 instead of 205 µs). SQLite stops reading
// the log at the first frame with a wrong checksum, so it ignores the zeros.
func reserveLog(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	size, err := f.Seek(0, io.SeekEnd)
	zeros := make([]byte, 1<<20)
	for ; err == nil && size < logReserve; size += int64(len(zeros)) {
		_, err = f.Write(zeros)
	}
	if err == nil {
		err = f.Sync()
	}
	if closing := f.Close(); err == nil {
		err = closing
	}
	if err != nil {
		return fmt.Errorf("reserve the log: %w", err)
	}
	return nil
}

// checkDurable refuses a connection whose commits might not be on disk when they return.
func checkDurable(c *sqlite.Conn) error {
	var mode string
	err := sqlitex.ExecuteTransient(c, "PRAGMA journal_mode", &sqlitex.ExecOptions{ResultFunc: func(s *sqlite.Stmt) error {
		mode = s.ColumnText(0)
		return nil
	}})
	if err != nil {
		return err
	}
	level, err := pragmaInt(c, "synchronous")
	if err != nil {
		return err
	}
	const full = 2
	if mode != "wal" || level < full {
		return fmt.Errorf("it would lose acknowledged batches in a power cut: journal_mode is %q and synchronous is %d, but must be wal and at least %d; use a file on a local disk", mode, level, full)
	}
	return nil
}

// openMover opens the connection that moves the log into the file.
func openMover(path string) (*sqlite.Conn, error) {
	c, err := sqlite.OpenConn(path, sqlite.OpenReadWrite)
	if err != nil {
		return nil, err
	}
	if err := sqlitex.ExecuteTransient(c, "PRAGMA checkpoint_fullfsync = ON", nil); err != nil {
		return nil, errors.Join(fmt.Errorf("pragma checkpoint_fullfsync: %w", err), c.Close())
	}
	return c, nil
}

// prepareReader configures a connection of the read pool.
func prepareReader(c *sqlite.Conn) error {
	c.SetBusyTimeout(busyTimeout)
	for _, pragma := range []string{
		"query_only = ON",
		"trusted_schema = OFF",
		fmt.Sprintf("cache_size = -%d", readerCache),
	} {
		if err := sqlitex.ExecuteTransient(c, "PRAGMA "+pragma, nil); err != nil {
			return fmt.Errorf("pragma %s: %w", pragma, err)
		}
	}
	return nil
}

// pragmaInt reads a pragma whose value is a number.
func pragmaInt(c *sqlite.Conn, name string) (n int64, err error) {
	err = sqlitex.ExecuteTransient(c, "PRAGMA "+name, &sqlitex.ExecOptions{ResultFunc: func(s *sqlite.Stmt) error {
		n = s.ColumnInt64(0)
		return nil
	}})
	return n, err
}

// explain adds to a SQLite error what the operator can do about it.
func explain(err error) error {
	if err == nil {
		return nil
	}
	var advice string
	switch sqlite.ErrCode(err).ToPrimary() {
	case sqlite.ResultFull:
		advice = "the disk is full: make room, nothing that was acknowledged is lost"
	case sqlite.ResultCorrupt:
		advice = "the file is damaged: restore it from a backup, or salvage it with the sqlite3 shell's .recover"
	case sqlite.ResultNotADB:
		advice = "the file is no SQLite database: choose another file"
	case sqlite.ResultReadOnly, sqlite.ResultCantOpen, sqlite.ResultPerm:
		advice = "the file and its folder have to be writable by this process"
	case sqlite.ResultBusy:
		advice = "another program holds a lock on the file"
	case sqlite.ResultIOErr:
		advice = "the disk reported an error: look at the system's log"
	default:
		return err
	}
	return fmt.Errorf("%s (%w)", advice, err)
}
