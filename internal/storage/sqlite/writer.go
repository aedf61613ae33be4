package sqlite

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
	"github.com/sheafapi/sheaf/internal/storage/internal/driver"
	"zombiezen.com/go/sqlite"
)

const (
	// groupLimit is the maximum number of operations in one transaction.
	groupLimit = 256
	// largeOperation is the size in bytes above which an operation counts as large.
	largeOperation = 64 << 10
	// checkpointBytes is how many bytes large operations write before the log is moved into the
	// file, concurrently with the writer.
	checkpointBytes = 4 << 20
)

// writer runs operations on the only connection that writes. It takes all queued operations and
// commits them together. A large operation has its own transaction. Small operations that were
// queued in the meantime are committed before the next large one, so a small operation waits for at
// most one large one.
type writer struct {
	conn    *sqlite.Conn    // nil: the next commit opens another
	large   chan *operation // DB.large lets one through at a time
	written int             // bytes of large operations since the last requested checkpoint
	moving  chan struct{}   // requests a checkpoint
	movers  sync.WaitGroup
	journal *journal
	path    string
	log     *slog.Logger
	queue   chan *operation
	known   map[storage.BatchID]batchState // running batches; all operations except Record clear it
	failing atomic.Bool                    // the last commit failed
	syncs
	checkpoints
	ended chan struct{}
	err   error // error of closing; set before ended is closed
}

// batchState is what Record needs to know of a batch.
type batchState struct {
	epoch   int64 // the newest epoch of its queue
	state   batch.Status
	signals storage.Signals
}

// operation is one call that waits for its commit.
type operation struct {
	run     func(c *sqlite.Conn) error
	records bool           // it is a Record
	bytes   int            // about how many bytes it writes
	by      storage.Caller // the caller whose data it writes
	class   driver.Class   // class of a large operation
	err     error          // set before End
	driver.Pending
}

// startWriter starts a writer on c. A second connection, mover, copies pages of large operations from
// the WAL into the file.
func startWriter(c, mover *sqlite.Conn, j *journal, path string, log *slog.Logger, fatal func(error)) *writer {
	w := &writer{
		conn: c, journal: j, path: path, log: log, queue: make(chan *operation, groupLimit), large: make(chan *operation),
		known: map[storage.BatchID]batchState{}, ended: make(chan struct{}), moving: make(chan struct{}, 1),
		syncs: syncs{path: path, log: log, fatal: fatal},
	}
	w.movers.Go(func() { w.move(mover) })
	go w.loop()
	return w
}

// close runs the operations that are queued and ends the writer.
func (w *writer) close() error {
	close(w.queue)
	<-w.ended
	return w.err
}

// do runs an operation and returns after its commit. If the context ends before its turn comes, the
// operation doesn't run.
func (w *writer) do(ctx context.Context, op *operation) error {
	if ctx.Err() != nil {
		return ctx.Err() // the select below would choose between the two at random
	}
	queue := w.queue
	if op.isLarge() {
		queue = w.large
	}
	if err := driver.Wait(ctx, queue, op); err != nil {
		return err
	}
	return op.err
}

// isLarge reports whether the operation writes so much that it would delay others noticeably.
func (op *operation) isLarge() bool { return op.bytes > largeOperation }

func (w *writer) loop() {
	defer close(w.ended)
	group := make([]*operation, 0, groupLimit)
	for open := true; open; {
		var op *operation
		select {
		case op, open = <-w.queue:
		case op = <-w.large:
			w.carryOutLarge(op)
			select {
			case op, open = <-w.queue: // before the next large one
			default:
				continue
			}
		}
		if !open {
			break
		}
		w.carryOut(driver.Collect(group[:0], op, w.queue, isFull))
		select {
		case op := <-w.large: // even if more small ones are queued
			w.carryOutLarge(op)
		default:
		}
	}
	close(w.moving)
	w.movers.Wait()
	w.err = w.commit([]*operation{{run: w.journal.empty}})
	if w.conn != nil && w.dead() == nil {
		w.err = errors.Join(w.err, w.conn.Close())
	}
}

// carryOut runs a group of operations.
func (w *writer) carryOut(group []*operation) {
	if err := w.commit(group); err != nil {
		w.oneByOne(group, err)
	}
	for _, op := range group {
		op.End()
	}
	clear(group)
	w.checkpoint()
}

// carryOutLarge runs a large operation, unless its caller has given up.
func (w *writer) carryOutLarge(op *operation) {
	if !op.Take() {
		return
	}
	w.carryOut([]*operation{op})
	if w.written += op.bytes; w.written < checkpointBytes {
		return
	}
	w.written = 0
	select {
	case w.moving <- struct{}{}:
	default: // a checkpoint is already requested
	}
}

// isFull reports whether a group has the maximum number of operations.
func isFull(group []*operation) bool { return len(group) == groupLimit }

// commit runs the operations in one transaction. An error of package storage belongs to a single
// operation. After any other error, nothing was stored, unless a sync failed: then it is unknown.
func (w *writer) commit(group []*operation) (err error) {
	if len(group) == 0 {
		return nil
	}
	w.journal.begin()
	if err := w.connect(); err != nil {
		w.failing.Store(true)
		return err
	}
	defer func() {
		w.failing.Store(err != nil)
		if err != nil {
			w.fail(err)
		}
	}()
	if err := query(w.conn, "begin", nil); err != nil {
		return err
	}
	for _, op := range group {
		if !op.records {
			clear(w.known)
		}
		if op.err = op.run(w.conn); op.err != nil && !storage.Certain(op.err) {
			return op.err
		}
	}
	if err := w.journal.flush(w.conn); err != nil {
		return err
	}
	if err := query(w.conn, "commit", nil); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	w.journal.commit()
	return nil
}

// connect opens a new connection after the last one was given up.
func (w *writer) connect() (err error) {
	if err := w.dead(); err != nil {
		return err
	}
	if w.conn == nil {
		w.conn, err = connectWriter(context.Background(), w.path)
	}
	return err
}

// fail rolls back a failed transaction. It replaces a connection that is no longer usable.
func (w *writer) fail(err error) {
	clear(w.known)
	w.note(err)
	if !w.conn.AutocommitEnabled() { // some errors have ended the transaction already
		err = query(w.conn, "rollback", nil)
	} else if sqlite.ErrCode(err).ToPrimary() != sqlite.ResultInterrupt {
		return
	}
	if err == nil {
		return
	}
	w.log.Error("the database can't roll back; its connection is replaced", "file", w.path, "error", err)
	if err := w.conn.Close(); err != nil {
		w.log.Error("the database's connection can't be closed", "file", w.path, "error", err)
	}
	w.conn = nil
}

// oneByOne runs each operation of a failed group in its own transaction, so that one bad operation
// doesn't fail the others. If another program has locked the file, it fails all of them, because
// each one would wait for the lock again.
func (w *writer) oneByOne(group []*operation, err error) {
	if len(group) == 1 || sqlite.ErrCode(err).ToPrimary() == sqlite.ResultBusy {
		for _, op := range group {
			op.err = err
		}
		return
	}
	for _, op := range group {
		if err := w.commit([]*operation{op}); err != nil {
			op.err = err
		}
	}
}
