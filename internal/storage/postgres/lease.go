package postgres

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/sheafapi/sheaf/internal/outage"
	"github.com/sheafapi/sheaf/internal/storage"
)

// When a node is dead, and how it knows in time
//
// A node is a row in the table nodes. It is alive while the row exists. Another node removes the
// row if one of these is true by that other node's clock:
//
//   - The row was not renewed for timing.lease.
//   - The row names an advisory lock, and that lock was free for timing.grace. The node's session
//     holds the lock. The server frees it as soon as the session ends, for example because the
//     process died. A lost session doesn't prove a death, so the other node waits. A free lock is
//     never taken again: a new session takes a new one, and the node changes its row.
//
// A node sends only while both of these are true by its own clock. It counts from before it sent
// its query:
//
//   - It renewed its row less than timing.send ago, which is less than timing.lease.
//   - If its row names a lock, the session that holds it answered less than timing.proof ago,
//     which is less than timing.grace.
//
// A node therefore always stops sending before another can take over its queues, even if it was
// suspended or cut off. Where the platform has such a clock, these clocks run while the machine
// sleeps and can't be set. The wall clocks of nodes and server don't matter. The differences (3 s,
// 0.75 s) are the margin for clocks that run at different speeds and checks that come early.
type timing struct {
	lease, send, renew time.Duration // renew: interval between renewals

	grace, proof       time.Duration
	busyPing, idlePing time.Duration // intervals between pings, while requests are being sent and while none are

	look time.Duration // interval between checks of the other nodes
}

var normal = timing{
	lease: 12 * time.Second, send: 9 * time.Second, renew: 3 * time.Second,
	grace: 1500 * time.Millisecond, proof: 750 * time.Millisecond,
	busyPing: 250 * time.Millisecond, idlePing: time.Second,
	look: time.Second,
}

// reconnect is the pause before a retry if the database can't be reached.
const reconnect = 200 * time.Millisecond

// lease is a node's registration.
type lease struct {
	timing
	config  *pgx.ConnConfig
	noLocks bool // work without a session

	grant  atomic.Pointer[grant]
	wanted atomic.Bool   // Authorized or Authorize was called since the last ping
	nudge  chan struct{} // requests a ping now
	hurry  chan struct{} // requests a renewal now

	row     sync.Mutex // held while the node's row is inserted or changed
	own     ownConn    // the connection for these changes only
	session *session   // nil: none
	namings int64      // how often the lock in the row was set

	mu      sync.Mutex
	changed chan struct{} // closed and replaced when the grant changes
}

// grant is the state of the registration. It is immutable; update replaces it.
type grant struct {
	node    int64
	locked  bool    // the row names a lock
	pinged  instant // just before the session's last successful ping
	renewed instant // just before the last successful renewal
}

// current reports whether the node may send.
func (l *lease) current(g *grant) bool {
	now := nowInstant()
	return now.since(g.renewed) < l.send && (!g.locked || now.since(g.pinged) < l.proof)
}

func (l *lease) init(config *pgx.ConnConfig, noLocks bool, t timing) {
	l.config, l.noLocks, l.timing = config, noLocks, t
	l.own.config = config
	l.nudge, l.hurry, l.changed = make(chan struct{}, 1), make(chan struct{}, 1), make(chan struct{})
	l.grant.Store(&grant{})
}

// node returns the id of the registration.
func (l *lease) node() int64 { return l.grant.Load().node }

// update replaces the grant.
func (l *lease) update(change func(g *grant)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	g := *l.grant.Load()
	change(&g)
	l.grant.Store(&g)
	close(l.changed)
	l.changed = make(chan struct{})
}

// Authorized implements storage.Storage.
func (db *DB) Authorized(c *storage.Claim) bool {
	l := &db.lease
	if !l.wanted.Load() {
		l.wanted.Store(true)
	}
	g := l.grant.Load()
	return g.node == c.Lease && l.current(g)
}

// Authorize implements storage.Storage.
func (db *DB) Authorize(ctx context.Context, c *storage.Claim) error {
	if err := db.gate.Enter(); err != nil {
		return fmt.Errorf("ask for the right to send: %w", err)
	}
	defer db.gate.Leave()
	l := &db.lease
	for {
		l.mu.Lock()
		changed := l.changed
		l.mu.Unlock()
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("ask for the right to send: %w", ctx.Err())
		case l.node() != c.Lease:
			return storage.ErrNotOwner
		case db.Authorized(c):
			return nil
		}
		signal(l.nudge)
		if nowInstant().since(l.grant.Load().renewed) >= l.send {
			signal(l.hurry)
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

// signal sends to a channel of capacity one without waiting.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// join registers the node for the first time.
func (db *DB) join(ctx context.Context) error {
	l := &db.lease
	if !l.noLocks {
		s, err := db.openSession(ctx)
		if err != nil {
			return err
		}
		l.session = s
	}
	l.row.Lock()
	defer l.row.Unlock()
	err := db.register(ctx)
	if err != nil && l.session != nil {
		l.session.close()
	}
	return err
}

// register inserts a new row for this process. Claims under an earlier row become void. The caller
// holds l.row.
func (db *DB) register(ctx context.Context) error {
	l := &db.lease
	id, began, before := randomID(), nowInstant(), time.Now()
	var lock *int64
	var now int64
	if l.session != nil && l.session.lock != 0 {
		lock = &l.session.lock
	}
	err := l.execute(ctx, get("register_node", scan(new(bool), &now), id, lock, db.process))
	if err != nil {
		return err
	}
	db.clock.set(before, now, time.Now())
	l.update(func(g *grant) { g.node, g.locked, g.renewed = id, lock != nil, began })
	return nil
}

// execute runs statements on the node's row, once. The caller holds l.row.
func (l *lease) execute(ctx context.Context, steps ...step) error {
	ctx, cancel := context.WithTimeoutCause(ctx, callTimeout, errSlow)
	defer cancel()
	return l.own.send(ctx, append([]step{do("sync_commit")}, steps...))
}

// exchange runs housekeeping statements of the node, once.
func (db *DB) exchange(ctx context.Context, steps ...step) error {
	ctx, cancel := context.WithTimeoutCause(ctx, callTimeout, errSlow)
	defer cancel()
	return db.send(ctx, append([]step{do("sync_commit")}, steps...))
}

// part removes the node's row, which frees its queues at once, and ends its session.
func (db *DB) part(ctx context.Context) error {
	if s := db.lease.session; s != nil {
		s.close()
	}
	l := &db.lease
	l.row.Lock()
	defer l.row.Unlock()
	return l.execute(ctx, do("remove_node", l.node()))
}

// keepRegistered renews the node's row until ctx ends. If another node has removed the row, it
// inserts a new one.
func (db *DB) keepRegistered(ctx context.Context) {
	failing := false
	var failures outage.Log
	for pause := db.lease.renew; ; {
		select {
		case <-ctx.Done():
			return
		case <-db.lease.hurry:
		case <-time.After(pause):
		}
		err := db.renewIn(ctx, failing)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			if n, due := failures.Failed(time.Now()); due {
				db.log.Error("this node can't renew its registration; it sends no requests until it can", "error", explain(err), "since_last_log", n)
			}
		case failures.Recovered() > 0:
			db.log.Info("this node can renew its registration again")
		}
		if failing, pause = err != nil, db.lease.renew; failing {
			pause = reconnect
		}
	}
}

// renewIn calls renew. If the last renewal succeeded, the timeout is short, because the connection
// may have been lost silently and there is still time to use another one. If it failed, because the
// database may be slow, the timeout is callTimeout.
func (db *DB) renewIn(ctx context.Context, failing bool) error {
	if !failing {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, db.lease.renew*2/3, errSlow)
		defer cancel()
	}
	return db.renew(ctx)
}

// lives checks that the database answers. If the last commit is long ago, it also checks that the
// database commits.
func (db *DB) lives(ctx context.Context) error {
	l := &db.lease
	if nowInstant().since(l.grant.Load().renewed) > 2*l.renew {
		return db.renew(ctx)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, l.renew*2/3, errSlow) // renewals wait for this call
	defer cancel()
	l.row.Lock()
	defer l.row.Unlock()
	return l.execute(ctx, do("ping"))
}

// renew renews the node's row.
func (db *DB) renew(ctx context.Context) error {
	l := &db.lease
	var there bool
	var now int64
	l.row.Lock()
	defer l.row.Unlock()
	id, began, before := l.node(), nowInstant(), time.Now()
	err := l.execute(ctx, get("renew_node", scan(&there, &now), id))
	if err != nil {
		return err
	}
	if !there {
		return db.startAnew(ctx)
	}
	db.clock.set(before, now, time.Now())
	l.update(func(g *grant) { g.renewed = began })
	return nil
}

// startAnew registers a node again whose row another node has removed. The caller holds l.row.
func (db *DB) startAnew(ctx context.Context) error {
	db.lease.update(func(g *grant) { g.renewed = instant{} }) // its claims are void, even if registering fails
	db.log.Warn("this node was considered dead and registers again: it did not reach the database for a while, or was stopped; other nodes run what it ran")
	return db.register(ctx)
}

// longAgo is the age of an instant that is unknown.
const longAgo = time.Duration(1<<63 - 1)
