//go:build postgres

package postgres

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/sheafapi/sheaf/internal/storage"
	"pgregory.net/rapid"
)

// judging is the timing of a node with the normal limits that looks at others only when the test
// tells it to.
func judging() *timing {
	t := still
	t.lease, t.send, t.grace, t.proof, t.look = normal.lease, normal.send, normal.grace, normal.proof, time.Hour
	return &t
}

// neighbor inserts the row of another node. there reports whether the row still exists.
func neighbor(t *testing.T, c *pgx.Conn, o other) (there func() bool) {
	t.Helper()
	var lock *int64
	if o.lock != 0 {
		lock = &o.lock
	}
	const insert = "INSERT INTO nodes (id, lock, renewals, renewed_at, started_at, name) VALUES ($1, $2, $3, 0, 0, 'neighbor')"
	if _, err := c.Exec(t.Context(), insert, o.node, lock, o.renewals); err != nil {
		t.Fatal(err)
	}
	return func() bool {
		n := 0
		if err := c.QueryRow(t.Context(), "SELECT count(*) FROM nodes WHERE id = $1", o.node).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n == 1
	}
}

// TestJudge: a node is dead once it was silent for the lease, or its lock was free for the grace,
// and not before. A renewal in the meantime keeps it alive.
func TestJudge(t *testing.T) {
	url := migrated.New(t)
	db := open(t, url, Options{timing: judging()})
	c := connection(t, url)
	defer c.Close(t.Context())
	if _, err := c.Exec(t.Context(), "SELECT pg_advisory_lock(77)"); err != nil {
		t.Fatal(err)
	}
	const a = 100 * time.Millisecond
	lease, grace := normal.lease, normal.grace
	for name, tt := range map[string]struct {
		row, seen    other
		silent, free time.Duration // how long ago; free: 0 if the lock is held
		dead, soon   bool
	}{
		"silent":                       {silent: lease, dead: true},
		"silent, without a lock":       {row: other{lock: -1}, seen: other{lock: -1}, silent: lease, dead: true},
		"not silent for long":          {silent: lease - a},
		"silent until now":             {row: other{renewals: 6}, silent: lease},
		"its lock is free":             {silent: a, free: grace, dead: true},
		"its lock is not free so long": {silent: a, free: grace - a, soon: true},
		"its lock is held again":       {row: other{lock: 77}, seen: other{lock: 77}, silent: a, free: grace},
		"it has another lock":          {row: other{lock: 79}, silent: a, free: grace},
		"it has no lock any more":      {row: other{lock: -1}, silent: a, free: grace},
		"silent, its lock is held":     {row: other{lock: 77}, seen: other{lock: 77}, silent: lease, dead: true},
	} {
		t.Run(name, func(t *testing.T) {
			fill := func(o other) other {
				o.node, o.renewals = randomOf(o.node), max(o.renewals, 5)
				switch o.lock {
				case 0:
					o.lock = 78 // nobody holds it
				case -1:
					o.lock = 0
				}
				return o
			}
			row := fill(tt.row)
			tt.seen.node = row.node
			seen := observation{other: fill(tt.seen), silent: ago(tt.silent)}
			if tt.free != 0 {
				seen.free = ago(tt.free)
			}
			there := neighbor(t, c, row)
			soon := db.judge(t.Context(), seen)
			expect(t, "the node is there", there(), !tt.dead)
			expect(t, "it may be dead before long", soon > 0, tt.soon)
			if soon > 2*a {
				t.Errorf("to be looked at again in %v", soon)
			}
		})
	}
}

// randomOf returns id, or a new one if id is 0.
func randomOf(id int64) int64 {
	if id == 0 {
		id = randomID()
	}
	return id
}

// TestLook: a node observes others from when it first sees them. It starts over when they change,
// and forgets them if it can't look.
func TestLook(t *testing.T) {
	url := migrated.New(t)
	db := open(t, url, Options{timing: judging()})
	c := connection(t, url)
	defer c.Close(t.Context())
	o := other{node: 5, lock: 78, renewals: 1}
	there := neighbor(t, c, o)
	watched := map[int64]observation{}
	look := func() observation {
		t.Helper()
		db.lookAtNodes(t.Context(), watched)
		expect(t, "nodes that were seen", len(watched), 1)
		return watched[o.node]
	}
	age := func() { // makes all observations older
		seen := watched[o.node]
		seen.silent, seen.free = ago(normal.lease-time.Second), ago(normal.grace/2)
		watched[o.node] = seen
	}
	if seen := look(); nowInstant().since(seen.silent) > time.Second || nowInstant().since(seen.free) > time.Second {
		t.Errorf("a new node is as old as %+v", seen)
	}
	age()
	if seen := look(); nowInstant().since(seen.silent) < normal.lease/2 || nowInstant().since(seen.free) < normal.grace/2 {
		t.Errorf("a silent node is as young as %+v", seen)
	}
	execute(t, url, "UPDATE nodes SET renewals = 2 WHERE id = 5")
	if seen := look(); nowInstant().since(seen.silent) > time.Second || nowInstant().since(seen.free) < normal.grace/2 {
		t.Errorf("after a renewal: %+v", seen)
	}
	age()
	execute(t, url, "UPDATE nodes SET lock = 79 WHERE id = 5")
	if seen := look(); nowInstant().since(seen.silent) < normal.lease/2 || nowInstant().since(seen.free) > time.Second {
		t.Errorf("with another lock: %+v", seen)
	}
	age()
	blind, cancel := context.WithCancel(t.Context())
	cancel()
	db.lookAtNodes(blind, watched)
	expect(t, "nodes that are remembered after a look that failed", len(watched), 0)
	look()
	seen := watched[o.node]
	seen.silent = ago(normal.lease)
	watched[o.node] = seen
	look()
	expect(t, "the dead node is there", there(), false)
}

// TestAuthorityEndsFirst: a node that another one removes may no longer send, whatever the delays and
// even if the clocks' speeds differ by a quarter.
func TestAuthorityEndsFirst(t *testing.T) {
	url := migrated.New(t)
	db := open(t, url, Options{timing: judging()})
	c := connection(t, url)
	defer c.Close(t.Context())
	burials := 0
	property := func(r *rapid.T) {
		upTo := func(d time.Duration, what string) time.Duration {
			return time.Duration(rapid.Int64Range(0, int64(d)).Draw(r, what))
		}
		fast := func(d time.Duration) time.Duration { return d * 5 / 4 } // by the other node's clock
		renewed, pinged := upTo(15*time.Second, "renewed"), upTo(3*time.Second, "pinged")
		seen := observation{other: other{node: randomID(), renewals: 1}, silent: ago(fast(renewed - upTo(renewed, "seen later")))}
		own := &grant{node: seen.node, renewed: ago(renewed), pinged: ago(pinged), locked: rapid.Bool().Draw(r, "locked")}
		if own.locked {
			seen.lock = 78
			seen.free = ago(fast(pinged - upTo(pinged, "found free later")))
		}
		there := neighbor(t, c, seen.other)
		may := db.lease.current(own)
		db.judge(t.Context(), seen)
		if !there() {
			burials++
			if may {
				r.Fatal("the node is buried, and could send a moment ago")
			}
		}
	}
	for round := 0; round == 0 || burials == 0 && round < 40; round++ { // few histories may bury no node
		rapid.Check(t, property)
	}
	if burials == 0 {
		t.Error("no node was buried")
	}
}

// lone opens a node on its own network, with a claim.
func lone(t *testing.T, o Options) (*DB, *proxy, *storage.Claim) {
	t.Helper()
	p := newProxy(t, migrated.New(t))
	db := open(t, p.url, o)
	c := claimed(t, db, newBatch("s", 1))
	authorize(t, db, c)
	return db, p, c
}

// TestCutOff: a node that gets no answers from the database stops sending in time, because of its
// session or, without one, because of its renewals. When the database answers again, the node
// continues with its claims, unless it was considered dead.
func TestCutOff(t *testing.T) {
	session, renewals := still, still
	session.proof = 300 * time.Millisecond
	renewals.send, renewals.renew = 500*time.Millisecond, 100*time.Millisecond
	for name, o := range map[string]Options{
		"session":  {timing: &session},
		"renewals": {timing: &renewals, NoAccelerators: true},
	} {
		t.Run(name, func(t *testing.T) {
			db, p, c := lone(t, o)
			p.freeze()
			eventually(t, "it may still send", func() bool { return !db.Authorized(c) })
			p.thaw()
			authorize(t, db, c)
			p.freeze()
			eventually(t, "it may still send", func() bool { return !db.Authorized(c) })
			ended := make(chan error, 1)
			go func() { ended <- db.Authorize(t.Context(), c) }()
			select {
			case err := <-ended:
				t.Errorf("it did not wait: %v", err)
			case <-time.After(100 * time.Millisecond):
			}
			execute(t, withHost(t, p.url, p.target), "DELETE FROM nodes")
			p.thaw()
			<-ended // Authorize's outcome is open: the row may be deleted before or after it looks
			if err := db.renew(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := db.Authorize(t.Context(), c); !errors.Is(err, storage.ErrNotOwner) || db.Authorized(c) {
				t.Errorf("after its burial: %v", err)
			}
		})
	}
}

// TestHungRenewal: a renewal whose connection hangs is repeated on another connection before the
// node must stop sending.
func TestHungRenewal(t *testing.T) {
	short := still
	short.send, short.renew = 3*time.Second, 300*time.Millisecond // a call may take 10 s
	db, p, c := lone(t, Options{timing: &short, NoAccelerators: true})
	for range 3 {
		p.hang("renew_node").wait(t)
		renewed := db.lease.grant.Load().renewed
		for db.lease.grant.Load().renewed == renewed {
			if !db.Authorized(c) {
				t.Fatal("the node may no longer send")
			}
			<-time.After(5 * time.Millisecond)
		}
	}
}

// TestLostSession: a node that loses its session opens another one, names the new session's lock in
// its row, and keeps its claims.
func TestLostSession(t *testing.T) {
	db, p, c := lone(t, Options{timing: &still})
	for range 3 {
		lock := number(t, p.url, "SELECT coalesce(lock, 0) FROM nodes")
		p.cut()
		eventually(t, "its row names no other lock", func() bool { return number(t, p.url, "SELECT coalesce(lock, 0) FROM nodes") != lock })
		authorize(t, db, c)
	}
	if _, err := db.Finish(t.Context(), c, nil, "", false); err != nil {
		t.Error(err)
	}
}

// TestClock: times are translated for a node whose clock is wrong, and kept to the millisecond for
// one whose clock is right.
func TestClock(t *testing.T) {
	now := time.UnixMilli(1_900_000_000_123)
	after := func(d time.Duration) int64 { return now.Add(d).UnixMilli() }
	for name, tt := range map[string]struct {
		database time.Duration // how far its clock is ahead
		answer   time.Duration // how long the answer took
		want     time.Duration
	}{
		"right":                       {0, 2 * time.Millisecond, 0},
		"within tolerance":            {400 * time.Millisecond, 2 * time.Millisecond, 0},
		"behind":                      {3 * time.Minute, 2 * time.Millisecond, 3 * time.Minute},
		"ahead":                       {-3 * time.Minute, 2 * time.Millisecond, -3 * time.Minute},
		"a late answer proves little": {900 * time.Millisecond, time.Second, 0},
		"a late answer proves much":   {time.Hour, time.Second, time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			var c clock
			c.set(now, after(tt.answer/2+tt.database), now.Add(tt.answer))
			expect(t, "stored", c.out(now), after(tt.want))
			expect(t, "read", c.in(after(tt.want)), now)
			expect(t, "nothing stored", c.out(time.Time{}), 0)
			expect(t, "nothing read", c.in(0), time.Time{})
			c.set(now, after(tt.answer/2), now.Add(tt.answer)) // the clock was set right
			if tt.want != 0 {
				expect(t, "stored after", c.out(now), after(0))
			}
		})
	}
	url := migrated.New(t)
	a, b := open(t, url, Options{timing: &still}), open(t, url, Options{timing: &still})
	b.clock.offset.Store(time.Hour.Milliseconds()) // b's clock is an hour slow
	c := claimed(t, b, newBatch("s", 1))
	if off := time.Since(c.CreatedAt) - time.Hour; off < -time.Minute || off > time.Minute {
		t.Errorf("created at %v by a clock that is an hour slow", c.CreatedAt)
	}
	if err := b.Release(t.Context(), c, []storage.Mark{{State: storage.Waiting, NotBefore: now}}, now); err != nil {
		t.Fatal(err)
	}
	free, err := a.Runnable(t.Context(), 0, 9)
	if err != nil || len(free) != 1 {
		t.Fatal(free, err)
	}
	expect(t, "the moment", free[0].NotBefore, now.Add(time.Hour))
	taken, err := a.Claim(t.Context(), c.Queue)
	if err == nil {
		err = a.Load(t.Context(), taken)
	}
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "the mark's moment", taken.Marks[0].NotBefore, now.Add(time.Hour))
}
