package postgres

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/sheafapi/sheaf/internal/storage"
)

// Runnable implements storage.Storage.
func (db *DB) Runnable(ctx context.Context, after storage.QueueID, limit int) ([]storage.Runnable, error) {
	var out []storage.Runnable
	err := db.read(ctx, claims, "look for waiting queues", get("runnable", func(r pgx.Rows) error {
		var q storage.Runnable
		var notBefore int64
		err := r.Scan(&q.Queue, &notBefore, &q.Waits)
		q.NotBefore = db.clock.in(notBefore)
		out = append(out, q)
		return err
	}, after, limit).anew(func() { out = nil }))
	if err != nil {
		return nil, err
	}
	return out, nil
}

// Claim implements storage.Storage. It first looks at the queue, which is cheap if another node was
// faster, and then claims exactly the state that it has seen. So a call that arrives late, after it
// was given up and repeated, claims nothing.
func (db *DB) Claim(ctx context.Context, q storage.QueueID) (*storage.Claim, error) {
	var out *storage.Claim
	err := db.writeAgain(ctx, "claim a queue", func(ctx context.Context) error {
		found, free, taken := false, false, false
		var epoch int64
		node := db.lease.node()
		err := db.sendIn(ctx, claims, []step{get("peek", scan(&found, &epoch, &free, &taken), q, node)})
		switch {
		case err != nil:
			return err
		case !found:
			return storage.ErrNothing
		case !free:
			return storage.ErrNotOwner
		}
		newer := epoch + 1 + rand.Int64N(epochStep) //nolint:gosec // needn't be secret
		next := db.next(q, newer, false, taken)
		owned := false
		steps := []step{
			do("sync_commit"),
			do("lock_queues", []int64{int64(q)}),
			get("own_queue", scan(&owned, new(int64)), q, node, epoch, newer),
		}
		if err := db.sendIn(ctx, claims, append(steps, next.steps()...)); err != nil {
			return err
		}
		if !owned {
			signal(db.lease.hurry) // in case this node was considered dead
			return errGone         // the queue has changed: look again
		}
		out = next.claim(node)
		return nil
	})
	if err != nil {
		return nil, err
	}
	db.doubts.forget(q)
	return out, nil
}

// epochStep limits what a claim adds to a queue's epoch. The increment is random, because a server
// that has lost its last commits, such as an asynchronous standby after a failover, must not give
// the same epoch to another node.
const epochStep = 1 << 20

// next reads the next batch of a queue that is being claimed.
type next struct {
	db               *DB
	queue            storage.QueueID
	epoch            int64
	skip             bool // make no claim
	taken            bool // the node takes over the queue
	found            bool
	out              storage.Claim
	size             int64  // of the requests in stored form
	packed           []byte // the stored form, or its beginning
	created, started int64
}

// inlinePacked is the maximum size in bytes of requests that are read with a claim, which saves
// Load a call.
const inlinePacked = 16 << 10

func (db *DB) next(q storage.QueueID, epoch int64, skip, taken bool) *next {
	return &next{db: db, queue: q, epoch: epoch, skip: skip, taken: taken}
}

// steps returns the steps that start the batch and read it.
func (n *next) steps() []step {
	return []step{
		get("start_next", n.row, n.queue, n.epoch, n.skip, n.taken),
		get("next_requests", scan(new(bool), &n.size, &n.packed), n.queue, n.epoch, n.skip, inlinePacked, storage.UnpackedHead),
	}
}

func (n *next) row(r pgx.Rows) error {
	n.found = true
	c := &n.out
	var ticket uuid.UUID
	var owner, group, options []byte
	err := r.Scan(&c.ID, &ticket, &c.Store, &owner, &group, &c.Options.Parallel, &c.Options.StopOnFailure,
		&c.Signals.Stopped, &c.Signals.Deleted, &n.created, &c.Credential, &c.Signals.Paused, &n.started, &c.Trace,
		&c.Total, &c.Marked, &c.Attempts, &c.Waits, &options)
	c.Ticket, c.GroupID, c.PackedOptions = ticket, string(group), string(options)
	copy(c.Owner[:], owner)
	return err
}

// readMark reads a row of the statement "marks_alone".
func (db *DB) readMark(r pgx.Rows) (m storage.Mark, err error) {
	var tries, line []byte
	var notBefore int64
	var inDoubt bool
	err = r.Scan(&m.Index, &m.State, &tries, &inDoubt, &notBefore, &m.Result.Status, &m.Result.Code, &m.Result.Kind, &line)
	if err != nil {
		return m, err
	}
	m.NotBefore, m.Result.Line = db.clock.in(notBefore), string(line)
	m.Tries, err = unpackTries(tries, &db.clock)
	m.Tries.InDoubt = inDoubt
	return m.Unread(), err
}

// claim returns the claim that was read; nil if there is no batch.
func (n *next) claim(lease int64) *storage.Claim {
	if !n.found {
		return nil
	}
	c := n.out
	c.Queue, c.Epoch, c.Lease, c.CreatedAt, c.StartedAt = n.queue, n.epoch, lease, n.db.clock.in(n.created), n.db.clock.in(n.started)
	c.Bytes = storage.UnpackedSize(n.packed, n.size)
	if n.size <= inlinePacked {
		c.Packed = n.packed
	}
	return &c
}

// Load implements storage.Storage. A small batch that is claimed for the first time needs no call.
func (db *DB) Load(ctx context.Context, c *storage.Claim) error {
	const what = "read a claimed batch"
	packed := c.Packed
	var marks []storage.Mark
	if packed == nil || c.Marked {
		there := false
		err := db.readAtOnce(ctx, claims, what,
			get("load_requests", scan(&there, &packed), c.ID).anew(func() { there = false }),
			get("marks_alone", func(r pgx.Rows) error {
				m, err := db.readMark(r)
				marks = append(marks, m)
				return err
			}, c.ID).anew(func() { marks = nil }))
		switch {
		case err != nil:
			return err
		case !there:
			return storage.ErrNotOwner
		}
	}
	return db.failure(ctx, what, c.Fill(packed, marks))
}

// doubts are the claims with a call that was given up but that the server may still carry out,
// whenever the network delivers it. The next call first raises the claim's epoch, after which the
// earlier call has no effect.
type doubts struct {
	mu     sync.Mutex
	epochs map[storage.QueueID]int64
}

func (d *doubts) add(c *storage.Claim) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.epochs == nil {
		d.epochs = map[storage.QueueID]int64{}
	}
	d.epochs[c.Queue] = c.Epoch
}

func (d *doubts) has(c *storage.Claim) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	epoch, ok := d.epochs[c.Queue]
	return ok && epoch == c.Epoch
}

func (d *doubts) forget(q storage.QueueID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.epochs, q)
}

// underClaim makes a call that takes effect only while the claim is the queue's newest.
func (db *DB) underClaim(ctx context.Context, what string, c *storage.Claim, call func(ctx context.Context) error) error {
	if err := db.gate.Enter(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	defer db.gate.Leave()
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", what, ctx.Err())
	}
	limited, cancel := context.WithTimeoutCause(ctx, callTimeout, errSlow)
	defer cancel()
	err := db.settle(limited, c)
	if err == nil {
		if err = call(limited); unknown(err) && !storage.Certain(err) {
			db.doubts.add(c)
		}
	}
	return db.failure(ctx, what, err)
}

// settle raises a claim's epoch if the server may still carry out an earlier call.
func (db *DB) settle(ctx context.Context, c *storage.Claim) error {
	if !db.doubts.has(c) {
		return nil
	}
	found := false
	err := db.send(ctx, []step{do("sync_commit"), get("renew_claim", scan(&found, new(int64)), c.Queue, c.Lease, c.Epoch)})
	switch {
	case err != nil:
		return err
	case !found:
		return storage.ErrNotOwner
	}
	db.doubts.forget(c.Queue)
	c.Epoch++
	return nil
}

// Record implements storage.Storage.
func (db *DB) Record(ctx context.Context, c *storage.Claim, marks []storage.Mark) (out storage.Signals, err error) {
	if len(marks) == 0 {
		return db.asked(ctx, c)
	}
	for len(marks) > 0 {
		n := storage.Portion(marks, portionBytes)
		err = db.underClaim(ctx, "record results", c, func(ctx context.Context) (err error) {
			out, err = db.recorder.record(ctx, c, marks[:n])
			return err
		})
		if err != nil {
			return storage.Signals{}, err
		}
		marks = marks[n:]
	}
	return out, nil
}

// portionBytes limits the marks of one statement, in bytes, if it has more than one answer. A
// larger statement might not be stored within a call's time.
const portionBytes = 2 << 20

// recordMost records marks first if they are too many for the statement that ends a batch or gives
// it up. It returns the marks that this statement must record.
func (db *DB) recordMost(ctx context.Context, c *storage.Claim, marks []storage.Mark) ([]storage.Mark, error) {
	if storage.Size(marks) <= portionBytes {
		return marks, nil
	}
	_, err := db.Record(ctx, c, marks)
	return nil, err
}

// asked reads the creator's signals.
func (db *DB) asked(ctx context.Context, c *storage.Claim) (out storage.Signals, err error) {
	found := false
	err = db.read(ctx, results, "ask for a creator's wishes", get("asked", scan(&found, &out.Stopped, &out.Deleted, &out.Paused), c.ID, c.Queue, c.Epoch).anew(func() { found = false }))
	if err == nil && !found {
		err = storage.ErrNotOwner
	}
	return out, err
}

// Finish implements storage.Storage.
func (db *DB) Finish(ctx context.Context, c *storage.Claim, marks []storage.Mark, reason string, release bool) (out *storage.Claim, err error) {
	if marks, err = db.recordMost(ctx, c, marks); err != nil {
		return nil, err
	}
	err = db.underClaim(ctx, "end a batch", c, func(ctx context.Context) (err error) {
		release := release || c.Lease != db.lease.node() // a lost registration can't make a claim
		next := db.next(c.Queue, c.Epoch, release, false)
		steps := append(db.ending(c, marks),
			do("end_batch", c.ID, c.Queue, c.Epoch, []byte(reason)))
		steps = append(steps, next.steps()...)
		steps = append(steps, do("leave_queue", c.Queue, c.Epoch, 0, release, c.ID, false, storage.NoWait, c.Credential))
		if err := db.sendUnder(ctx, c, steps); err != nil {
			return err
		}
		out = next.claim(c.Lease)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// Release implements storage.Storage.
func (db *DB) Release(ctx context.Context, c *storage.Claim, marks []storage.Mark, notBefore time.Time) error {
	marks, err := db.recordMost(ctx, c, marks)
	if err != nil {
		return err
	}
	return db.underClaim(ctx, "release a batch", c, func(ctx context.Context) error {
		steps := append(db.ending(c, marks),
			do("leave_batch", c.ID, c.Queue, c.Epoch),
			do("leave_queue", c.Queue, c.Epoch, db.clock.out(notBefore), true, c.ID, notBefore.Equal(storage.Forever), c.Waits, c.Credential))
		return db.sendUnder(ctx, c, steps)
	})
}

// ending returns the first steps of a call that ends a claim's batch or gives it up.
func (db *DB) ending(c *storage.Claim, marks []storage.Mark) []step {
	steps := []step{do("sync_commit"), do("lock_queues", []int64{int64(c.Queue)}), {}} // sendUnder fills in the third
	if len(marks) > 0 {
		w := &recordArgs{clock: &db.clock}
		w.add(c, marks)
		steps = append(steps, w.step(func(int, storage.Signals) {}))
	}
	return steps
}

// sendUnder sends the steps of ending. None of them has an effect unless the claim is the queue's
// newest. The third step reads whether it is, and locks the row so that this doesn't change.
func (db *DB) sendUnder(ctx context.Context, c *storage.Claim, steps []step) error {
	var epoch int64
	steps[2] = get("newest_epoch", scan(new(bool), &epoch), c.Queue)
	if err := db.send(ctx, steps); err != nil {
		return err
	}
	if epoch != c.Epoch {
		return storage.ErrNotOwner
	}
	return nil
}
