//go:build postgres

package postgres

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
	"github.com/sheafapi/sheaf/internal/storage/internal/driver"
)

// Statements that wait in the server until a lock is free, without a time limit.
const (
	noLimits = "test_no_limits"
	slowCall = "test_slow_call"
	slowLock = 4711
)

func init() { //nolint:gochecknoinits // must run before any test prepares its statements
	queries[noLimits] = "SELECT set_config('lock_timeout', '0', true), set_config('statement_timeout', '0', true)"
	queries[slowCall] = "SELECT pg_advisory_xact_lock_shared($1)"
}

var mallory = storage.Caller{Store: "m", Owner: batch.OwnerOf("mallory")}

// hold runs a statement in a transaction that stays open until the test ends, on a connection that
// doesn't belong to the node.
func hold(t *testing.T, url, sql string, args ...any) {
	t.Helper()
	c, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	tx, err := c.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), sql, args...); err != nil {
		t.Fatal(err)
	}
}

// stick makes more calls than the lane may run at once. The server answers none of them until the
// test ends. stick returns once as many as possible are running. callerOf returns the caller of each
// call.
func stick(t *testing.T, url string, db *DB, l lane, running int, callerOf func(i int) storage.Caller) {
	t.Helper()
	db.readTimeout = time.Hour
	hold(t, url, "SELECT pg_advisory_xact_lock($1)", slowLock)
	ctx, cancel := context.WithCancel(t.Context())
	var calls sync.WaitGroup
	for i := range 4 * running {
		calls.Go(func() {
			if err := db.sendIn(ctx, lane{l.class, callerOf(i)}, []step{do(noLimits), do(slowCall, slowLock)}); ctx.Err() == nil {
				t.Errorf("a call that should be stuck ended: %v", err)
			}
		})
	}
	t.Cleanup(func() {
		cancel()
		calls.Wait()
	})
	await(t, url, db, running, "wait_event_type = 'Lock'")
}

func sameCaller(int) storage.Caller { return mallory }

// madeUp returns a different caller, in a store of its own, for each i.
func madeUp(i int) storage.Caller {
	return storage.Caller{Store: fmt.Sprint("m", i), Owner: batch.OwnerOf(fmt.Sprint(i))}
}

// await returns once the server has the wanted number of the node's connections in a state.
func await(t *testing.T, url string, db *DB, want int, state string) {
	t.Helper()
	c, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close(context.Background()) }()
	for {
		var n int
		err := c.QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity, pg_sleep(0.01) WHERE application_name = $1 AND "+state, db.process).Scan(&n)
		if err != nil {
			t.Fatal(err)
		}
		if n >= want {
			return
		}
	}
}

// node makes a node's own calls and those of another caller. All of them must succeed.
type node struct {
	t       *testing.T
	db      *DB
	claim   *storage.Claim // of a batch of three requests
	waiting storage.QueueID
	batch   *storage.NewBatch
}

func newNode(t *testing.T, db *DB) *node {
	b := newBatch("bob", 3)
	return &node{t: t, db: db, batch: b, claim: claimed(t, db, b), waiting: create(t, db, newBatch("carol", 1))}
}

func (n *node) do(what string, call func(ctx context.Context) error) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), time.Minute) // so that the test ends; a call takes milliseconds
	defer cancel()
	if err := call(ctx); err != nil {
		n.t.Errorf("%s: %v", what, err)
	}
}

func (n *node) staysInTouch() {
	n.t.Helper()
	n.do("renew the registration", n.db.Ping)
	n.do("authorize", func(ctx context.Context) error { return n.db.Authorize(ctx, n.claim) })
}

func (n *node) records() {
	n.t.Helper()
	n.do("record", func(ctx context.Context) error {
		_, err := n.db.Record(ctx, n.claim, []storage.Mark{done(0, "a")})
		return err
	})
	n.do("ask", func(ctx context.Context) error {
		_, err := n.db.Record(ctx, n.claim, nil)
		return err
	})
	n.do("finish", func(ctx context.Context) error {
		_, err := n.db.Finish(ctx, n.claim, []storage.Mark{done(1, "b")}, "", true)
		return err
	})
}

func (n *node) claims() {
	n.t.Helper()
	n.do("claim", func(ctx context.Context) error {
		c, err := n.db.Claim(ctx, n.waiting)
		if err != nil {
			return err
		}
		return n.db.Load(ctx, c)
	})
	n.do("look for queues", func(ctx context.Context) error {
		_, err := n.db.Runnable(ctx, 0, 10)
		return err
	})
}

func (n *node) othersCreate() {
	n.t.Helper()
	n.do("create", func(ctx context.Context) error {
		_, err := n.db.Create(ctx, newBatch("dave", 1))
		return err
	})
}

func (n *node) othersRead() {
	n.t.Helper()
	n.do("read", func(ctx context.Context) error {
		_, err := n.db.Status(ctx, key(n.batch), 1<<20)
		return err
	})
	n.do("search", func(ctx context.Context) error {
		_, err := n.db.Find(ctx, storage.Filter{Store: n.batch.Store, Owner: n.batch.Owner, Limit: 10})
		return err
	})
}

// TestReadsLeaveConnections: reads that the server doesn't answer keep neither the node from its
// work nor callers from creating. The reads of one caller don't keep others from reading.
func TestReadsLeaveConnections(t *testing.T) {
	for _, connections := range []int{4, 5, 6, 8} {
		t.Run(fmt.Sprint(connections), func(t *testing.T) {
			t.Parallel()
			slots := slotsOf(connections - ownConnections(false))
			t.Run("of many callers", func(t *testing.T) {
				url := migrated.New(t)
				db := open(t, url, Options{Connections: connections})
				n := newNode(t, db)
				stick(t, url, db, reads(mallory), slots[driver.Reads], madeUp)
				n.staysInTouch()
				n.records()
				n.claims()
				if slots[driver.Creates] > slots[driver.Reads] {
					n.othersCreate()
				}
			})
			if slots[driver.Reads] == 1 {
				return
			}
			t.Run("of one caller", func(t *testing.T) {
				url := migrated.New(t)
				db := open(t, url, Options{Connections: connections})
				n := newNode(t, db)
				stick(t, url, db, reads(mallory), slots[driver.Reads]-1, sameCaller)
				n.othersRead()
			})
		})
	}
}

// TestCreatesLeaveConnections: creates that the server doesn't answer don't keep the node from its
// work. The creates of one caller don't keep others from creating.
func TestCreatesLeaveConnections(t *testing.T) {
	for _, connections := range []int{4, 8} {
		t.Run(fmt.Sprint(connections), func(t *testing.T) {
			t.Parallel()
			slots := slotsOf(connections - ownConnections(false))
			t.Run("of many callers", func(t *testing.T) {
				url := migrated.New(t)
				db := open(t, url, Options{Connections: connections})
				n := newNode(t, db)
				stick(t, url, db, creates(mallory), slots[driver.Creates], madeUp)
				n.staysInTouch()
				n.records()
				n.claims()
			})
			if slots[driver.Creates] == 1 {
				return
			}
			t.Run("of one caller", func(t *testing.T) {
				url := migrated.New(t)
				db := open(t, url, Options{Connections: connections})
				n := newNode(t, db)
				stick(t, url, db, creates(mallory), slots[driver.Creates]-1, sameCaller)
				n.othersCreate()
				n.othersRead()
			})
		})
	}
}

// TestClaimsLeaveConnections: claims that the server doesn't answer don't keep results from being
// recorded.
func TestClaimsLeaveConnections(t *testing.T) {
	url := migrated.New(t)
	db := open(t, url, Options{})
	n := newNode(t, db)
	stick(t, url, db, claims, slotsOf(DefaultConnections - ownConnections(false))[driver.Claims], func(int) storage.Caller { return storage.Caller{} })
	n.staysInTouch()
	n.records()
}

// TestNothingKeepsTheLease: the node renews its registration even if all connections of the pool
// are busy.
func TestNothingKeepsTheLease(t *testing.T) {
	for _, connections := range []int{4, 8} {
		t.Run(fmt.Sprint(connections), func(t *testing.T) {
			t.Parallel()
			url := migrated.New(t)
			db := open(t, url, Options{Connections: connections})
			n := newNode(t, db)
			stick(t, url, db, results, connections-ownConnections(false), func(int) storage.Caller { return storage.Caller{} })
			n.staysInTouch()
		})
	}
}

// TestConnectionsAreBounded: a node never exceeds its limit of connections, not even while calls
// are given up and their connections end.
func TestConnectionsAreBounded(t *testing.T) {
	const connections = 6
	url := migrated.New(t)
	db := open(t, url, Options{Connections: connections})
	c, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close(context.Background()) }()
	hold(t, url, "SELECT pg_advisory_xact_lock($1)", slowLock)
	for range 5 {
		ctx, cancel := context.WithCancel(t.Context())
		var calls sync.WaitGroup
		for i := range 60 {
			l := []lane{reads(madeUp(i)), creates(madeUp(i)), claims}[i%3]
			calls.Go(func() { _ = db.sendIn(ctx, l, []step{do(slowCall, slowLock)}) })
		}
		await(t, url, db, slotsOf(connections - ownConnections(false))[driver.Claims], "wait_event_type = 'Lock'")
		cancel()
		calls.Wait()
		var n int
		if err := c.QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1", db.process).Scan(&n); err != nil {
			t.Fatal(err)
		}
		if n > connections {
			t.Errorf("the node has %d connections, and may have %d", n, connections)
		}
	}
}

// TestTooManyCalls: a caller with too many waiting calls is refused, and others are not.
func TestTooManyCalls(t *testing.T) {
	url := migrated.New(t)
	db := open(t, url, Options{})
	n := newNode(t, db)
	stick(t, url, db, reads(mallory), slotsOf(DefaultConnections - ownConnections(false))[driver.Reads]-1, sameCaller)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 300)
	var calls sync.WaitGroup
	for range cap(ended) {
		calls.Go(func() {
			_, err := db.Status(ctx, storage.Key{Store: mallory.Store, Owner: mallory.Owner}, 0)
			ended <- err
		})
	}
	if err := <-ended; !errors.Is(err, storage.ErrTooManyCalls) {
		t.Errorf("got %v, want %v", err, storage.ErrTooManyCalls)
	}
	n.othersRead()
	cancel()
	calls.Wait()
}

// TestLongReadsEnd: a read doesn't hold its connection forever.
func TestLongReadsEnd(t *testing.T) {
	url := migrated.New(t)
	db := open(t, url, Options{})
	db.readTimeout = 50 * time.Millisecond
	hold(t, url, "SELECT pg_advisory_xact_lock($1)", slowLock)
	if err := db.sendIn(t.Context(), reads(mallory), []step{do(noLimits), do(slowCall, slowLock)}); err == nil {
		t.Error("a read that takes too long has ended well")
	}
}

// TestWaitingEnds: a caller that gets no connection in time learns that the database is busy. This
// doesn't count as a failure of the database.
func TestWaitingEnds(t *testing.T) {
	url := migrated.New(t)
	db := open(t, url, Options{})
	stick(t, url, db, creates(mallory), slotsOf(DefaultConnections - ownConnections(false))[driver.Creates], madeUp)
	ctx, cancel := context.WithTimeoutCause(t.Context(), time.Millisecond, errSlow)
	defer cancel()
	if err := db.sendIn(ctx, creates(mallory), nil); !errors.Is(err, storage.ErrBusy) {
		t.Errorf("got %v, want %v", err, storage.ErrBusy)
	}
}
