// Package postgres keeps batches in a PostgreSQL database that any number of nodes
// share.
//
// # What it guarantees
//
// A change that was acknowledged was committed with synchronous_commit on: it survives
// kill -9 and the loss of power of the node and of the server (and, where the server has
// synchronous standbys, the loss of the server). A server that would not keep that
// is refused. A change that was answered with an error other than those of package
// storage may or may not have been stored, and the call can be made again.
//
// A queue is owned by one node. A node is a row in the table nodes; whoever finds that a
// node is dead removes its row, and with it, in one commit, all its ownership. See lease.go
// for when that is, and why the node has stopped sending by then.
//
// # What it asks of the server
//
// Transactions, row locks (FOR UPDATE, FOR SHARE, SKIP LOCKED), upserts and CTEs that
// write: what databases that speak PostgreSQL's protocol have as well. LISTEN and NOTIFY
// make other nodes start at once instead of at their next look, and an advisory lock
// shows a dead node in 2 instead of 13 s. Both are found out at the start and
// done without where they are missing (or Options.NoAccelerators says so).
//
// # How it works
//
// Every call is one round trip: its statements are sent together and run in one
// transaction, so that a node that is cut off or stopped in the middle of one leaves no
// lock behind. Results of all running batches are written together, as many as have come
// meanwhile, by two connections in turn (recorder.go).
//
// Callers can't take the node's connections away from it. It renews its registration on a
// connection that serves nothing else, and calls that need one of the others are let in by
// their importance, stores and owners in turn (lanes.go).
//
// When the server is down, restarted or full, calls fail with an error that says so.
// Nothing that was acknowledged is lost by it, and they succeed again as soon as the
// cause is gone.
package postgres

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/sheafapi/sheaf/internal/storage"
	"github.com/sheafapi/sheaf/internal/storage/internal/driver"
	"golang.org/x/sync/singleflight"
)

const (
	// callTimeout bounds one call, with all its tries. The server ends a statement
	// before (statementTimeout), so that it knows what became of it.
	callTimeout      = 10 * time.Second
	statementTimeout = 8 * time.Second
	connectTimeout   = 5 * time.Second

	// DefaultConnections is how many connections a node opens at most by default.
	DefaultConnections = 8
	leastConnections   = 4
)

var (
	errSlow     = fmt.Errorf("the database did not answer within %v", callTimeout)
	errLongRead = fmt.Errorf("the database did not answer a read within %v", readTimeout)
	errGone     = errors.New("the queue was removed meanwhile")
)

// Options configure Open. The zero value works.
type Options struct {
	Connections    int  // that this node opens at most, at least 4. Default: 8
	NoMigrations   bool // leave the schema as it is, and refuse one that is not up to date
	NoAccelerators bool // do without LISTEN, NOTIFY and advisory locks

	Logger *slog.Logger // Default: slog.Default()

	timing *timing // for tests
}

// DB is a node's storage.Storage in a PostgreSQL database.
type DB struct {
	log      *slog.Logger
	pool     *pgxpool.Pool
	process  string // the application_name of this process's connections
	clock    clock
	lease    lease
	recorder *recorder
	hints    hints
	doubts   doubts

	scheduler   *driver.Scheduler  // of the pool's connections
	readTimeout time.Duration      // as the constant, except in tests
	pings       singleflight.Group // of calls of Ping

	stop    context.CancelFunc // ends the goroutines below
	keepers sync.WaitGroup

	gate driver.Gate // of the calls under way
}

var _ storage.Storage = (*DB)(nil)

// Open connects to the database that a URL or a keyword/value string names, brings its
// schema up to date, and registers this process as a node.
//
// It fails, having changed nothing, if the server would not keep what it acknowledges,
// if the connection goes through a pooler that shares sessions, or if a newer version has
// removed from the schema what this one uses. The context bounds the opening only.
func Open(ctx context.Context, url string, o Options) (*DB, error) {
	db := &DB{log: o.Logger, process: processName(), readTimeout: readTimeout}
	if db.log == nil {
		db.log = slog.Default()
	}
	if o.Connections == 0 {
		o.Connections = DefaultConnections
	}
	if o.Connections < leastConnections {
		return nil, fmt.Errorf("%d connections are too few: a node needs at least %d", o.Connections, leastConnections)
	}
	if err := db.open(ctx, url, o); err != nil {
		if db.pool != nil {
			db.pool.Close()
		}
		return nil, explain(err)
	}
	return db, nil
}

func (db *DB) open(ctx context.Context, url string, o Options) (err error) {
	pool := o.Connections - ownConnections(o.NoAccelerators)
	config, err := configure(url, db.process, pool)
	if err != nil {
		return err
	}
	db.scheduler = driver.NewScheduler(slotsOf(pool))
	if db.pool, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return err
	}
	if err := db.inspect(ctx); err != nil {
		return err
	}
	if o.NoMigrations {
		err = checkSchema(ctx, config.ConnConfig)
	} else {
		_, err = migrate(ctx, config.ConnConfig)
	}
	if err != nil {
		return err
	}
	keep, stop := context.WithCancel(context.WithoutCancel(ctx))
	db.stop = stop
	db.hints.outbox = make(chan hint, 2*mostHints)
	if o.timing == nil {
		o.timing = &normal
	}
	db.lease.init(config.ConnConfig, o.NoAccelerators, *o.timing)
	if err := db.join(ctx); err != nil {
		stop()
		db.lease.own.close()
		return err
	}
	db.recorder = startRecorder(db)
	db.keepers.Go(func() { db.keepSession(keep) })
	db.keepers.Go(func() { db.keepRegistered(keep) })
	db.keepers.Go(func() { db.keepWatch(keep) })
	db.keepers.Go(func() { db.sendHints(keep) })
	return nil
}

// processName returns a name for this process's connections that no other has, and
// that tells people where it runs.
func processName() string {
	host, _ := os.Hostname()
	return fmt.Sprintf("sheaf %.24s %d %08x", host, os.Getpid(), uint32(randomID()))
}

// randomID returns a random positive number.
func randomID() int64 {
	var b [8]byte
	rand.Read(b[:])
	return int64(binary.BigEndian.Uint64(b[:])>>1) | 1
}

// Close waits for the calls under way, gives up the node's queues and closes the
// connections. A second Close does nothing.
func (db *DB) Close() error {
	if !db.gate.Close() {
		return nil
	}
	db.recorder.close()
	db.stop()
	db.keepers.Wait()
	db.lease.update(func(g *grant) { g.renewed = instant{} })
	defer db.pool.Close()
	defer db.lease.own.close()
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	if err := db.part(ctx); err != nil {
		db.log.Warn("the database did not hear that this node ends; other nodes will notice", "error", explain(err))
	}
	return nil
}

// failure returns the error of a call, see driver.Failure.
func (db *DB) failure(ctx context.Context, what string, err error) error {
	return driver.Failure(ctx, what, err, explain, isDamage, isRefusal)
}

// isDamage reports whether what was read can't be what was stored.
func isDamage(err error) bool {
	state := sqlState(err)
	return errors.Is(err, storage.ErrDamaged) || state == "XX001" || state == "XX002"
}

// isRefusal reports whether the server refuses the content of a call, and not the moment: by
// the classes "data exception", "integrity constraint violation", "program limit exceeded"
// and "internal error".
func isRefusal(err error) bool {
	state := sqlState(err)
	return len(state) == 5 && slices.Contains([]string{"22", "23", "54", "XX"}, state[:2])
}

// sqlState returns the server's code of an error; empty if it is none of the server's.
func sqlState(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code
	}
	return ""
}
