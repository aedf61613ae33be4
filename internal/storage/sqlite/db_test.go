package sqlite

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
	"github.com/sheafapi/sheaf/internal/storage/storagetest"
	"go.uber.org/goleak"
	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"
)

// TestMain checks each property 25 times. make chaos checks them more often, with -rapid.checks.
func TestMain(m *testing.M) {
	flag.Set("rapid.checks", "25")
	goleak.VerifyTestMain(m)
}

func open(t *testing.T, path string) *DB {
	t.Helper()
	db, err := Open(t.Context(), path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func openNew(t *testing.T) storage.Storage { return open(t, filepath.Join(t.TempDir(), "sheaf.db")) }

func TestStorage(t *testing.T) { storagetest.Run(t, openNew) }

func TestModel(t *testing.T) { storagetest.RunModel(t, openNew) }

func TestReopen(t *testing.T) {
	storagetest.RunReopen(t, func(t *testing.T) func(t *testing.T) storage.Storage {
		path := filepath.Join(t.TempDir(), "sheaf.db")
		return func(t *testing.T) storage.Storage { return open(t, path) }
	})
}

// newBatch returns a batch of n requests for a store.
func newBatch(n int) *storage.NewBatch {
	const store = "s"
	b := &storage.NewBatch{Ticket: uuid.New(), Store: store, Queue: store, Owner: batch.OwnerOf("token"), Credential: []byte("sealed")}
	for i := range n {
		b.Requests = append(b.Requests, batch.Request{ID: fmt.Sprint(i), Method: "POST", Path: "products", Body: []byte(`{"name":"Chair"}`)})
	}
	return b
}

func key(b *storage.NewBatch) storage.Key {
	return storage.Key{Store: b.Store, Owner: b.Owner, Ticket: b.Ticket}
}

func create(t *testing.T, db *DB, b *storage.NewBatch) storage.QueueID {
	t.Helper()
	c, err := db.Create(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	return c.Queue
}

// script runs SQL on a file as another program would.
func script(t *testing.T, path, sql string) {
	t.Helper()
	c, err := sqlite.OpenConn(path, sqlite.OpenReadWrite|sqlite.OpenCreate)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := sqlitex.ExecuteScript(c, sql, nil); err != nil {
		t.Fatal(err)
	}
}

func TestRefusals(t *testing.T) {
	tests := map[string]struct {
		make func(t *testing.T, path string)
		want string
	}{
		"a newer version's": {func(t *testing.T, path string) {
			db := open(t, path)
			create(t, db, newBatch(3))
			db.Close()
			script(t, path, "PRAGMA user_version = 9000")
		}, "newer version of Sheaf (schema 9000"},
		"another application's": {func(t *testing.T, path string) {
			script(t, path, "PRAGMA application_id = 77; CREATE TABLE t (x)")
		}, "another application"},
		"another application's, without an id": {func(t *testing.T, path string) {
			script(t, path, "CREATE TABLE t (x)")
		}, "another application"},
		"no database": {func(t *testing.T, path string) {
			write(t, path, strings.Repeat("not a database, ", 1000))
		}, "no SQLite database"},
		"a folder": {func(t *testing.T, path string) {
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
		}, "regular file"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "sheaf.db")
			tt.make(t, path)
			before := content(t, path)
			db, err := Open(t.Context(), path, Options{})
			if err == nil {
				db.Close()
				t.Fatal("it was opened")
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got error %q, want one with %q", err, tt.want)
			}
			if !bytes.Equal(before, content(t, path)) {
				t.Error("the file was changed")
			}
		})
	}
	t.Run("no folder", func(t *testing.T) {
		_, err := Open(t.Context(), filepath.Join(t.TempDir(), "none", "sheaf.db"), Options{})
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("got %v", err)
		}
	})
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func content(t *testing.T, path string) []byte {
	t.Helper()
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestOneProcess(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "sheaf.db")
	db := open(t, path)
	link := filepath.Join(dir, "link.db")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{path, link} {
		if _, err := Open(t.Context(), p, Options{}); err == nil || !strings.Contains(err.Error(), "another process") {
			t.Errorf("%s was opened twice: %v", filepath.Base(p), err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, link)
}

// TestFirstStartKilled: a process that died in its very first transaction, before it switched on
// the log, leaves a rollback journal. The next start rolls that transaction back.
func TestFirstStartKilled(t *testing.T) {
	dir := t.TempDir()
	c, err := sqlite.OpenConn(filepath.Join(dir, "dying.db"), sqlite.OpenReadWrite|sqlite.OpenCreate)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	// More than the cache holds, so that pages and journal are written before the commit.
	for _, sql := range []string{
		fmt.Sprintf("PRAGMA application_id = %d", appID),
		"PRAGMA cache_size = 1", "BEGIN", "CREATE TABLE t (x)",
		"INSERT INTO t VALUES (zeroblob(1000000))", "INSERT INTO t VALUES (zeroblob(1000000))",
	} {
		if err := sqlitex.ExecuteTransient(c, sql, nil); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, "sheaf.db")
	for _, suffix := range []string{"", "-journal"} {
		write(t, path+suffix, string(content(t, filepath.Join(dir, "dying.db"+suffix))))
	}
	if _, err := readHeader(t.Context(), path, sqlite.OpenReadOnly); sqlite.ErrCode(err) != sqlite.ResultReadOnlyRollback {
		t.Fatalf("the journal is not hot: %v", err)
	}
	create(t, open(t, path), newBatch(1))
}

// TestDurable checks the settings of the writer's connection, and that a connection that would not
// sync is refused.
func TestDurable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sheaf.db")
	c, err := openWriter(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := checkDurable(c); err != nil {
		t.Error(err)
	}
	// 3.51.3 fixed a rare corruption of the log.
	var version string
	err = sqlitex.ExecuteTransient(c, "SELECT sqlite_version()", &sqlitex.ExecOptions{ResultFunc: func(s *sqlite.Stmt) error {
		version = s.ColumnText(0)
		return nil
	}})
	if err != nil || version < "3.51.3" {
		t.Errorf("SQLite is version %s; %v", version, err)
	}
	for _, pragma := range []string{"synchronous = NORMAL", "synchronous = OFF"} {
		if err := sqlitex.ExecuteTransient(c, "PRAGMA "+pragma, nil); err != nil {
			t.Fatal(err)
		}
		if err := checkDurable(c); err == nil {
			t.Errorf("%s is not refused", pragma)
		}
	}
	memory, err := sqlite.OpenConn(":memory:")
	if err != nil {
		t.Fatal(err)
	}
	defer memory.Close()
	if err := checkDurable(memory); err == nil {
		t.Error("a database in memory is not refused")
	}
}

func TestPermissions(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sheaf.db")
	create(t, open(t, path), newBatch(1))
	files, err := filepath.Glob(path + "*")
	if err != nil || len(files) < 3 {
		t.Fatalf("%v %v", files, err)
	}
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s can be read by others: %v", filepath.Base(f), info.Mode())
		}
	}
}

// TestPlans checks that every statement uses an index, so that none reads a whole table. The
// statements of Abandon, and those on the small settings table, are exceptions because their work
// is limited in another way.
func TestPlans(t *testing.T) {
	c, err := openWriter(t.Context(), filepath.Join(t.TempDir(), "sheaf.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for name, text := range queries {
		if strings.HasPrefix(text, "BEGIN") || text == "COMMIT;" || text == "ROLLBACK;" {
			continue
		}
		s, _, err := c.PrepareTransient("EXPLAIN QUERY PLAN " + text)
		if err != nil {
			t.Fatalf("statement %s: %v", name, err)
		}
		for {
			ok, err := s.Step()
			if err != nil {
				t.Fatalf("statement %s: %v", name, err)
			}
			if !ok {
				break
			}
			step := s.ColumnText(3)
			switch name {
			case "read_journal", "release_queues", // read the whole table, but only when a file is opened or after a restore
				"outages",             // has a row for each upstream
				"expired_credentials", // has an index with these only
				"forget_credentials":  // reads the credentials of a week, once a minute
				continue
			case "search_all", "find_any", "find_open": // combine at most three pages
				continue
			case "used_size": // reads three numbers of the file, and no table
				continue
			case "loads", "count_queues", "file_size": // read the queues that have work, for an operator
				continue
			case "seals": // reads the unfinished batches, once at startup
				continue
			case "holds", "delete_holds": // read a row for each credential that was held back in the last minutes
				continue
			}
			if strings.HasPrefix(step, "SCAN") && !strings.Contains(step, "INDEX batches_open") && !strings.Contains(step, "INDEX queues_open") && step != "SCAN CONSTANT ROW" || strings.Contains(step, "TEMP B-TREE") {
				t.Errorf("statement %s: %s", name, step)
			}
		}
		if err := s.Finalize(); err != nil {
			t.Error(err)
		}
	}
}

// TestDiskFull fills the file up to a limit. What fails says why, what was acknowledged stays, and
// with more room, work continues.
func TestDiskFull(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sheaf.db")
	db := open(t, path)
	limit := func(pages int64) {
		t.Helper()
		err := db.write(t.Context(), "limit the file", func(c *sqlite.Conn) error {
			n, err := pragmaInt(c, "page_count")
			if err != nil {
				return err
			}
			return sqlitex.ExecuteTransient(c, fmt.Sprintf("PRAGMA max_page_count = %d", n+pages), nil)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	limit(64)
	var kept []*storage.NewBatch
	var err error
	for range 10_000 {
		b := newBatch(50)
		for i := range b.Requests {
			b.Requests[i].Body = []byte(uuid.NewString())
		}
		if _, err = db.Create(t.Context(), b); err != nil {
			break
		}
		kept = append(kept, b)
	}
	if err == nil || !strings.Contains(err.Error(), "disk is full") {
		t.Fatalf("got %v, want an error that says that the disk is full", err)
	}
	if len(kept) == 0 {
		t.Fatal("nothing fitted")
	}
	for _, b := range kept {
		if _, err := db.Status(t.Context(), key(b), 0); err != nil {
			t.Fatal(err)
		}
	}
	limit(1_000_000)
	create(t, db, newBatch(50))
}

// TestGroupFailure: an operation that fails doesn't fail the others in its group.
func TestGroupFailure(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "sheaf.db"))
	entered, goOn := make(chan struct{}), make(chan struct{})
	held := make(chan error)
	go func() {
		held <- db.write(context.Background(), "hold the writer", func(*sqlite.Conn) error {
			close(entered)
			<-goOn
			return nil
		})
	}()
	<-entered
	broken := errors.New("broken")
	var results [9]chan error
	for i := range results {
		op := &operation{run: func(c *sqlite.Conn) error {
			if err := query(c, "put_setting", nil, fmt.Sprint(i), "stored"); err != nil {
				return err
			}
			if i == 5 {
				return broken
			}
			return nil
		}}
		results[i] = make(chan error, 1)
		go func() { results[i] <- db.writer.do(t.Context(), op) }()
	}
	for len(db.writer.queue) < len(results) {
		runtime.Gosched()
	}
	close(goOn)
	if err := <-held; err != nil {
		t.Error(err)
	}
	for i, result := range results {
		if err := <-result; i == 5 != errors.Is(err, broken) || i != 5 && err != nil {
			t.Errorf("operation %d: %v", i, err)
		}
	}
	for i := range 9 {
		want := "stored"
		if i == 5 {
			want = ""
		}
		if got, err := db.Setting(t.Context(), fmt.Sprint(i)); err != nil || got != want {
			t.Errorf("setting %d is %q, %v; want %q", i, got, err, want)
		}
	}
}

// TestCanceledWrite: a call that was given up before its turn changes nothing.
func TestCanceledWrite(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "sheaf.db"))
	entered, goOn, held := make(chan struct{}), make(chan struct{}), make(chan error)
	go func() {
		held <- db.write(context.Background(), "hold the writer", func(*sqlite.Conn) error {
			close(entered)
			<-goOn
			return nil
		})
	}()
	<-entered
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := db.PutSetting(ctx, "name", "value"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	close(goOn)
	if err := <-held; err != nil {
		t.Error(err)
	}
	if v, err := db.Setting(t.Context(), "name"); err != nil || v != "" {
		t.Errorf("got %q, %v", v, err)
	}
}

// TestSpace: the file doesn't grow without limit.
func TestSpace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sheaf.db")
	db := open(t, path)
	body := bytes.Repeat([]byte("x"), 20_000)
	var largest int64
	for range 10 {
		b := newBatch(200)
		q := create(t, db, b)
		c, err := db.Claim(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		var marks []storage.Mark
		for i := range 200 {
			marks = append(marks, storage.Mark{Index: i, State: storage.Done, Result: batch.Result{Status: batch.Succeeded, Code: 200, Body: body, Kind: batch.TextBody}})
		}
		if _, err := db.Finish(t.Context(), c, marks, "", false); err != nil {
			t.Fatal(err)
		}
		for more := true; more; {
			if more, err = db.Purge(t.Context(), 0); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := db.Status(t.Context(), key(b), 0); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("the purged batch: %v", err)
		}
		pages := int64(0)
		err = db.write(t.Context(), "count pages", func(c *sqlite.Conn) (err error) {
			pages, err = pragmaInt(c, "page_count")
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		largest = max(largest, pages)
	}
	if size := largest * 4096; size > 8<<20 {
		t.Errorf("after ten purged batches of 4 MB each the file has %d bytes", size)
	}
}

// TestDedupWindow: an hour after the first create, its key no longer leads to its batch.
func TestDedupWindow(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "sheaf.db"))
	first := newBatch(1)
	first.DedupKey = uuid.New()
	create(t, db, first)
	for _, tt := range []struct {
		age       time.Duration
		duplicate bool
	}{{59 * time.Minute, true}, {61 * time.Minute, false}} {
		err := db.write(t.Context(), "grow old", func(c *sqlite.Conn) error {
			return sqlitex.Execute(c, "UPDATE batches SET created_at = ?", &sqlitex.ExecOptions{Args: []any{time.Now().Add(-tt.age).UnixMilli()}})
		})
		if err != nil {
			t.Fatal(err)
		}
		again := newBatch(1)
		again.DedupKey = first.DedupKey
		c, err := db.Create(t.Context(), again)
		if err != nil || c.Duplicate != tt.duplicate || (c.Ticket == first.Ticket) != tt.duplicate {
			t.Errorf("after %v: %+v, %v", tt.age, c, err)
		}
	}
}

// TestWhatIsRemoved: when a batch ends, its credential is removed from the row. A deleted batch is
// purged whatever the retention.
func TestWhatIsRemoved(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "sheaf.db"))
	ended, deleted, unfinished := newBatch(1), newBatch(1), newBatch(1)
	q := create(t, db, ended)
	create(t, db, deleted)
	create(t, db, unfinished)
	c, err := db.Claim(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Finish(t.Context(), c, nil, "", true); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Delete(t.Context(), key(deleted)); err != nil {
		t.Fatal(err)
	}
	if more, err := db.Purge(t.Context(), 1000*time.Hour); err != nil || more {
		t.Fatalf("%v %v", more, err)
	}
	var got []string
	err = db.write(t.Context(), "look", func(c *sqlite.Conn) error {
		got = nil
		return sqlitex.ExecuteTransient(c, "SELECT id || iif(credential IS NULL, '', ' ' || CAST(credential AS TEXT)) FROM batches ORDER BY id", &sqlitex.ExecOptions{
			ResultFunc: func(s *sqlite.Stmt) error {
				got = append(got, s.ColumnText(0))
				return nil
			},
		})
	})
	if want := "1,3 sealed"; err != nil || strings.Join(got, ",") != want {
		t.Errorf("the rows are %q, want %q; %v", strings.Join(got, ","), want, err)
	}
}

// TestVersion1 opens a database of the first version, with a batch in each state, and finds
// everything. testdata/v1.sql is a dump of such a database and never changes. The test fails if a
// released migration is edited.
func TestVersion1(t *testing.T) {
	dump, err := os.ReadFile(filepath.Join("testdata", "v1.sql"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "sheaf.db")
	script(t, path, string(dump))
	fresh := filepath.Join(t.TempDir(), "fresh.db")
	if err := open(t, fresh).Close(); err != nil {
		t.Fatal(err)
	}
	db := open(t, path)
	for status, want := range map[batch.Status]int{batch.Queued: 1, batch.InProgress: 1, batch.Completed: 1} {
		found, err := db.Find(t.Context(), storage.Filter{Store: "s", Owner: batch.OwnerOf("token"), Status: status, Limit: 10})
		if err != nil || len(found.Batches) != want {
			t.Errorf("%v: found %v, %v", status, found, err)
		}
	}
	queues, err := db.Runnable(t.Context(), 0, 10)
	if err != nil || len(queues) != 1 {
		t.Fatalf("%v, %v", queues, err)
	}
	c, err := db.Claim(t.Context(), queues[0].Queue)
	if err == nil {
		err = db.Load(t.Context(), c)
	}
	if err != nil || len(c.Requests) != 2 || string(c.Requests[1].Body) != `{"name":"Chair"}` || len(c.Marks) != 2 || c.Marks[1].State != storage.Begun {
		t.Errorf("%+v, %v", c, err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if got, want := schema(t, path), schema(t, fresh); got != want {
		t.Errorf("the migrated schema is\n%s\nand a new one\n%s", got, want)
	}
}

// schema returns a file's tables and indexes.
func schema(t *testing.T, path string) string {
	t.Helper()
	c, err := sqlite.OpenConn(path, sqlite.OpenReadOnly)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var out strings.Builder
	err = sqlitex.ExecuteTransient(c, "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL AND name <> 'sqlite_sequence' ORDER BY name", &sqlitex.ExecOptions{
		ResultFunc: func(s *sqlite.Stmt) error {
			out.WriteString(s.ColumnText(0) + "\n")
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// TestLongReader: a long reader, such as a backup, makes the log grow, but nothing fails. Once it
// has gone, the log is cut.
func TestLongReader(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sheaf.db")
	db := open(t, path)
	c, err := sqlite.OpenConn(path, sqlite.OpenReadOnly)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	reader := func(sql string) {
		t.Helper()
		if err := sqlitex.ExecuteTransient(c, sql, nil); err != nil {
			t.Fatal(err)
		}
	}
	work := func() {
		t.Helper()
		for i := range 300 { // the log's length is checked every 256 commits
			if err := db.PutSetting(t.Context(), "name", fmt.Sprint(i)); err != nil {
				t.Fatal(err)
			}
		}
	}
	reader("BEGIN")
	reader("SELECT count(*) FROM batches")
	// As if commits had made the log grow to this size. SQLite ignores zeros after the log's end.
	if err := os.Truncate(path+"-wal", logLimit+1<<20); err != nil {
		t.Fatal(err)
	}
	work()
	reader("COMMIT")
	work()
	info, err := os.Stat(path + "-wal")
	if err != nil || info.Size() > logLimit {
		t.Errorf("the log has %d bytes, want at most %d; %v", info.Size(), logLimit, err)
	}
}
