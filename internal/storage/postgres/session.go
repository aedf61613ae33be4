package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// session is the one connection whose life shows that the node lives, and on which it
// hears what other nodes have to say.
type session struct {
	conn *pgx.Conn
	lock int64  // the advisory lock that it holds; 0: none, this server has only seeming ones
	pid  uint32 // of the server's process
}

// openSession connects, takes a lock of its own and listens.
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

var errSeeming = errors.New("it takes the words and locks nothing")

// takeLock takes the session's lock, and sees that others can't.
func (db *DB) takeLock(ctx context.Context, s *session) error {
	if _, err := s.conn.Exec(ctx, "SELECT pg_advisory_lock($1)", pgx.QueryExecModeExec, s.lock); err != nil {
		return err
	}
	free := false
	err := db.send(ctx, []step{get("lock_is_free", scan(new(bool), &free), s.lock)})
	if err != nil || !free {
		return err
	}
	if _, err := s.backend(ctx); err != nil { // the lock went with its session
		return err
	}
	return errSeeming
}

// without goes on without an accelerator that the server does not have. Any other error
// than its refusal is passed on.
func (db *DB) without(ctx context.Context, what string, err error) error {
	if ctx.Err() != nil || !errors.Is(err, errSeeming) && !refused(err) {
		return err
	}
	db.log.Warn("the database lacks an accelerator; the node does without: starts on other nodes and takeovers are slower", "accelerator", what, "error", explain(err))
	return nil
}

func (s *session) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = s.conn.Close(ctx) // it may be broken
}

// backend returns the server's process behind the connection.
func (s *session) backend(ctx context.Context) (pid uint32, err error) {
	err = s.conn.QueryRow(ctx, "SELECT pg_backend_pid()").Scan(&pid)
	return pid, err
}

// ping proves that the session, and so its lock, is still there.
func (s *session) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*normal.proof)
	defer cancel()
	pid, err := s.backend(ctx)
	if err == nil && pid != s.pid {
		err = fmt.Errorf("the session is another one: %w", errPooler)
	}
	return err
}

// keepSession pings the node's session until ctx ends, and makes a new one when it is
// lost.
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
			db.log.Warn("this node has lost its session with the database and makes another", "error", explain(err))
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

// attend pings the session until that fails, and hears what comes in between.
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

// listen takes in notifications for a while, or until a nudge comes.
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

// replaceSession makes a new session and lets the node's row name its lock.
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

// unlock lets the node's row name no lock, so that the node can go on without a session
// as long as its row is renewed.
func (db *DB) unlock(ctx context.Context) {
	db.lease.row.Lock()
	defer db.lease.row.Unlock()
	_ = db.nameLock(ctx, 0) // the next failure tries again
}

// nameLock writes a lock, 0 for none, into the node's row. Where its answer is lost, the
// row may name the lock and the node takes it as named: the stricter way. A statement that
// the network delivers after a later one changes nothing. l.row is held.
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
