//go:build postgres

package postgres

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sheafapi/sheaf/internal/storage"
)

// watcher holds the calls that a node's Watch has made.
type watcher struct{ woken, notified chan storage.QueueID }

// watch runs a node's Watch until the test ends.
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

// acquaint waits until a node knows that it is not alone. Before that, it sends no hints.
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

// receiveQueue waits until the queue is reported.
func receiveQueue(t *testing.T, c chan storage.QueueID, queue storage.QueueID) {
	t.Helper()
	for got := receive(t, c); got != queue; got = receive(t, c) {
		t.Log("a hint for another queue:", got)
	}
}

// TestHints: with LISTEN, other nodes receive offers and stops as notifications. Without it, they
// find both at their next poll.
func TestHints(t *testing.T) {
	listening, looking := still, quick
	listening.look = time.Hour // too late for this test
	looking.lease, looking.send = time.Hour, time.Hour
	for name, o := range map[string]Options{
		"LISTEN":    {timing: &listening},
		"plain SQL": {timing: &looking, NoAccelerators: true},
	} {
		t.Run(name, func(t *testing.T) {
			url := migrated.New(t)
			b := open(t, url, o)
			a := open(t, url, o) // finds b at its first look
			w := watch(t, b)
			acquaint(t, a)
			for i := range 10 {
				q := create(t, a, newBatch("s", 1))
				a.Offer(q)
				receiveQueue(t, w.woken, q)

				x := newBatch(fmt.Sprint("stopped-", i), 2)
				c := claimed(t, b, x)
				if _, err := b.Record(t.Context(), c, []storage.Mark{done(0, "")}); err != nil { // a batch that hasn't begun ends without b
					t.Fatal(err)
				}
				stopped, err := a.Stop(t.Context(), storage.Selection{Store: x.Store, Owner: x.Owner, Ticket: x.Ticket})
				if err != nil || stopped.Count != 1 {
					t.Fatal(stopped, err)
				}
				receiveQueue(t, w.notified, c.Queue)
			}
		})
	}
}

// TestLastOffers: other nodes receive what a node offers just before it closes.
func TestLastOffers(t *testing.T) {
	url := migrated.New(t)
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

// TestLackingAccelerators: if a server has no LISTEN, or no advisory locks that work, a node works
// without the one that is missing and logs this once.
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
			url := migrated.New(t)
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
