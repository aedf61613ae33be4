package postgres

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/sheafapi/sheaf/internal/storage"
	"github.com/sheafapi/sheaf/internal/storage/internal/driver"
)

// A node's connections
//
// A node opens at most Options.Connections. One is its session (session.go). It renews its
// registration on another one, which serves nothing else, so that no call can delay a renewal
// (lease.go). The rest is a pool whose connections are shared by the classes of package driver. A
// class never takes the last connections from a higher one; see slotsOf.

// readTimeout limits one read from the time when it has a connection.
const readTimeout = 5 * time.Second

// ownConnections returns how many connections a node has besides the pool.
func ownConnections(noSession bool) int {
	if noSession {
		return 1
	}
	return 2
}

// slotsOf returns how many of a pool's connections each class and those below it may use. The pool
// has at least two. If there are too few for all classes, results share theirs with claims, and
// creates with reads. The service's own work never waits for callers.
func slotsOf(pool int) driver.Slots {
	switch pool {
	case 2:
		return driver.Slots{driver.Results: 2, driver.Claims: 2, driver.Creates: 1, driver.Reads: 1}
	case 3:
		return driver.Slots{driver.Results: 3, driver.Claims: 3, driver.Creates: 2, driver.Reads: 1}
	}
	return driver.Slots{driver.Results: pool, driver.Claims: pool - 1, driver.Creates: pool - 2, driver.Reads: pool - 3}
}

// lane says by which class, and for which caller, a call gets a connection.
type lane struct {
	class driver.Class
	by    storage.Caller
}

// The lanes of the service's own calls.
var (
	results = lane{class: driver.Results}
	claims  = lane{class: driver.Claims}
)

// callerOf returns the store and owner of a key.
func callerOf(key storage.Key) storage.Caller {
	return storage.Caller{Store: key.Store, Owner: key.Owner}
}

func creates(by storage.Caller) lane { return lane{driver.Creates, by} }
func reads(by storage.Caller) lane   { return lane{driver.Reads, by} }

// readsOf returns the lane of a read whose arguments name no caller.
func readsOf(ctx context.Context) lane {
	if storage.IsForService(ctx) {
		return claims
	}
	return reads(storage.CallerOf(ctx))
}

// sendIn runs statements in one round trip on a connection of the pool.
func (db *DB) sendIn(ctx context.Context, l lane, steps []step) error {
	if err := db.scheduler.Acquire(ctx, l.class, l.by); err != nil {
		if l.class >= driver.Creates && errors.Is(err, errSlow) {
			return storage.ErrBusy
		}
		return err
	}
	if l.class == driver.Reads {
		limited, cancel := context.WithTimeoutCause(ctx, db.readTimeout, errLongRead)
		defer cancel()
		ctx = limited
	}
	c, err := db.pool.Acquire(ctx)
	if err != nil {
		db.scheduler.Release(l.class, l.by)
		return err
	}
	defer db.giveBack(c.Conn().PgConn(), c.Release, l)
	return sendOn(ctx, c, steps)
}

// giveBack releases a connection and then its slot. A connection that broke, or whose call was
// given up, keeps its slot until it is closed, so that a node never has too many connections.
func (db *DB) giveBack(c *pgconn.PgConn, release func(), l lane) {
	isLost := c.IsClosed() || c.IsBusy() || c.TxStatus() != 'I'
	release()
	if !isLost {
		db.scheduler.Release(l.class, l.by)
		return
	}
	go func() {
		<-c.CleanupDone()
		db.scheduler.Release(l.class, l.by)
	}()
}

// batchSender is a connection or a pool.
type batchSender interface {
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
}

// sendOn runs statements in one round trip. Without an explicit BEGIN, PostgreSQL runs everything
// before one Sync in one transaction.
func sendOn(ctx context.Context, c batchSender, steps []step) error {
	b := &pgx.Batch{}
	for _, s := range steps {
		b.Queue(queries[s.name], s.args...)
	}
	answers := c.SendBatch(ctx, b)
	for _, s := range steps {
		if err := take(answers, s); err != nil {
			return errors.Join(err, answers.Close())
		}
	}
	return answers.Close()
}

// ownConn is a connection for a single purpose. It is opened when it is needed, and reopened after
// it breaks. Only one goroutine at a time may use it.
type ownConn struct {
	config *pgx.ConnConfig
	conn   *pgx.Conn // nil: none
}

// send runs statements in one round trip. If the connection was dead, so that the statements
// certainly didn't reach the server, it opens another one.
func (o *ownConn) send(ctx context.Context, steps []step) error {
	isNew, err := o.ensure(ctx)
	if err != nil {
		return err
	}
	err = sendOn(ctx, o.conn, steps)
	if err == nil || isNew || !pgconn.SafeToRetry(err) {
		return err
	}
	o.close()
	if _, err := o.ensure(ctx); err != nil {
		return err
	}
	return sendOn(ctx, o.conn, steps)
}

// ensure opens the connection if there is no working one.
func (o *ownConn) ensure(ctx context.Context) (isNew bool, err error) {
	if o.conn != nil && !o.conn.IsClosed() && o.conn.PgConn().TxStatus() == 'I' {
		return false, nil
	}
	o.close()
	c, err := pgx.ConnectConfig(ctx, o.config)
	if err != nil {
		return false, err
	}
	if err := prepareSession(ctx, c); err != nil {
		closeConn(c)
		return false, err
	}
	o.conn = c
	return true, nil
}

func (o *ownConn) close() {
	if o.conn != nil {
		closeConn(o.conn)
		o.conn = nil
	}
}

// closeConn closes a connection, which may already be broken.
func closeConn(c *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = c.Close(ctx)
}
