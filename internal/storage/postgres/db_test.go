//go:build postgres

package postgres

import (
	"context"
	"flag"
	"log/slog"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/sheafapi/sheaf/internal/pgtest"
	"github.com/sheafapi/sheaf/internal/storage"
	"github.com/sheafapi/sheaf/internal/storage/storagetest"
	"go.uber.org/goleak"
)

// TestMain checks each property 25 times. make chaos checks them more often, with -rapid.checks. Four
// tests run at the same time, because most of them wait for the disk or for a lease to expire.
func TestMain(m *testing.M) {
	flag.Set("rapid.checks", "25")
	flag.Set("test.parallel", "4")
	goleak.VerifyTestMain(suite{m})
}

// suite stops the shared server before goroutines are counted.
type suite struct{ *testing.M }

func (s suite) Run() int { return pgtest.Main(s.M) }

func open(t *testing.T, url string, o Options) *DB {
	t.Helper()
	if o.Logger == nil {
		o.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	db, err := Open(t.Context(), url, o)
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

// migrated is a database with the newest schema.
var migrated = pgtest.Template{Prepare: func(ctx context.Context, url string) error {
	db, err := Open(ctx, url, Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	return db.Close()
}}

func openNew(t *testing.T) storage.Storage { return open(t, migrated.New(t), Options{}) }

func TestStorage(t *testing.T) { storagetest.Run(t, openNew) }

func TestModel(t *testing.T) { storagetest.RunModel(t, openNew) }

func TestReopen(t *testing.T) {
	storagetest.RunReopen(t, func(t *testing.T) func(t *testing.T) storage.Storage {
		url := migrated.New(t)
		return func(t *testing.T) storage.Storage { return open(t, url, Options{}) }
	})
}

// TestNodes runs the suite for many nodes with the accelerators and without them.
func TestNodes(t *testing.T) {
	fast := normal
	fast.lease, fast.send, fast.renew, fast.look = 1200*time.Millisecond, 900*time.Millisecond, 200*time.Millisecond, 100*time.Millisecond
	for name, o := range map[string]Options{"accelerated": {}, "plain SQL": {NoAccelerators: true, timing: &fast}} {
		t.Run(name, func(t *testing.T) {
			storagetest.RunNodes(t, func(t *testing.T) storagetest.Cluster { return &cluster{migrated.New(t), o} })
		})
	}
}

type cluster struct {
	url     string
	options Options
}

func (c *cluster) Node(t *testing.T) storage.Storage {
	t.Helper()
	return open(t, c.url, c.options)
}

// Die ends everything of a node except its row, and waits until another node has removed the row.
func (c *cluster) Die(t *testing.T, n storage.Storage) {
	t.Helper()
	db := n.(*DB)
	node := db.lease.node()
	db.crash()
	eventually(t, "the dead node is still in the database", func() bool {
		return number(t, c.url, "SELECT count(*) FROM nodes WHERE id = $1", node) == 0
	})
}

// crash ends a node as if its process had died.
func (db *DB) crash() {
	db.gate.Shut()
	db.stop()
	db.keepers.Wait()
	db.recorder.close()
	if s := db.lease.session; s != nil {
		s.close()
	}
	db.pool.Close()
}

// Expire removes the node's row while the node is alive, as if its lease had expired.
func (c *cluster) Expire(t *testing.T, n storage.Storage) {
	t.Helper()
	l := &n.(*DB).lease
	l.row.Lock()
	defer l.row.Unlock()
	l.update(func(g *grant) { g.renewed = instant{} })
	execute(t, c.url, "DELETE FROM nodes WHERE id = $1", l.node())
}

// connection returns a connection for the test itself.
func connection(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	c, err := pgx.Connect(context.WithoutCancel(t.Context()), url)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// execute runs SQL as another program would.
func execute(t *testing.T, url, sql string, args ...any) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context()) // works during cleanup too
	c := connection(t, url)
	defer c.Close(ctx)
	if _, err := c.Exec(ctx, sql, args...); err != nil {
		t.Fatal(err)
	}
}

// number reads one number.
func number(t *testing.T, url, sql string, args ...any) (n int) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	c := connection(t, url)
	defer c.Close(ctx)
	if err := c.QueryRow(ctx, sql, args...).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// eventually waits until so returns true.
func eventually(t *testing.T, otherwise string, so func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for limit := time.Now().Add(30 * time.Second); !so(); <-tick.C {
		if time.Now().After(limit) {
			t.Fatal(otherwise)
		}
	}
}
