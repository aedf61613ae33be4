// Package postgres stores batches in a PostgreSQL database that any number of nodes share.
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
	// callTimeout limits one call, with all its attempts. The server ends a statement earlier
	// (statementTimeout), so that the node learns its outcome.
	callTimeout      = 10 * time.Second
	statementTimeout = 8 * time.Second
	connectTimeout   = 5 * time.Second

	// DefaultConnections is the default of Options.Connections.
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
	Connections    int  // maximum number of connections that this node opens, at least 4. Default: 8
	NoMigrations   bool // don't change the schema; refuse one that is not up to date
	NoAccelerators bool // don't use LISTEN, NOTIFY and advisory locks

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

	scheduler   *driver.Scheduler  // shares the pool's connections
	readTimeout time.Duration      // the constant readTimeout, except in tests
	pings       singleflight.Group // for concurrent calls of Ping

	stop    context.CancelFunc // ends the goroutines below
	keepers sync.WaitGroup

	gate driver.Gate // counts the running calls
}

var _ storage.Storage = (*DB)(nil)

// Open connects to the database that a URL or a keyword/value string names, brings its schema up to
// date, and registers this process as a node.
//
// Open fails and changes nothing if the server could lose acknowledged changes, if the connection
// goes through a pooler that shares sessions, or if a newer version has removed parts of the schema
// that this one uses. The context limits only Open itself.
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

// processName returns a unique name for this process's connections that shows people where the
// process runs.
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

// Close waits for the running calls, gives up the node's queues and closes the connections. A
// second Close does nothing.
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
		db.log.Warn("could not tell the database that this node is shutting down; other nodes will notice", "error", explain(err))
	}
	return nil
}

// failure returns the error of a call; see driver.Failure.
func (db *DB) failure(ctx context.Context, what string, err error) error {
	return driver.Failure(ctx, what, err, explain, isDamage, isRefusal)
}

// isDamage reports whether an error means that the stored data is damaged.
func isDamage(err error) bool {
	state := sqlState(err)
	return errors.Is(err, storage.ErrDamaged) || state == "XX001" || state == "XX002"
}

// isRefusal reports whether the server refused a call because of its content, and not because of
// the server's state. That is so for the classes "data exception", "integrity constraint
// violation", "program limit exceeded" and "internal error".
func isRefusal(err error) bool {
	state := sqlState(err)
	return len(state) == 5 && slices.Contains([]string{"22", "23", "54", "XX"}, state[:2])
}

// sqlState returns the server's code of an error; empty if the error isn't the server's.
func sqlState(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code
	}
	return ""
}
