//go:build postgres

package postgres

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"github.com/sheafapi/sheaf/internal/pgtest"
	"github.com/sheafapi/sheaf/internal/storage"
)

// watcher is what a node's Watch tells.
type watcher struct{ woken, notified chan storage.QueueID }

// watch listens to a node's Watch until the test ends.
func watch(t *testing.T, db *DB) watcher {
	t.Helper()
	w := watcher{make(chan storage.QueueID, 1000), make(chan storage.QueueID, 1000)}
	into := func(c chan storage.QueueID) func(storage.QueueID) {
		return func(q storage.QueueID) {
			select {
			case c <- q:
			default:
			}
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		db.Watch(ctx, into(w.woken), into(w.notified))
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	eventually(t, "nobody watches", func() bool {
		db.hints.mu.Lock()
		defer db.hints.mu.Unlock()
		return db.hints.wake != nil
	})
	return w
}

// acquaint waits until a node knows that it is not alone: before, it gives no hints.
func acquaint(t *testing.T, db *DB) {
	t.Helper()
	eventually(t, "the node does not see another one", func() bool {
		db.hints.mu.Lock()
		defer db.hints.mu.Unlock()
		return !db.hints.alone
	})
}

func receive(t *testing.T, c chan storage.QueueID) storage.QueueID {
	t.Helper()
	select {
	case q := <-c:
		return q
	case <-time.After(30 * time.Second):
		t.Fatal("nothing was told")
		return 0
	}
}

// fastest returns the shortest of some times that a hint takes: others come late because the
// machine is busy.
func fastest(t *testing.T, c chan storage.QueueID, cause func() storage.QueueID) time.Duration {
	t.Helper()
	best := time.Hour
	for range 10 {
		began := time.Now()
		for q := cause(); receive(t, c) != q; {
			began = time.Now().Add(-time.Hour) // of an earlier round
		}
		best = min(best, time.Since(began))
	}
	return best
}

// TestHints: with LISTEN other nodes hear of offers and stops at once; without, they find
// both at their next look.
func TestHints(t *testing.T) {
	look := quick
	look.lease, look.send = time.Hour, time.Hour
	for name, tt := range map[string]struct {
		options Options
		most    time.Duration
	}{
		"LISTEN":    {Options{timing: &still}, 100 * time.Millisecond},
		"plain SQL": {Options{timing: &look, NoAccelerators: true}, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			url := pgtest.NewDatabase(t)
			a, b := open(t, url, tt.options), open(t, url, tt.options)
			w := watch(t, b)
			acquaint(t, a)
			took := fastest(t, w.woken, func() storage.QueueID {
				q := create(t, a, newBatch("s", 1))
				a.Offer(q)
				return q
			})
			if took > tt.most {
				t.Errorf("an offer took %v", took)
			}
			took = fastest(t, w.notified, func() storage.QueueID {
				x := newBatch("s"+time.Now().String(), 1)
				c := claimed(t, b, x)
				stopped, err := a.Stop(t.Context(), storage.Selection{Store: x.Store, Owner: x.Owner, Ticket: x.Ticket})
				if err != nil || stopped.Count != 1 {
					t.Fatal(stopped, err)
				}
				return c.Queue
			})
			if took > tt.most {
				t.Errorf("a stop took %v", took)
			}
		})
	}
}

// TestLastOffers: what a node offers before it closes is heard.
func TestLastOffers(t *testing.T) {
	url := pgtest.NewDatabase(t)
	a, b := open(t, url, Options{timing: &still}), open(t, url, Options{timing: &still})
	woken := watch(t, b).woken
	acquaint(t, a)
	q := create(t, a, newBatch("s", 1))
	a.Offer(q)
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	expect(t, "the queue that was offered", receive(t, woken), q)
}

// TestLackingAccelerators: a server that has no advisory locks, or seeming ones, or no
// LISTEN is done without the one that it lacks, and that is told once.
func TestLackingAccelerators(t *testing.T) {
	shadow := func(body string) string {
		return `CREATE SCHEMA shadow; CREATE FUNCTION shadow.pg_advisory_lock(bigint) RETURNS void LANGUAGE plpgsql AS 'BEGIN ` + body + ` END';
			DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = public, shadow, pg_catalog', current_database()); END $$`
	}
	for name, tt := range map[string]struct {
		sql       string
		deaf      bool
		lacks     string
		locks     int // rows that name one
		listeners bool
	}{
		"no advisory locks":      {sql: shadow("RAISE feature_not_supported;"), lacks: "advisory locks", listeners: true},
		"seeming advisory locks": {sql: shadow("RETURN;"), lacks: "advisory locks", listeners: true},
		"no LISTEN":              {deaf: true, lacks: "LISTEN", locks: 1},
	} {
		t.Run(name, func(t *testing.T) {
			url := pgtest.NewDatabase(t)
			other := open(t, url, Options{timing: &quick}) // with all accelerators
			p := newProxy(t, url)
			if tt.sql != "" {
				execute(t, url, tt.sql)
			}
			if tt.deaf {
				p.alter = func(call []byte) []byte {
					return bytes.ReplaceAll(call, []byte("LISTEN sheaf"), []byte("HEARKEN shea"))
				}
			}
			var log logs
			db := open(t, p.url, Options{timing: &quick, Logger: log.logger()})
			expect(t, "warnings", strings.Count(log.String(), "\n"), 1)
			if !strings.Contains(log.String(), `accelerator="`+tt.lacks) && !strings.Contains(log.String(), "accelerator="+tt.lacks) {
				t.Errorf("the log does not say that %s are missing: %s", tt.lacks, log.String())
			}
			expect(t, "locks", number(t, url, "SELECT count(lock) FROM nodes WHERE id = $1", db.lease.node()), tt.locks)
			x := newBatch("s", 1)
			c := claimed(t, db, x)
			authorize(t, db, c)
			if tt.listeners {
				woken := watch(t, db).woken
				acquaint(t, other)
				other.Offer(c.Queue)
				expect(t, "the queue that was offered", receive(t, woken), c.Queue)
			}
			db.crash()
			eventually(t, "the dead node is still in the database", func() bool {
				return number(t, url, "SELECT count(*) FROM nodes WHERE id = $1", c.Lease) == 0
			})
			if _, err := other.Claim(t.Context(), c.Queue); err != nil {
				t.Error(err)
			}
		})
	}
}
