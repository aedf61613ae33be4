package postgres

import (
	"context"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/sheafapi/sheaf/internal/storage"
)

// hints are what nodes tell each other to be faster than their next look.
type hints struct {
	outbox chan hint

	mu     sync.Mutex
	wake   func(storage.QueueID) // nil: nobody watches
	notify func(storage.QueueID)
	alone  bool // no other node was there at the last look
}

type hint struct {
	kind  string
	queue storage.QueueID
}

// The kinds of hints.
const (
	offered = "offered" // a queue has work and nobody runs it
	told    = "told"    // a batch of a queue was stopped or deleted
)

// mostHints is how many queues one notification names; its text has to stay below 8,000
// bytes.
const mostHints = 200

// lastHints is how long hints are still sent after the database was closed.
const lastHints = time.Second

// Offer implements storage.Storage.
func (db *DB) Offer(q storage.QueueID) { db.hints.send(hint{offered, q}) }

// send leaves a hint for other nodes, if there are any and they are listened to.
func (h *hints) send(what hint) {
	h.mu.Lock()
	alone := h.alone
	h.mu.Unlock()
	if alone {
		return
	}
	select {
	case h.outbox <- what:
	default:
	}
}

// sendHints says that this node is there, so that others send it hints at once, and then
// sends what is in the outbox, together what has come meanwhile. When ctx ends it
// sends the rest, as far as it gets in a moment: a node's last offers are those of the
// queues that it hands over when it shuts down.
func (db *DB) sendHints(ctx context.Context) {
	sending, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(lastHints, cancel) })()
	if !db.lease.noLocks {
		db.notify(sending, offered, nil)
	}
	for {
		var first hint
		select {
		case first = <-db.hints.outbox:
		case <-ctx.Done():
			select {
			case first = <-db.hints.outbox:
			default:
				return
			}
		}
		if db.lease.noLocks {
			continue
		}
		for kind, ids := range db.hints.gather(first) {
			db.notify(sending, kind, ids)
		}
	}
}

// notify sends hints of one kind. They are only hints.
func (db *DB) notify(ctx context.Context, kind string, ids []string) {
	payload := fmt.Sprintf("%s %d %s", kind, db.lease.node(), strings.Join(ids, " "))
	_ = db.exchange(ctx, do("notify", payload))
}

// gather takes what is in the outbox, by kind.
func (h *hints) gather(first hint) map[string][]string {
	all := map[string][]string{first.kind: {strconv.FormatInt(int64(first.queue), 10)}}
	for range mostHints - 1 {
		select {
		case next := <-h.outbox:
			all[next.kind] = append(all[next.kind], strconv.FormatInt(int64(next.queue), 10))
		default:
			return all
		}
	}
	return all
}

// hear takes in a notification.
func (h *hints) hear(payload string, self int64) {
	words := strings.Fields(payload)
	if len(words) < 2 || words[1] == strconv.FormatInt(self, 10) {
		return
	}
	h.mu.Lock()
	h.alone = false
	h.mu.Unlock()
	for _, word := range words[2:] {
		if id, err := strconv.ParseInt(word, 10, 64); err == nil {
			h.pass(hint{words[0], storage.QueueID(id)})
		}
	}
}

// pass gives a hint to whoever watches.
func (h *hints) pass(what hint) {
	h.mu.Lock()
	tell := h.wake
	if what.kind == told {
		tell = h.notify
	}
	h.mu.Unlock()
	if tell != nil {
		tell(what.queue)
	}
}

// Watch implements storage.Storage.
func (db *DB) Watch(ctx context.Context, wake, notify func(storage.QueueID)) {
	set := func(wake, notify func(storage.QueueID)) {
		db.hints.mu.Lock()
		defer db.hints.mu.Unlock()
		db.hints.wake, db.hints.notify = wake, notify
	}
	set(wake, notify)
	<-ctx.Done()
	set(nil, nil)
}

// keepWatch looks at the other nodes, and at what was asked of this one, once a second
// until ctx ends.
func (db *DB) keepWatch(ctx context.Context) {
	watched := map[int64]observed{}
	for pause := time.Duration(0); wait(ctx, pause); {
		pause = db.lease.look
		if soon := db.lookAtNodes(ctx, watched); soon > 0 {
			pause = min(pause, soon)
		}
		db.lookForOrders(ctx)
		if db.lease.noLocks {
			db.wakeFree(ctx) // offers are not heard
		}
	}
}

// other is another node's row.
type other struct {
	node     int64
	lock     int64 // 0: none
	renewals int64
}

// observed is since when another node's row looks as it does, by this node's clock.
type observed struct {
	other
	silent instant // since when it was not renewed
	free   instant // since when its lock is known to be free; zero: it is held
}

// lookAtNodes removes the rows of nodes that are dead. It returns when to look again, if
// that is before long.
func (db *DB) lookAtNodes(ctx context.Context, watched map[int64]observed) (soon time.Duration) {
	others, err := db.otherNodes(ctx)
	if err != nil {
		clear(watched) // what happens meanwhile is not seen
		return 0
	}
	db.hints.mu.Lock()
	db.hints.alone = len(others) == 0
	db.hints.mu.Unlock()
	now, before := nowInstant(), maps.Clone(watched)
	clear(watched)
	for _, o := range others {
		seen, known := before[o.node]
		if !known || seen.renewals != o.renewals {
			seen.silent = now
		}
		if o.lock != seen.lock {
			seen.free = instant{}
		}
		seen.other = o
		if free := o.lock != 0 && !db.lease.noLocks && db.lockIsFree(ctx, o.lock); !free {
			seen.free = instant{}
		} else if seen.free == (instant{}) {
			seen.free = nowInstant()
		}
		if rest := db.judge(ctx, seen); rest > 0 && (soon == 0 || rest < soon) {
			soon = rest
		}
		watched[o.node] = seen
	}
	return soon
}

// otherNodes returns the rows of the other nodes.
func (db *DB) otherNodes(ctx context.Context) (others []other, err error) {
	err = db.exchange(ctx, get("other_nodes", func(r pgx.Rows) error {
		var o other
		var lock *int64
		err := r.Scan(&o.node, &lock, &o.renewals)
		if lock != nil {
			o.lock = *lock
		}
		others = append(others, o)
		return err
	}, db.lease.node()))
	return others, err
}

// judge removes a node's row if it is dead. If it may be before long, it returns when.
func (db *DB) judge(ctx context.Context, o observed) (soon time.Duration) {
	now := nowInstant()
	switch {
	case now.since(o.silent) >= db.lease.timing.lease:
		db.bury(ctx, "it was silent for too long", do("bury_silent", o.node, o.renewals))
	case o.free == (instant{}):
	case now.since(o.free) >= db.lease.grace:
		db.bury(ctx, "its session has ended", do("bury_unlocked", o.node, o.lock))
	default:
		return db.lease.grace - now.since(o.free) + time.Millisecond
	}
	return 0
}

// lockIsFree reports whether nobody holds an advisory lock.
func (db *DB) lockIsFree(ctx context.Context, lock int64) bool {
	found, free := false, false
	err := db.exchange(ctx, get("lock_is_free", scan(&found, &free), lock))
	return err == nil && free
}

// bury removes a dead node's row, ends the connections that it may have left with locks
// on rows, and wakes the queues that it owned.
func (db *DB) bury(ctx context.Context, cause string, remove step) {
	name, removed := "", false
	remove.row = scan(&removed, &name)
	if err := db.exchange(ctx, remove); err != nil || !removed {
		return // another node was faster, or it was not dead: the next look tells
	}
	db.log.Warn("a node is dead; its queues are free", "node", name, "cause", cause)
	if !db.lease.noLocks {
		_ = db.exchange(ctx, do("end_sessions", name)) // the server ends them too, later
	}
	db.wakeFree(ctx)
}

// mostWoken is how many queues wakeFree looks for. The scan finds the others.
const mostWoken = 1000

// wakeFree wakes the queues that have something to do and no owner.
func (db *DB) wakeFree(ctx context.Context) {
	free, err := db.Runnable(ctx, 0, mostWoken)
	if err != nil {
		return // the next scan finds them
	}
	for _, r := range free {
		if !r.NotBefore.After(time.Now()) {
			db.hints.pass(hint{offered, r.Queue})
		}
	}
}

// lookForOrders tells of batches that were stopped while this node runs them, in case a
// hint was lost.
func (db *DB) lookForOrders(ctx context.Context) {
	var queues []storage.QueueID
	err := db.exchange(ctx, get("told", func(r pgx.Rows) error {
		var q storage.QueueID
		queues = append(queues, q)
		return r.Scan(&queues[len(queues)-1])
	}, db.lease.node()))
	if err != nil {
		return // the next look finds them
	}
	for _, q := range queues {
		db.hints.pass(hint{told, q})
	}
}
