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

// When a node is dead, and how it knows before
//
// A node is a row in nodes. It is alive as long as the row is there; another node removes
// it when one of these is so, by that other node's clock:
//
//   - the row was not renewed for as long as timing.lease;
//   - the row names an advisory lock, and that lock was free for as long as timing.grace.
//     The node's session holds it; the server frees it at once when the session ends, as
//     it does when the process dies. A lost session does not prove a death, hence the
//     grace. A lock is never taken again: a new session takes a new one, and the row
//     names it.
//
// A node sends only while both of these are so, by its own clock, counted from before it
// asked:
//
//   - it renewed its row less than timing.send ago, which is less than timing.lease;
//   - if its row names a lock: the session that holds it answered less than timing.proof
//     ago, which is less than timing.grace.
//
// So it has stopped before anybody can have taken its queues over, also when it was
// stopped, cut off or asleep meanwhile: these clocks run while the machine sleeps, and
// nobody sets them. What the wall clocks of nodes and server say does not matter. The
// differences (3 s, 0.75 s) are what a clock may run wrong and a check be early.
type timing struct {
	lease, send, renew time.Duration // renew: pause between renewals

	grace, proof       time.Duration
	busyPing, idlePing time.Duration // pauses between proofs, while requests are sent and while none is

	look time.Duration // pause between looks at the other nodes
}

var normal = timing{
	lease: 12 * time.Second, send: 9 * time.Second, renew: 3 * time.Second,
	grace: 1500 * time.Millisecond, proof: 750 * time.Millisecond,
	busyPing: 250 * time.Millisecond, idlePing: time.Second,
	look: time.Second,
}

// reconnect is the pause before what failed for want of the database is tried again.
const reconnect = 200 * time.Millisecond

// lease is a node's registration.
type lease struct {
	timing
	config  *pgx.ConnConfig
	noLocks bool // do without a session

	grant  atomic.Pointer[grant]
	wanted atomic.Bool   // somebody has asked for the grant since the last ping
	nudge  chan struct{} // asks for a ping now
	hurry  chan struct{} // asks for a renewal now

	row     sync.Mutex // held while the node's row is made or changed
	own     ownConn    // on which that is done, and nothing else
	session *session   // nil: none
	namings int64      // how often the row was told its lock

	mu      sync.Mutex
	changed chan struct{} // closed and replaced when the grant was changed
}

// grant is what is known of the registration. It is replaced, never changed.
type grant struct {
	node    int64
	locked  bool    // the row names a lock
	pinged  instant // before the session's last ping that was answered
	renewed instant // before the last renewal that was answered
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

// signal sends without waiting to a channel with room for one.
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

// register makes a new row for this process. What it claimed under an earlier one is
// void. l.row is held.
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

// execute runs statements about the node's row, once. l.row is held.
func (l *lease) execute(ctx context.Context, steps ...step) error {
	ctx, cancel := context.WithTimeoutCause(ctx, callTimeout, errSlow)
	defer cancel()
	return l.own.send(ctx, append([]step{do("sync_commit")}, steps...))
}

// exchange runs statements of the node's own housekeeping, once.
func (db *DB) exchange(ctx context.Context, steps ...step) error {
	ctx, cancel := context.WithTimeoutCause(ctx, callTimeout, errSlow)
	defer cancel()
	return db.send(ctx, append([]step{do("sync_commit")}, steps...))
}

// part removes the node's row and ends its session: its queues are free at once.
func (db *DB) part(ctx context.Context) error {
	if s := db.lease.session; s != nil {
		s.close()
	}
	l := &db.lease
	l.row.Lock()
	defer l.row.Unlock()
	return l.execute(ctx, do("remove_node", l.node()))
}

// keepRegistered renews the node's row until ctx ends. If another node has removed it,
// it makes a new one.
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
				db.log.Error("this node can't renew its registration; it sends nothing while that lasts", "error", explain(err), "since_last_log", n)
			}
		case failures.Recovered() > 0:
			db.log.Info("this node's registration is renewed again")
		}
		if failing, pause = err != nil, db.lease.renew; failing {
			pause = reconnect
		}
	}
}

// renewIn is renew with a short timeout if the last renewal succeeded: the connection may be lost
// without a sign, and there is still time to use another one. If the database itself is slow, the
// next renewal has callTimeout.
func (db *DB) renewIn(ctx context.Context, failing bool) error {
	if !failing {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, db.lease.renew*2/3, errSlow)
		defer cancel()
	}
	return db.renew(ctx)
}

// lives checks that the database answers, and that it commits if the last commit is long ago.
func (db *DB) lives(ctx context.Context) error {
	l := &db.lease
	if nowInstant().since(l.grant.Load().renewed) > 2*l.renew {
		return db.renew(ctx)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, l.renew*2/3, errSlow) // renewals wait meanwhile
	defer cancel()
	l.row.Lock()
	defer l.row.Unlock()
	return l.execute(ctx, do("ping"))
}

// renew makes the node's row last.
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

// startAnew registers a node whose row another node has removed. l.row is held.
func (db *DB) startAnew(ctx context.Context) error {
	db.lease.update(func(g *grant) { g.renewed = instant{} }) // whatever comes, what was claimed is void
	db.log.Warn("this node was taken for dead and starts anew: it did not reach the database for a while, or was stopped; what it ran is run by other nodes")
	return db.register(ctx)
}

// longAgo is the age of what never was.
const longAgo = time.Duration(1<<63 - 1)
