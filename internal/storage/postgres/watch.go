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

// hints are notifications between nodes, which save them waiting for the next poll.
type hints struct {
	outbox chan hint

	mu     sync.Mutex
	wake   func(storage.QueueID) // nil: Watch isn't running
	notify func(storage.QueueID)
	alone  bool // the last look found no other node
}

type hint struct {
	kind  string
	queue storage.QueueID
}

// The kinds of hints.
const (
	offered = "offered" // a queue has work and no owner
	told    = "told"    // a batch of the queue was stopped or deleted
)

// mostHints is the maximum number of queues in one notification, whose text must be shorter than
// 8,000 bytes.
const mostHints = 200

// lastHints is how long hints are still sent after Close.
const lastHints = time.Second

// Offer implements storage.Storage.
func (db *DB) Offer(q storage.QueueID) { db.hints.send(hint{offered, q}) }

// send puts a hint into the outbox, unless there are no other nodes or the outbox is full.
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

// sendHints first announces this node, so that others send it hints at once. Then it sends the
// hints in the outbox, each time all that have accumulated. When ctx ends, it briefly tries to send
// the rest, because a node's last offers are the queues that it hands over when it shuts down.
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

// notify sends hints of one kind. It ignores errors because hints may be lost.
func (db *DB) notify(ctx context.Context, kind string, ids []string) {
	payload := fmt.Sprintf("%s %d %s", kind, db.lease.node(), strings.Join(ids, " "))
	_ = db.exchange(ctx, do("notify", payload))
}

// gather empties the outbox and returns its hints by kind.
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

// hear handles a notification.
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

// pass passes a hint to Watch.
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

// keepWatch checks the other nodes, and the requests to stop this node's batches, once a second
// until ctx ends.
func (db *DB) keepWatch(ctx context.Context) {
	watched := map[int64]observation{}
	for pause := time.Duration(0); wait(ctx, pause); {
		pause = db.lease.look
		if soon := db.lookAtNodes(ctx, watched); soon > 0 {
			pause = min(pause, soon)
		}
		db.lookForOrders(ctx)
		if db.lease.noLocks {
			db.wakeFree(ctx) // this node receives no offers
		}
	}
}

// other is another node's row.
type other struct {
	node     int64
	lock     int64 // 0: none
	renewals int64
}

// observation is another node's row, and since when it looks like this, by this node's clock.
type observation struct {
	other
	silent instant // the time since which it was not renewed
	free   instant // the time since which its lock is known to be free; zero: it is held
}

// lookAtNodes removes the rows of dead nodes. If it should be called again soon, it returns after
// how long.
func (db *DB) lookAtNodes(ctx context.Context, watched map[int64]observation) (soon time.Duration) {
	others, err := db.otherNodes(ctx)
	if err != nil {
		clear(watched) // changes until the next look can't be seen
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

// judge removes a node's row if the node is dead. If the node may be dead soon, judge returns after
// how long.
func (db *DB) judge(ctx context.Context, o observation) (soon time.Duration) {
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

// bury removes a dead node's row, ends its remaining connections, which may hold row locks, and
// wakes the queues that it owned.
func (db *DB) bury(ctx context.Context, cause string, remove step) {
	name, removed := "", false
	remove.row = scan(&removed, &name)
	if err := db.exchange(ctx, remove); err != nil || !removed {
		return // another node was faster, or this one wasn't dead; the next look shows which
	}
	db.log.Warn("a node is dead; other nodes take over its queues", "node", name, "cause", cause)
	if !db.lease.noLocks {
		_ = db.exchange(ctx, do("end_sessions", name)) // the server would end them too, but later
	}
	db.wakeFree(ctx)
}

// mostWoken is the maximum number of queues that wakeFree wakes. The scan finds the others.
const mostWoken = 1000

// wakeFree wakes queues that have work and no owner.
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

// lookForOrders looks for batches that were stopped while this node runs them, in case a hint was
// lost.
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
