package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// session is the connection that proves that the node is alive and that receives the notifications
// of other nodes.
type session struct {
	conn *pgx.Conn
	lock int64  // the advisory lock that it holds; 0: none, because the server has no working ones
	pid  uint32 // the server process behind it
}

// openSession connects, takes a lock of its own and listens for notifications.
func (db *DB) openSession(ctx context.Context) (_ *session, err error) {
	config := db.lease.config.Copy()
	config.OnNotification = func(_ *pgconn.PgConn, n *pgconn.Notification) { db.hints.hear(n.Payload, db.lease.node()) }
	c, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	s := &session{conn: c, lock: randomID()}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if err := prepareSession(ctx, c); err != nil {
		return nil, err
	}
	if s.pid, err = s.backend(ctx); err != nil {
		return nil, err
	}
	if err := db.takeLock(ctx, s); err != nil {
		s.lock = 0
		if err := db.without(ctx, "advisory locks", err); err != nil {
			return nil, err
		}
	}
	if _, err := c.Exec(ctx, "LISTEN sheaf"); err != nil {
		if err := db.without(ctx, "LISTEN", err); err != nil {
			return nil, err
		}
	}
	return s, nil
}

var errSeeming = errors.New("the server accepts the statement but locks nothing")

// takeLock takes the session's lock and checks that no other session can take it.
func (db *DB) takeLock(ctx context.Context, s *session) error {
	if _, err := s.conn.Exec(ctx, "SELECT pg_advisory_lock($1)", pgx.QueryExecModeExec, s.lock); err != nil {
		return err
	}
	free := false
	err := db.send(ctx, []step{get("lock_is_free", scan(new(bool), &free), s.lock)})
	if err != nil || !free {
		return err
	}
	if _, err := s.backend(ctx); err != nil { // the lock is free because the session is gone
		return err
	}
	return errSeeming
}

// without logs that the node works without an accelerator that the server doesn't have. It returns
// all other errors.
func (db *DB) without(ctx context.Context, what string, err error) error {
	if ctx.Err() != nil || !errors.Is(err, errSeeming) && !refused(err) {
		return err
	}
	db.log.Warn("the database lacks an accelerator; the node works without it, but starts on other nodes and takeovers are slower", "accelerator", what, "error", explain(err))
	return nil
}

func (s *session) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = s.conn.Close(ctx) // it may be broken
}

// backend returns the ID of the server process behind the connection.
func (s *session) backend(ctx context.Context) (pid uint32, err error) {
	err = s.conn.QueryRow(ctx, "SELECT pg_backend_pid()").Scan(&pid)
	return pid, err
}

// ping proves that the session still exists, and so its lock.
func (s *session) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*normal.proof)
	defer cancel()
	pid, err := s.backend(ctx)
	if err == nil && pid != s.pid {
		err = fmt.Errorf("the session has changed: %w", errPooler)
	}
	return err
}

// keepSession pings the node's session until ctx ends. If the session is lost, it opens a new one.
func (db *DB) keepSession(ctx context.Context) {
	if db.lease.noLocks {
		return
	}
	for failures := 0; ctx.Err() == nil; {
		err := db.attend(ctx)
		if ctx.Err() != nil {
			return
		}
		if failures == 0 {
			db.log.Warn("this node has lost its session with the database and is opening another", "error", explain(err))
		}
		for err = errors.New("not tried"); err != nil && ctx.Err() == nil; failures++ {
			if err = db.replaceSession(ctx); err == nil {
				failures = 0
				break
			}
			db.unlock(ctx)
			wait(ctx, reconnect)
		}
	}
}

// attend pings the session until a ping fails, and receives notifications in between.
func (db *DB) attend(ctx context.Context) error {
	l := &db.lease
	s := l.session
	for {
		busy := l.wanted.Swap(false)
		began := nowInstant()
		if err := s.ping(ctx); err != nil {
			return err
		}
		l.update(func(g *grant) { g.pinged = began })
		pause := l.idlePing
		if busy {
			pause = l.busyPing
		}
		if err := s.listen(ctx, pause, l.nudge); err != nil {
			return err
		}
	}
}

// listen receives notifications until the pause is over or a nudge comes.
func (s *session) listen(ctx context.Context, pause time.Duration, nudge <-chan struct{}) error {
	ctx, cancel := context.WithTimeout(ctx, pause)
	heard := make(chan struct{})
	go func() {
		defer close(heard)
		select {
		case <-nudge:
			cancel()
		case <-ctx.Done():
		}
	}()
	defer func() {
		cancel()
		<-heard
	}()
	for {
		_, err := s.conn.WaitForNotification(ctx)
		switch {
		case ctx.Err() != nil && !s.conn.IsClosed():
			return nil
		case err != nil:
			return err
		}
	}
}

// replaceSession opens a new session and sets its lock in the node's row.
func (db *DB) replaceSession(ctx context.Context) error {
	l := &db.lease
	l.session.close()
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	s, err := db.openSession(ctx)
	if err != nil {
		return err
	}
	l.row.Lock()
	defer l.row.Unlock()
	l.session = s
	return db.nameLock(ctx, s.lock)
}

// unlock removes the lock from the node's row, so that the node can work without a session as long
// as it renews the row.
func (db *DB) unlock(ctx context.Context) {
	db.lease.row.Lock()
	defer db.lease.row.Unlock()
	_ = db.nameLock(ctx, 0) // keepSession calls it again after its next failure
}

// nameLock sets the lock in the node's row; 0 for none. If its outcome is unknown, the node assumes
// that the row names the lock, which is the stricter case. A statement that the network delivers
// after a later one has no effect. The caller holds l.row.
func (db *DB) nameLock(ctx context.Context, lock int64) error {
	l := &db.lease
	var named *int64
	if lock != 0 {
		named = &lock
		l.update(func(g *grant) { g.locked = true })
	}
	l.namings++
	there := false
	err := l.execute(ctx, get("lock_node", scan(&there, new(int64)), l.node(), named, l.namings))
	switch {
	case err != nil:
		return err
	case !there:
		return db.startAnew(ctx)
	}
	l.update(func(g *grant) { g.locked = lock != 0 })
	return nil
}
