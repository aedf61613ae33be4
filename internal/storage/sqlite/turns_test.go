package sqlite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
	"github.com/sheafapi/sheaf/internal/storage/internal/driver"
	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"
)

var mallory = storage.Caller{Store: "m", Owner: batch.OwnerOf("mallory")}

// madeUp returns a different caller, in a store of its own, for each i.
func madeUp(i int) storage.Caller {
	return storage.Caller{Store: fmt.Sprint("m", i), Owner: batch.OwnerOf(fmt.Sprint(i))}
}

func batchOf(store string) *storage.NewBatch {
	return &storage.NewBatch{
		Ticket: uuid.New(), Store: store, Queue: store, Owner: batch.OwnerOf("token"), Credential: []byte("sealed"),
		Requests: []batch.Request{{Method: "POST", Path: "products"}},
	}
}

// stick makes more reads than may run, none of which ends before the test does. It returns once as
// many as possible are running. by returns the caller of each read.
func stick(t *testing.T, db *DB, running int, by func(i int) storage.Caller) {
	t.Helper()
	db.callerTimeout = time.Hour
	ctx, cancel := context.WithCancel(t.Context())
	began, over := make(chan struct{}, 4*running), make(chan struct{})
	var calls sync.WaitGroup
	for i := range 4 * running {
		calls.Go(func() {
			_ = db.readFor(ctx, by(i), "wait", func(*sqlite.Conn) error {
				began <- struct{}{}
				<-over
				return nil
			})
		})
	}
	t.Cleanup(func() {
		cancel()
		close(over)
		calls.Wait()
	})
	for range running {
		<-began
	}
}

// TestReadsLeaveConnections: callers' reads that don't end keep neither batches from running nor
// callers from creating. The reads of one caller don't keep others from reading.
func TestReadsLeaveConnections(t *testing.T) {
	t.Run("of many callers", func(t *testing.T) {
		db := openNew(t).(*DB)
		stick(t, db, callersReads, madeUp)
		ctx, b := t.Context(), batchOf("bob")
		created, err := db.Create(ctx, b)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := db.Runnable(ctx, 0, 10); err != nil {
			t.Error(err)
		}
		c, err := db.Claim(ctx, created.Queue)
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Load(ctx, c); err != nil {
			t.Error(err)
		}
		if _, err := db.Record(ctx, c, nil); err != nil {
			t.Error(err)
		}
		if _, err := db.Results(storage.ForService(ctx), c.ID, 0, 1); err != nil {
			t.Error(err)
		}
		if _, err := db.Finish(ctx, c, nil, "", false); err != nil {
			t.Error(err)
		}
	})
	t.Run("of one caller", func(t *testing.T) {
		db := openNew(t).(*DB)
		b := batchOf("bob")
		if _, err := db.Create(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		stick(t, db, callersReads-1, func(int) storage.Caller { return mallory })
		if _, err := db.Status(t.Context(), storage.Key{Store: b.Store, Owner: b.Owner, Ticket: b.Ticket}, 1<<20); err != nil {
			t.Error(err)
		}
		if _, err := db.Find(t.Context(), storage.Filter{Store: b.Store, Owner: b.Owner, Limit: 10}); err != nil {
			t.Error(err)
		}
	})
}

// TestCreatesWaitInTurns: however many creates of one store wait for the writer, other stores don't
// wait for all of them.
func TestCreatesWaitInTurns(t *testing.T) {
	db := openNew(t).(*DB)
	db.callerTimeout = time.Hour
	ctx, cancel := context.WithCancel(t.Context())
	began, over := make(chan struct{}), make(chan struct{})
	var calls sync.WaitGroup
	calls.Go(func() {
		_ = db.write(t.Context(), "keep the writer busy", func(*sqlite.Conn) error {
			close(began)
			<-over
			return nil
		})
	})
	<-began
	refused := make(chan error, 2*callersWrites+1000)
	for i := range cap(refused) {
		calls.Go(func() {
			b := batchOf(mallory.Store)
			b.Owner = batch.OwnerOf(fmt.Sprint(i / 200))
			_, err := db.Create(ctx, b)
			if err != nil {
				refused <- err
			}
		})
	}
	if err := <-refused; !errors.Is(err, storage.ErrTooManyCalls) {
		t.Errorf("got %v, want %v", err, storage.ErrTooManyCalls)
	}
	if n := len(db.writer.queue); n >= callersWrites {
		t.Errorf("%d creates of one store wait for the writer", n)
	}
	done := make(chan error)
	go func() {
		_, err := db.Create(t.Context(), batchOf("bob"))
		done <- err
	}()
	close(over)
	if err := <-done; err != nil {
		t.Error(err)
	}
	cancel()
	calls.Wait()
}

// TestLargeOperationsInTurns: many large operations of one store delay a large operation of another
// store by only one of them, and a small operation too.
func TestLargeOperationsInTurns(t *testing.T) {
	db := openNew(t).(*DB)
	var order []string // the order in which the operations ran, one after the other
	var calls sync.WaitGroup
	operate := func(store string, bytes int, run func()) {
		err := db.operate(t.Context(), "write", &operation{bytes: bytes, by: storage.Caller{Store: store}, run: func(*sqlite.Conn) error {
			order = append(order, fmt.Sprint(store, bytes > largeOperation))
			run()
			return nil
		}})
		if err != nil {
			t.Error(err)
		}
	}
	began, over := make(chan struct{}), make(chan struct{})
	calls.Go(func() {
		operate("m", 1<<20, func() {
			close(began)
			<-over
		})
	})
	<-began
	for range 20 {
		calls.Go(func() { operate("m", 1<<20, func() {}) })
	}
	for db.large.Waiting() < 20 {
		runtime.Gosched()
	}
	calls.Go(func() { operate("bob", 1<<20, func() {}) })
	for db.large.Waiting() < 21 {
		runtime.Gosched()
	}
	calls.Go(func() { operate("bob", 1, func() {}) })
	for len(db.writer.queue) == 0 {
		runtime.Gosched()
	}
	close(over)
	calls.Wait()
	if len(order) != 23 || order[1] != "bobfalse" || !slices.Contains(order[:4], "bobtrue") {
		t.Errorf("the operations ran in the order %v", order)
	}
}

// TestLargeCreatesLeaveSmallOnes: a small create of another store succeeds, however many large
// creates wait for their turn.
func TestLargeCreatesLeaveSmallOnes(t *testing.T) {
	db := openNew(t).(*DB)
	db.callerTimeout = time.Hour
	ctx, cancel := context.WithCancel(t.Context())
	if err := db.large.Acquire(ctx, driver.Results, storage.Caller{Store: "m"}); err != nil {
		t.Fatal(err)
	}
	var calls sync.WaitGroup
	for i := range 2 * callersWrites {
		calls.Go(func() {
			_ = db.writeFor(ctx, madeUp(i), 1<<20, "write", func(*sqlite.Conn) error { return nil })
		})
	}
	for db.large.Waiting() < 2*callersWrites && db.writes.Waiting() == 0 {
		runtime.Gosched()
	}
	limited, stop := context.WithTimeout(t.Context(), 10*time.Second)
	defer stop()
	if _, err := db.Create(limited, batchOf("bob")); err != nil {
		t.Error(err)
	}
	cancel()
	calls.Wait()
	db.large.Release(driver.Results, storage.Caller{Store: "m"})
}

// TestLargeCreatesHoldNoTurn: a caller whose small creates use up its slots can't hold the turn of
// large operations meanwhile.
func TestLargeCreatesHoldNoTurn(t *testing.T) {
	db := openNew(t).(*DB)
	db.callerTimeout = time.Hour
	mallory := storage.Caller{Store: "m"}
	full, end := context.WithCancel(t.Context())
	defer end()
	var waiting sync.WaitGroup
	for range callersWrites {
		waiting.Go(func() {
			if db.writes.Acquire(full, driver.Creates, mallory) == nil {
				<-full.Done()
				db.writes.Release(driver.Creates, mallory)
			}
		})
	}
	for db.writes.Waiting() == 0 {
		runtime.Gosched()
	}
	limited, stop := context.WithTimeout(t.Context(), 10*time.Second)
	defer stop()
	if err := db.writeFor(limited, mallory, 1<<20, "write", func(*sqlite.Conn) error { return nil }); err != nil {
		t.Error(err)
	}
	end()
	waiting.Wait()
}

// TestLargeCreatesWaitBriefly: a large create that gets no turn in time is refused as busy.
func TestLargeCreatesWaitBriefly(t *testing.T) {
	db := openNew(t).(*DB)
	db.callerTimeout = time.Millisecond
	other := storage.Caller{Store: "m"}
	if err := db.large.Acquire(t.Context(), driver.Results, other); err != nil {
		t.Fatal(err)
	}
	defer db.large.Release(driver.Results, other)
	err := db.writeFor(t.Context(), madeUp(1), 1<<20, "write", func(*sqlite.Conn) error { return nil })
	if !errors.Is(err, storage.ErrBusy) {
		t.Errorf("%v, want %v", err, storage.ErrBusy)
	}
}

// TestLargeOperationsLeaveTheLog: what large operations have written is moved from the log into the
// file, even if nothing else happens.
func TestLargeOperationsLeaveTheLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sheaf.db")
	db := open(t, path)
	const bytes = 8 << 20 // less than the size at which SQLite itself moves the log
	err := db.operate(t.Context(), "write", &operation{bytes: bytes, run: func(c *sqlite.Conn) error {
		return query(c, "put_setting", nil, "large", strings.Repeat("x", bytes))
	}})
	if err != nil {
		t.Fatal(err)
	}
	for size := int64(0); size < bytes; runtime.Gosched() {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		size = info.Size()
	}
}

// TestLongReadsEnd: a caller's read doesn't hold its connection forever, and the connection works
// afterwards.
func TestLongReadsEnd(t *testing.T) {
	db := openNew(t).(*DB)
	db.callerTimeout = 10 * time.Millisecond
	err := db.readFor(t.Context(), mallory, "count", func(c *sqlite.Conn) error {
		return sqlitex.Execute(c, "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n", nil)
	})
	if !errors.Is(err, errSlow) {
		t.Errorf("got %v, want %v", err, errSlow)
	}
	db.callerTimeout = time.Hour
	for range 2 * readers {
		if _, err := db.Find(t.Context(), storage.Filter{Store: "m", Limit: 1}); err != nil {
			t.Error(err)
		}
	}
}

// TestWaitingEnds: a caller that gets no connection in time learns that the database is busy.
func TestWaitingEnds(t *testing.T) {
	db := openNew(t).(*DB)
	stick(t, db, callersReads, madeUp)
	limited, cancel := context.WithTimeoutCause(t.Context(), time.Millisecond, errSlow)
	defer cancel()
	if _, err := db.Find(limited, storage.Filter{Store: "m", Limit: 1}); !errors.Is(err, storage.ErrBusy) {
		t.Errorf("got %v, want %v", err, storage.ErrBusy)
	}
}
