package sqlite

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"
)

// openLogged opens a database and returns its log.
func openLogged(t *testing.T, path string, fatal func(error)) (*DB, *bytes.Buffer) {
	t.Helper()
	var log bytes.Buffer // only the writer logs, before it answers
	db, err := Open(t.Context(), path, Options{Logger: slog.New(slog.NewTextHandler(&log, nil)), Fatal: fatal})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db, &log
}

// TestSecondFailedSync: a commit whose sync failed is reported as failed. The second failed sync
// ends the process. Until it ends, nothing more is reported as stored.
func TestSecondFailedSync(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sheaf.db")
	var ends []error
	db, log := openLogged(t, path, func(err error) { ends = append(ends, err) })
	unsynced := func() error {
		return db.write(t.Context(), "store", func(*sqlite.Conn) error { return sqlite.ResultIOErrFsync.ToError() })
	}
	if err := unsynced(); err == nil || len(ends) > 0 || !strings.Contains(log.String(), "could not sync") || !strings.Contains(log.String(), path) {
		t.Fatalf("after the first: %v, %v\n%s", err, ends, log)
	}
	create(t, db, newBatch(1))
	if err := unsynced(); err == nil || len(ends) != 1 || !strings.Contains(ends[0].Error(), path) || !strings.Contains(log.String(), "second time") {
		t.Fatalf("after the second: %v, %v\n%s", err, ends, log)
	}
	if c, err := db.Create(t.Context(), newBatch(1)); err == nil {
		t.Errorf("%+v was reported as stored", c)
	}
}

// TestFailedMove: an error while the WAL is copied into the database file ends the process at once,
// unless the disk is full or the file is locked.
func TestFailedMove(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sheaf.db")
	var ends []error
	db, _ := openLogged(t, path, func(err error) { ends = append(ends, err) })
	for _, passing := range []sqlite.ResultCode{sqlite.ResultFull, sqlite.ResultBusy} {
		db.writer.noteMove(passing.ToError())
	}
	create(t, db, newBatch(1))
	db.writer.noteMove(sqlite.ResultIOErrFsync.ToError())
	if len(ends) != 1 || !strings.Contains(ends[0].Error(), path) {
		t.Fatal(ends)
	}
	if c, err := db.Create(t.Context(), newBatch(1)); err == nil {
		t.Errorf("%+v was reported as stored", c)
	}
}

// TestFailedRollback: a connection that can't roll back is replaced, and the next change succeeds.
func TestFailedRollback(t *testing.T) {
	db, log := openLogged(t, filepath.Join(t.TempDir(), "sheaf.db"), nil)
	x := newBatch(1)
	create(t, db, x)
	ended := make(chan struct{})
	close(ended)
	broken := errors.New("broken")
	err := db.write(t.Context(), "store", func(c *sqlite.Conn) error {
		if err := query(c, "put_setting", nil, "name", "half"); err != nil {
			return err
		}
		c.SetInterrupt(ended) // everything that the connection does from now on fails
		return broken
	})
	if !errors.Is(err, broken) || !strings.Contains(log.String(), "can't roll back") {
		t.Errorf("got %v\n%s", err, log)
	}
	create(t, db, newBatch(1))
	if value, err := db.Setting(t.Context(), "name"); value != "" || err != nil {
		t.Errorf("a change that failed left %q, %v", value, err)
	}
}

// TestRemovedIsOverwritten: deleted data is no longer in the file.
func TestRemovedIsOverwritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sheaf.db")
	db := open(t, path)
	const secret = "a sealed credential of the test"
	keep := func() {
		t.Helper()
		for i := range 50 { // these keep pages in use, so that the file is not shortened
			if err := db.PutSetting(t.Context(), fmt.Sprint(i), strings.Repeat("kept", 1000)); err != nil {
				t.Fatal(err)
			}
		}
	}
	keep()
	x := newBatch(3)
	x.Credential = []byte(strings.Repeat(secret, 1000))
	create(t, db, x)
	for _, sql := range []string{"DELETE FROM requests", "UPDATE batches SET credential = NULL"} {
		if err := db.write(t.Context(), "remove", func(c *sqlite.Conn) error { return sqlitex.ExecuteTransient(c, sql, nil) }); err != nil {
			t.Fatal(err)
		}
	}
	db.Close()
	if bytes.Contains(content(t, path), []byte(secret)) {
		t.Error("the file still holds deleted data")
	}
}

// TestLogThatStaysLong: if another program prevents the log from being restarted, that is logged,
// and its length is part of the overview.
func TestLogThatStaysLong(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sheaf.db")
	db, log := openLogged(t, path, nil)
	c, err := sqlite.OpenConn(path, sqlite.OpenReadOnly)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, sql := range []string{"BEGIN", "SELECT count(*) FROM batches"} {
		if err := sqlitex.ExecuteTransient(c, sql, nil); err != nil {
			t.Fatal(err)
		}
	}
	const long = logLimit + 1<<20
	if err := os.Truncate(path+"-wal", long); err != nil {
		t.Fatal(err)
	}
	for i := range 2 * shortenEvery {
		if err := db.PutSetting(t.Context(), "name", fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	if n := strings.Count(log.String(), "log stays long"); n != 1 {
		t.Errorf("it is logged %d times, want 1\n%s", n, log)
	}
	o, err := db.Overview(t.Context(), 1)
	if err != nil || o.LogBytes != long {
		t.Errorf("the log has %d bytes, want %d; %v", o.LogBytes, long, err)
	}
}
