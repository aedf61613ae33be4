package sqlite

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"github.com/sheafapi/sheaf/batch"
	"github.com/sheafapi/sheaf/storage"
	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"
)

// The bounds of one transaction: operations, and bytes of results.
const (
	groupLimit = 256
	groupBytes = 4 << 20
)

// writer runs operations on the one connection that writes. It takes all that are
// queued and commits them together.
type writer struct {
	conn    *sqlite.Conn
	journal *journal
	path    string
	log     *slog.Logger
	queue   chan *operation
	known   map[storage.BatchID]claimed // of batches that run; whatever is no Record forgets it
	commits int
	ended   chan struct{}
	err     error // of closing the connection; set before ended is closed
}

// claimed is what Record has to know of a batch.
type claimed struct {
	epoch   int64 // the newest of its queue
	state   batch.Status
	signals storage.Signals
}

// operation is one call that waits for its commit.
type operation struct {
	run     func(c *sqlite.Conn) error
	records bool        // it is a Record
	bytes   int         // of its results
	taken   atomic.Bool // by the writer, or by a caller who gave up
	err     error       // set before done is closed
	done    chan struct{}
}

func startWriter(c *sqlite.Conn, j *journal, path string, log *slog.Logger) *writer {
	w := &writer{conn: c, journal: j, path: path, log: log, queue: make(chan *operation, groupLimit), known: map[storage.BatchID]claimed{}, ended: make(chan struct{})}
	go w.loop()
	return w
}

// close ends the writer after the operations that are queued.
func (w *writer) close() error {
	close(w.queue)
	<-w.ended
	return w.err
}

// do runs an operation and returns after its commit. When the context ends before its
// turn has come, it does not run at all.
func (w *writer) do(ctx context.Context, op *operation) error {
	if ctx.Err() != nil {
		return ctx.Err() // the select below would choose between the two at random
	}
	op.done = make(chan struct{})
	select {
	case w.queue <- op:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-op.done:
	case <-ctx.Done():
		if op.taken.CompareAndSwap(false, true) {
			return ctx.Err()
		}
		<-op.done
	}
	return op.err
}

func (w *writer) loop() {
	defer close(w.ended)
	group := make([]*operation, 0, groupLimit)
	for op := range w.queue {
		group = w.collect(group[:0], op)
		if err := w.commit(group); err != nil {
			w.oneByOne(group, err)
		}
		for _, op := range group {
			close(op.done)
		}
		clear(group)
		w.shortenLog()
	}
	w.err = errors.Join(w.commit([]*operation{{run: w.journal.empty}}), w.conn.Close())
}

// shortenLog starts the log again from its beginning when it has grown long because
// some reader was inside it at every commit. It waits for the reads under way, which
// are short; one that is not, such as a backup's, only for a moment, because every
// commit waits behind it. It is looked at now and then.
func (w *writer) shortenLog() {
	if w.commits++; w.commits%256 != 0 {
		return
	}
	info, err := os.Stat(w.path + "-wal")
	if err != nil || info.Size() <= logLimit {
		return
	}
	w.conn.SetBusyTimeout(100 * time.Millisecond)
	defer w.conn.SetBusyTimeout(busyTimeout)
	if err := sqlitex.ExecuteTransient(w.conn, "PRAGMA wal_checkpoint(RESTART)", nil); err != nil {
		w.log.Warn("the database's log stays long", "bytes", info.Size(), "error", err)
	}
}

// collect takes what is queued behind the first operation, and leaves out what its
// caller no longer waits for.
func (w *writer) collect(group []*operation, op *operation) []*operation {
	for bytes := 0; ; {
		if op.taken.CompareAndSwap(false, true) {
			group = append(group, op)
			bytes += op.bytes
		}
		if len(group) == groupLimit || bytes > groupBytes {
			return group
		}
		select {
		case next, ok := <-w.queue:
			if !ok {
				return group
			}
			op = next
		default:
			return group
		}
	}
}

// commit runs the operations in one transaction. An error of package storage is one
// operation's own; any other means that nothing was stored.
func (w *writer) commit(group []*operation) (err error) {
	if len(group) == 0 {
		return nil
	}
	w.journal.begin()
	if err := query(w.conn, "begin", nil); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			clear(w.known)
		}
		// Some errors have ended the transaction already.
		if err != nil && !w.conn.AutocommitEnabled() {
			if e := query(w.conn, "rollback", nil); e != nil {
				w.log.Error("the database can't roll back", "error", e)
			}
		}
	}()
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

// oneByOne gives each operation of a failed group a transaction of its own, so that
// what was wrong with one does not hurt the others. Where somebody else holds a lock on
// the file, none has run, and the next would wait as long again.
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
