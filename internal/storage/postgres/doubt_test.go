//go:build postgres

package postgres

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// unsure is a node on a network that loses and delays calls, with a second node that isn't
// affected.
type unsure struct {
	*DB
	net   *proxy
	sight *DB
}

func newUnsure(t *testing.T) *unsure {
	t.Helper()
	url := migrated.New(t)
	p := newProxy(t, url)
	return &unsure{DB: open(t, p.url, Options{timing: &still}), net: p, sight: open(t, url, Options{timing: &still})}
}

// TestLostAnswers: if a call was carried out but its answer was lost, Storage itself or its caller
// can safely repeat the call.
func TestLostAnswers(t *testing.T) {
	ctx := t.Context()
	// twice makes a call that fails because its answer is lost, and then repeats it.
	twice := func(t *testing.T, n *unsure, statement string, call func() error) error {
		t.Helper()
		r := n.net.loseAnswer(statement)
		err := call()
		r.wait(t)
		if err == nil {
			t.Error("a call without an answer succeeded")
		}
		return call()
	}
	t.Run("Create", func(t *testing.T) {
		n := newUnsure(t)
		x := newBatch("s", 1)
		x.DedupKey = uuid.New()
		create(t, n.DB, newBatch("s", 1))
		r := n.net.loseAnswer("insert_batch")
		create(t, n.DB, x)
		r.wait(t)
		found, err := n.sight.Find(ctx, storage.Filter{Store: x.Store, Owner: x.Owner, Status: batch.Queued, Limit: 9})
		if err != nil {
			t.Fatal(err)
		}
		expect(t, "batches", len(found.Batches), 2)
	})
	t.Run("Claim", func(t *testing.T) {
		n := newUnsure(t)
		q := create(t, n.DB, newBatch("s", 1))
		r := n.net.loseAnswer("own_queue")
		c, err := n.Claim(ctx, q)
		if err != nil {
			t.Fatal(err)
		}
		r.wait(t)
		var newest int64
		if err := n.sight.pool.QueryRow(ctx, "SELECT epoch FROM owners").Scan(&newest); err != nil {
			t.Fatal(err)
		}
		expect(t, "newest epoch", c.Epoch, newest)
		if _, err := n.Record(ctx, c, []storage.Mark{done(0, "a")}); err != nil {
			t.Error(err)
		}
	})
	t.Run("Record", func(t *testing.T) {
		n := newUnsure(t)
		x := newBatch("s", 2)
		c := claimed(t, n.DB, x)
		epoch := c.Epoch
		err := twice(t, n, "record", func() error {
			_, err := n.Record(ctx, c, []storage.Mark{done(0, "a")})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		expect(t, "epoch", c.Epoch, epoch+1)
		expect(t, "outcome", outcome(t, n.sight, x), "IN_PROGRESS 0:a")
		authorize(t, n.DB, c)
	})
	t.Run("Finish, with a next batch", func(t *testing.T) {
		n := newUnsure(t)
		x, y := newBatch("s", 1), newBatch("s", 1)
		c := claimed(t, n.DB, x)
		create(t, n.DB, y)
		var next *storage.Claim
		err := twice(t, n, "end_batch", func() (err error) {
			next, err = n.Finish(ctx, c, []storage.Mark{done(0, "a")}, "", false)
			return err
		})
		if err != nil || next == nil {
			t.Fatal(next, err)
		}
		expect(t, "the next batch", next.Ticket, y.Ticket)
		expect(t, "outcome", outcome(t, n.sight, x), "COMPLETED 0:a")
		if _, err := n.Finish(ctx, next, nil, "", false); err != nil {
			t.Error(err)
		}
		expect(t, "outcome", outcome(t, n.sight, y), "COMPLETED")
	})
	t.Run("Finish of the last batch", func(t *testing.T) {
		n := newUnsure(t)
		x := newBatch("s", 1)
		c := claimed(t, n.DB, x)
		err := twice(t, n, "end_batch", func() error {
			_, err := n.Finish(ctx, c, []storage.Mark{done(0, "a")}, "", false)
			return err
		})
		if err != nil && !errors.Is(err, storage.ErrNotOwner) {
			t.Error(err)
		}
		expect(t, "outcome", outcome(t, n.sight, x), "COMPLETED 0:a")
	})
	t.Run("Release", func(t *testing.T) {
		n := newUnsure(t)
		c := claimed(t, n.DB, newBatch("s", 1))
		due := time.UnixMilli(time.Now().Add(time.Hour).UnixMilli())
		err := twice(t, n, "leave_queue", func() error { return n.Release(ctx, c, nil, due) })
		if err != nil && !errors.Is(err, storage.ErrNotOwner) {
			t.Error(err)
		}
		free, err := n.sight.Runnable(ctx, 0, 9)
		if err != nil || len(free) != 1 || !free[0].NotBefore.Equal(due) {
			t.Errorf("runnable: %v, %v", free, err)
		}
	})
	t.Run("raising the epoch", func(t *testing.T) {
		n := newUnsure(t)
		x := newBatch("s", 1)
		c := claimed(t, n.DB, x)
		before := c.Epoch
		record := func() error {
			_, err := n.Record(ctx, c, []storage.Mark{done(0, "a")})
			return err
		}
		r := n.net.loseAnswer("record")
		if record() == nil {
			t.Error("a call without an answer succeeded")
		}
		r.wait(t)
		if err := twice(t, n, "renew_claim", record); err != nil {
			t.Error(err)
		}
		expect(t, "epoch", c.Epoch, before+1)
	})
	t.Run("renewal", func(t *testing.T) {
		n := newUnsure(t)
		err := twice(t, n, "renew_node", func() error { return n.renew(ctx) })
		if err != nil {
			t.Error(err)
		}
	})
}

// TestLateCalls: a call that was given up, and is delivered after the next call, changes nothing.
func TestLateCalls(t *testing.T) {
	ctx := t.Context()
	// late makes a call that hangs in the network.
	late := func(t *testing.T, n *unsure, statement string, call func() error) *heldCall {
		t.Helper()
		r := n.net.delay(statement)
		if call() == nil {
			t.Error("a call without an answer succeeded")
		}
		return r.wait(t)
	}
	record := func(n *unsure, c *storage.Claim, body string) func() error {
		return func() error {
			_, err := n.Record(ctx, c, []storage.Mark{done(0, body)})
			return err
		}
	}
	must := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	t.Run("Record", func(t *testing.T) {
		n := newUnsure(t)
		x := newBatch("s", 2)
		c := claimed(t, n.DB, x)
		h := late(t, n, "record", record(n, c, "late"))
		_, err := n.Record(ctx, c, []storage.Mark{done(1, "b")})
		must(t, err)
		h.arrive()
		expect(t, "outcome", outcome(t, n.sight, x), "IN_PROGRESS 1:b")
		must(t, record(n, c, "a")())
		expect(t, "outcome", outcome(t, n.sight, x), "IN_PROGRESS 0:a 1:b")
	})
	t.Run("Finish", func(t *testing.T) {
		n := newUnsure(t)
		x := newBatch("s", 1)
		c := claimed(t, n.DB, x)
		h := late(t, n, "end_batch", func() error {
			_, err := n.Finish(ctx, c, nil, "late", false)
			return err
		})
		must(t, record(n, c, "a")())
		h.arrive()
		expect(t, "outcome", outcome(t, n.sight, x), "IN_PROGRESS 0:a")
		must(t, n.Release(ctx, c, nil, time.Time{}))
	})
	t.Run("Release", func(t *testing.T) {
		n := newUnsure(t)
		c := claimed(t, n.DB, newBatch("s", 1))
		h := late(t, n, "leave_queue", func() error { return n.Release(ctx, c, nil, time.Time{}) })
		must(t, record(n, c, "a")())
		h.arrive()
		if _, err := n.sight.Claim(ctx, c.Queue); !errors.Is(err, storage.ErrNotOwner) {
			t.Errorf("Claim by another: %v", err)
		}
		must(t, n.Release(ctx, c, nil, time.Time{}))
	})
	// A late claim would take the queue from its owner, or for a node that doesn't know of it.
	for name, next := range map[string]func(n *unsure) *DB{
		"Claim, another node was next":   func(n *unsure) *DB { return n.sight },
		"Claim, the same node was next":  func(n *unsure) *DB { return n.DB },
		"Claim, the queue is free again": func(*unsure) *DB { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			n := newUnsure(t)
			q := create(t, n.DB, newBatch("s", 1))
			r := n.net.delay("own_queue")
			c, err := n.Claim(ctx, q) // Claim repeats the lost call at once
			must(t, err)
			h := r.wait(t)
			must(t, n.Release(ctx, c, nil, time.Time{}))
			db := next(n)
			if db != nil {
				c, err = db.Claim(ctx, q)
				must(t, err)
			}
			h.arrive()
			if db == nil {
				db = n.sight
				c, err = db.Claim(ctx, q)
				must(t, err)
			}
			_, err = db.Record(ctx, c, []storage.Mark{done(0, "a")})
			must(t, err)
		})
	}
	t.Run("Create", func(t *testing.T) {
		n := newUnsure(t)
		x := newBatch("s", 1)
		r := n.net.delay("insert_batch")
		q := create(t, n.DB, x) // Create repeats the lost call at once
		h := r.wait(t)
		c, err := n.Claim(ctx, q)
		must(t, err)
		_, err = n.Finish(ctx, c, nil, "", false)
		must(t, err)
		h.arrive()
		free, err := n.Runnable(ctx, 0, 9)
		must(t, err)
		expect(t, "queues with work", len(free), 0)
	})
	t.Run("a new epoch", func(t *testing.T) {
		n := newUnsure(t)
		x := newBatch("s", 1)
		c := claimed(t, n.DB, x)
		first := late(t, n, "record", record(n, c, "late"))
		second := late(t, n, "renew_claim", record(n, c, "a"))
		must(t, record(n, c, "a")())
		second.arrive()
		first.arrive()
		must(t, record(n, c, "a")())
		expect(t, "outcome", outcome(t, n.sight, x), "IN_PROGRESS 0:a")
	})
	// The row must not name the lock of a session that is gone while the node believes that it
	// names the lock of the current one.
	t.Run("naming a lock", func(t *testing.T) {
		n := newUnsure(t)
		r := n.net.delay("lock_node")
		execute(t, n.net.url, "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND classid::bigint << 32 | objid::bigint = (SELECT lock FROM nodes WHERE id = $1)", n.lease.node())
		h := r.wait(t)
		named := func() int {
			return number(t, n.net.url, `SELECT count(*) FROM nodes JOIN pg_locks
				ON locktype = 'advisory' AND granted AND classid::bigint << 32 | objid::bigint = nodes.lock WHERE nodes.id = $1`, n.lease.node())
		}
		eventually(t, "the node has no new session", func() bool { return named() == 1 })
		h.arrive()
		expect(t, "locks that the node's row names and its session holds", named(), 1)
	})
}

// TestSessionThatDies: if a session ends after it has taken its lock and before that is checked,
// the node doesn't conclude that the server lacks working locks.
func TestSessionThatDies(t *testing.T) {
	url := migrated.New(t)
	p := newProxy(t, url)
	looks := prepared("lock_is_free")
	var ended atomic.Bool
	p.alter = func(call []byte) []byte {
		if bytes.Contains(call, looks) && ended.CompareAndSwap(false, true) {
			execute(t, url, "SELECT pg_terminate_backend(pid, 10000) FROM pg_locks WHERE locktype = 'advisory' AND granted AND pid <> pg_backend_pid()")
		}
		return call
	}
	var log logs
	db, err := Open(t.Context(), p.url, Options{timing: &still, Logger: log.logger()})
	if err == nil { // Open opened another session
		db.Close()
	}
	if !ended.Load() || strings.Contains(log.String(), "accelerator") {
		t.Errorf("the session was ended: %v; Open: %v; the log: %s", ended.Load(), err, log.String())
	}
}

// TestBrokenAnswers: if an answer is cut off, a repeated call discards the rows that it has already
// read.
func TestBrokenAnswers(t *testing.T) {
	ctx := t.Context()
	n := newUnsure(t)
	const requests = 50
	x := newBatch("s", requests)
	c := claimed(t, n.DB, x)
	var marks []storage.Mark
	for i := range requests {
		marks = append(marks, done(i, strings.Repeat("a", 10_000)))
	}
	if _, err := n.Record(ctx, c, marks); err != nil {
		t.Fatal(err)
	}
	for statement, read := range map[string]func() (int, error){
		"results_by_ticket": func() (int, error) {
			s, err := n.Status(ctx, key(x), 1<<20)
			if err == nil {
				expect(t, "requests that are done", s.Completed, requests)
				return len(s.Results), nil
			}
			return 0, err
		},
		"results": func() (int, error) {
			results, err := n.Results(ctx, c.ID, 0, 1<<20)
			return len(results), err
		},
	} {
		if _, err := read(); err != nil { // prepares the statement
			t.Fatal(err)
		}
		r := n.net.breakOff(statement)
		got, err := read()
		r.wait(t)
		if err != nil {
			t.Error(err)
		}
		expect(t, "results", got, requests)
	}
}

// TestBrokenConnections: if the server ends connections during calls, the calls are repeated or
// fail and can be repeated. The next break waits for a recorded mark, because on a slow machine,
// breaks at fixed intervals would end every attempt.
func TestBrokenConnections(t *testing.T) {
	url := migrated.New(t)
	db := open(t, url, Options{timing: &still})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	x := newBatch("s", 200)
	c := claimed(t, db, x)
	recorded := make(chan struct{}, 1)
	go func() {
		defer close(recorded)
		for i := range x.Requests {
			for {
				if _, err := db.Record(ctx, c, []storage.Mark{done(i, "a")}); err == nil {
					break
				} else if ctx.Err() != nil || errors.Is(err, storage.ErrNotOwner) {
					t.Error(err)
					return
				}
			}
			select {
			case recorded <- struct{}{}:
			default: // a break is already due
			}
		}
	}()
	breaks := 0
	for range recorded {
		execute(t, url, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1", db.process)
		breaks++
	}
	next, err := db.Finish(ctx, c, nil, "", false)
	for err != nil && ctx.Err() == nil && !errors.Is(err, storage.ErrNotOwner) {
		next, err = db.Finish(ctx, c, nil, "", false)
	}
	if next != nil {
		t.Error("there is a next batch")
	}
	s, err := db.Status(ctx, key(x), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "results", len(s.Results), len(x.Requests))
	expect(t, "requests that are done", s.Completed, len(x.Requests))
	t.Logf("the connections were broken %d times; the epoch is %d", breaks, c.Epoch)
}
