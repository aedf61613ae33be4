//go:build postgres

package postgres

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sheafapi/sheaf/internal/pgtest"
	"github.com/sheafapi/sheaf/internal/storage"
	"github.com/sheafapi/sheaf/internal/storage/internal/driver"
	"go.uber.org/goleak"
)

// TestRestart: while the server is down, calls fail and say so. Afterwards they succeed, everything
// acknowledged is still there, and each queue has one owner.
func TestRestart(t *testing.T) {
	ctx := t.Context()
	server := private(t)
	url, _ := newDatabase(t, server)
	var log logs
	o := Options{timing: &quick, Logger: log.logger()}
	a, b := open(t, url, o), open(t, url, o)
	x := newBatch("s", 3)
	c := claimed(t, a, x)
	for round, mark := range []storage.Mark{done(0, "a"), done(1, "b")} {
		if _, err := a.Record(ctx, c, []storage.Mark{mark}); err != nil && !errors.Is(err, storage.ErrNotOwner) {
			t.Fatal(err)
		}
		y := newBatch("t", 1)
		create(t, b, y)
		if err := server.Kill(); err != nil {
			t.Fatal(err)
		}
		_, err := b.Create(ctx, newBatch("t", 1))
		text := ""
		if err != nil {
			text = err.Error()
		}
		if !strings.Contains(text, "can't be reached") && !strings.Contains(text, "started or stopped") && !strings.Contains(text, "EOF") {
			t.Errorf("a create without a server: %v", err)
		}
		eventually(t, "a node sends whose database is gone", func() bool { return !a.Authorized(c) })
		if err := a.Ping(ctx); err == nil {
			t.Error("the server is told to answer")
		}
		if err := server.Up(ctx); err != nil {
			t.Fatal(err)
		}
		for _, db := range []*DB{a, b} {
			eventually(t, "calls fail for good", func() bool { return db.Ping(ctx) == nil })
		}
		expect(t, "the batch that was acknowledged", outcome(t, a, y), "QUEUED")
		// The node may have been considered dead. Then another one may claim the queue, once.
		taken, err := b.Claim(ctx, c.Queue)
		_, late := a.Record(ctx, c, []storage.Mark{done(2, "c")})
		switch {
		case err == nil:
			if !errors.Is(late, storage.ErrNotOwner) || a.Authorized(c) {
				t.Errorf("round %d: the queue has two owners: %v", round, late)
			}
			a, b, c = b, a, taken
		case errors.Is(err, storage.ErrNotOwner):
			if late != nil {
				t.Errorf("round %d: the queue has no owner: %v", round, late)
			}
		default:
			t.Fatal(err)
		}
	}
	if got := outcome(t, b, x); !strings.HasPrefix(got, "IN_PROGRESS 0:a 1:b") {
		t.Errorf("recorded: %s", got)
	}
	if strings.Contains(log.String(), planted) {
		t.Errorf("the password was logged: %s", log.String())
	}
}

// TestAsynchronousCommits: if synchronous_commit is turned off while a node runs, what the node
// acknowledges still survives a crash of the server.
func TestAsynchronousCommits(t *testing.T) {
	server := private(t)
	set(t, server, "wal_writer_delay", "10s") // an asynchronous commit reaches the disk this late
	url, root := newDatabase(t, server)
	db := open(t, url, Options{timing: &still})
	x := newBatch("s", 30)
	c := claimed(t, db, x)
	set(t, server, "synchronous_commit", "off")
	execute(t, root, "CREATE TABLE witness (x int)")
	var err error
	for i := range x.Requests {
		if _, err = db.Record(t.Context(), c, []storage.Mark{done(i, "a")}); err != nil {
			t.Fatal(err)
		}
	}
	y := newBatch("s", 1)
	create(t, db, y)
	execute(t, root, "INSERT INTO witness VALUES (1)") // acknowledged, and lost
	if err := errors.Join(server.Kill(), server.Up(t.Context())); err != nil {
		t.Fatal(err)
	}
	expect(t, "rows of somebody who trusted the setting", number(t, root, "SELECT count(*) FROM witness"), 0)
	var s *storage.Status
	eventually(t, "calls fail for good", func() bool {
		s, err = db.Status(t.Context(), key(x), 0)
		return err == nil || strings.Contains(err.Error(), "synchronous_commit=off")
	})
	if err == nil {
		t.Error("a new connection to such a server is taken")
	}
	set(t, server, "synchronous_commit", "on")
	eventually(t, "calls fail for good", func() bool {
		s, err = db.Status(t.Context(), key(x), 0)
		return err == nil
	})
	expect(t, "results", s.Completed, len(x.Requests))
	expect(t, "the second batch", outcome(t, db, y), "QUEUED")
}

// TestClose: a closed node leaves no goroutine and no connection behind, and its calls fail.
func TestClose(t *testing.T) {
	for name, o := range map[string]Options{"accelerated": {}, "plain SQL": {NoAccelerators: true}} {
		t.Run(name, func(t *testing.T) {
			url := pgtest.NewDatabase(t)
			before := goleak.IgnoreCurrent()
			db := open(t, url, o)
			c := claimed(t, db, newBatch("s", 1))
			authorize(t, db, c)
			db.Offer(c.Queue)
			for range 2 {
				if err := db.Close(); err != nil {
					t.Error(err)
				}
			}
			goleak.VerifyNone(t, before)
			if _, err := db.Create(t.Context(), newBatch("s", 1)); !errors.Is(err, driver.ErrClosed) {
				t.Errorf("Create: %v", err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if err := db.Authorize(ctx, c); !errors.Is(err, driver.ErrClosed) || db.Authorized(c) {
				t.Errorf("Authorize: %v", err)
			}
			eventually(t, "connections are left", func() bool {
				return number(t, url, "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1", db.process) == 0
			})
			expect(t, "nodes", number(t, url, "SELECT count(*) FROM nodes"), 0)
		})
	}
}

// TestLostClaim: after a failover to a standby without the last commits, another node can claim a
// queue that was already claimed. The first node's results are still refused.
func TestLostClaim(t *testing.T) {
	url := pgtest.NewDatabase(t)
	first, second := open(t, url, Options{timing: &still}), open(t, url, Options{timing: &still})
	x := newBatch("s", 1)
	q := create(t, first, x)
	lost, err := first.Claim(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	execute(t, url, "UPDATE owners SET node = NULL, epoch = 0") // as before the claim
	c, err := second.Claim(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := first.Record(t.Context(), lost, []storage.Mark{done(0, "first")}); !errors.Is(err, storage.ErrNotOwner) {
		t.Errorf("the claim that was lost records: %v", err)
	}
	if _, err := second.Finish(t.Context(), c, []storage.Mark{done(0, "second")}, "", true); err != nil {
		t.Error(err)
	}
}

// TestServerDefaults: settings that the server has for all clients don't change how a node works.
func TestServerDefaults(t *testing.T) {
	url := pgtest.NewDatabase(t)
	execute(t, url, `DO $$ BEGIN EXECUTE format(
		'ALTER DATABASE %I SET default_transaction_isolation = ''serializable''', current_database()); END $$`)
	db := open(t, url, Options{timing: &still})
	q := create(t, db, newBatch("s", 1))
	// With a snapshot from before the wait for the queue's lock, the release would not see the
	// batch that was created in the meantime, or would be refused again and again.
	for range 20 {
		c, err := db.Claim(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		var both sync.WaitGroup
		both.Go(func() { create(t, db, newBatch("s", 1)) })
		both.Go(func() {
			if _, err := db.Finish(t.Context(), c, nil, "", true); err != nil {
				t.Error(err)
			}
		})
		both.Wait()
	}
	expect(t, "the isolation of a node's statements", isolation(t, db), "read committed")
}

func isolation(t *testing.T, db *DB) (level string) {
	t.Helper()
	if err := db.pool.QueryRow(t.Context(), "SHOW transaction_isolation").Scan(&level); err != nil {
		t.Fatal(err)
	}
	return level
}
