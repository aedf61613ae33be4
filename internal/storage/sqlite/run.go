package sqlite

import (
	"context"
	"errors"
	"io"
	"slices"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
	"zombiezen.com/go/sqlite"
)

// Runnable implements storage.Storage.
func (db *DB) Runnable(ctx context.Context, after storage.QueueID, limit int) ([]storage.Runnable, error) {
	var out []storage.Runnable
	err := db.read(ctx, "look for waiting queues", func(c *sqlite.Conn) error {
		return query(c, "runnable", func(s *sqlite.Stmt) error {
			out = append(out, storage.Runnable{
				Queue:     storage.QueueID(s.ColumnInt64(0)),
				NotBefore: storage.FromMillis(s.ColumnInt64(1)),
				Waits:     storage.WaitReason(s.ColumnInt(2)),
			})
			return nil
		}, int64(after), db.process, limit)
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// Claim implements storage.Storage. This process may claim any queue, because every earlier process
// is dead.
func (db *DB) Claim(ctx context.Context, q storage.QueueID) (*storage.Claim, error) {
	var id, epoch int64
	err := db.write(ctx, "claim a queue", func(c *sqlite.Conn) (err error) {
		if id, err = queryInt(c, "next_open", int64(q)); err != nil {
			return err
		}
		if id == 0 {
			return storage.ErrNothing
		}
		owner, newest, err := ownerOf(c, q)
		if err != nil {
			return err
		}
		epoch = newest + 1
		return db.begin(c, q, id, epoch, owner != db.process)
	})
	if err != nil {
		return nil, err
	}
	return db.claimed(ctx, id, epoch)
}

// begin starts a batch of the queue in this process. With taken, the process takes over the queue:
// a claim that was not ended before then counts as ended by a death.
func (db *DB) begin(c *sqlite.Conn, q storage.QueueID, id, epoch int64, taken bool) error {
	if err := query(c, "own_queue", nil, int64(q), db.process, epoch); err != nil {
		return err
	}
	return query(c, "start_batch", nil, id, db.clock.Now().UnixMilli(), taken)
}

// ownerOf returns the process that runs a queue, and the epoch of the queue's newest claim.
func ownerOf(c *sqlite.Conn, q storage.QueueID) (owner, epoch int64, err error) {
	err = query(c, "queue", func(s *sqlite.Stmt) error {
		owner, epoch = s.ColumnInt64(0), s.ColumnInt64(1)
		return nil
	}, int64(q))
	return owner, epoch, err
}

// claimed reads the claim of a batch. Like Load, it doesn't need the writer, because nothing of the
// batch changes until it is ended under this epoch or claimed under a newer one.
func (db *DB) claimed(ctx context.Context, id, epoch int64) (out *storage.Claim, err error) {
	marked := len(db.journal.of(storage.BatchID(id))) > 0
	err = db.read(ctx, "read a claim", func(c *sqlite.Conn) (err error) {
		out, err = readClaim(c, id, epoch, marked)
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// Load implements storage.Storage.
func (db *DB) Load(ctx context.Context, cl *storage.Claim) error {
	const what = "read a claimed batch"
	var packed []byte
	var marks []storage.Mark
	held := db.journal.of(cl.ID)
	err := db.read(ctx, what, func(c *sqlite.Conn) (err error) {
		there := false
		packed, marks = nil, nil
		err = query(c, "packed", func(s *sqlite.Stmt) error {
			there, packed = true, blob(s, 0)
			return nil
		}, int64(cl.ID))
		if err == nil && !there {
			err = storage.ErrNotOwner // the batch has ended and was purged
		}
		if err != nil {
			return err
		}
		err = query(c, "marks_alone", func(s *sqlite.Stmt) error {
			marks = append(marks, readMark(s))
			return nil
		}, int64(cl.ID))
		if err == nil {
			marks, err = newest(marks, held)
		}
		return err
	})
	if err != nil {
		return err
	}
	if err = cl.Fill(packed, marks); err != nil {
		return db.failure(ctx, what, err)
	}
	return nil
}

// readClaim reads a claim. With marked, the journal holds marks of the batch.
func readClaim(c *sqlite.Conn, id, epoch int64, marked bool) (out *storage.Claim, err error) {
	var size int64
	err = query(c, "claimed", func(s *sqlite.Stmt) error {
		out = &storage.Claim{
			Queue:      storage.QueueID(s.ColumnInt64(0)),
			Epoch:      epoch,
			ID:         storage.BatchID(id),
			Store:      s.ColumnText(2),
			GroupID:    s.ColumnText(4),
			Options:    batch.Options{Parallel: s.ColumnBool(5), StopOnFailure: s.ColumnBool(6)},
			Signals:    storage.Signals{Stopped: s.ColumnBool(7), Deleted: s.ColumnBool(8), Paused: s.ColumnBool(12)},
			CreatedAt:  storage.FromMillis(s.ColumnInt64(9)),
			StartedAt:  storage.FromMillis(s.ColumnInt64(13)),
			Trace:      s.ColumnText(14),
			Credential: blob(s, 10),
			Total:      s.ColumnInt(15),
			Marked:     s.ColumnBool(16) || marked,
			Attempts:   s.ColumnInt(17),
			Waits:      storage.WaitReason(s.ColumnInt(18)),

			PackedOptions: s.ColumnText(19),
		}
		s.ColumnBytes(1, out.Ticket[:])
		s.ColumnBytes(3, out.Owner[:])
		size = s.ColumnInt64(11)
		return nil
	}, id)
	if err != nil {
		return nil, err
	}
	if out == nil {
		return nil, storage.ErrNotOwner // the batch has ended and was purged
	}
	if size == 0 {
		return out, nil // Load reports that the requests are missing
	}
	head, err := packedHead(c, id)
	if isDamage(err) {
		return out, nil // Load reports the damage
	}
	if err != nil {
		return nil, err
	}
	out.Bytes = storage.UnpackedSize(head, size)
	return out, nil
}

// packedHead reads the beginning of a batch's requests, which shows how much memory they need.
func packedHead(c *sqlite.Conn, id int64) (head []byte, err error) {
	b, err := c.OpenBlob("main", "requests", "packed", id, false)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	head = make([]byte, min(b.Size(), storage.UnpackedHead))
	_, err = io.ReadFull(b, head)
	return head, err
}

// newest merges the marks of a batch in the database and in the journal, both by index, in the form
// that storage.Mark.Unread returns.
func newest(stored []storage.Mark, held []freshMark) ([]storage.Mark, error) {
	var out []storage.Mark
	for i := range held {
		m, err := unpackMark(held[i].mark)
		if err != nil {
			return nil, err
		}
		for len(stored) > 0 && stored[0].Index < m.Index {
			out, stored = append(out, stored[0]), stored[1:]
		}
		if len(stored) > 0 && stored[0].Index == m.Index {
			if m = storage.Over(stored[0], m); stored[0].State == storage.Done {
				m = stored[0]
			}
			stored = stored[1:]
		}
		out = append(out, m)
	}
	out = append(out, stored...)
	for i := range out {
		out[i] = out[i].Unread()
	}
	return out, nil
}

// Record implements storage.Storage.
func (db *DB) Record(ctx context.Context, cl *storage.Claim, marks []storage.Mark) (out storage.Signals, err error) {
	if len(marks) == 0 {
		err = db.read(ctx, "ask for a creator's wishes", func(c *sqlite.Conn) error {
			_, out, err = running(c, cl)
			return err
		})
	}
	for err == nil && len(marks) > 0 {
		n := storage.Portion(marks, portionBytes)
		err = db.operate(ctx, "record results", &operation{records: true, bytes: storage.Size(marks[:n]), by: storage.Caller{Store: cl.Store}, run: func(c *sqlite.Conn) (err error) {
			out, err = db.record(c, cl, marks[:n])
			return err
		}})
		marks = marks[n:]
	}
	if err != nil {
		return storage.Signals{}, err
	}
	return out, nil
}

// portionBytes limits the marks of one operation of the writer, in bytes, if it has more than one
// answer. Others then needn't wait for all of a large call.
const portionBytes = 2 << 20

// recordMost records marks first if they are too many for the operation that ends a batch or gives
// it up. It returns the marks that this operation must record.
func (db *DB) recordMost(ctx context.Context, cl *storage.Claim, marks []storage.Mark) ([]storage.Mark, error) {
	if storage.Size(marks) <= portionBytes {
		return marks, nil
	}
	_, err := db.Record(ctx, cl, marks)
	return nil, err
}

// record adds marks to the journal, on the writer's connection.
func (db *DB) record(c *sqlite.Conn, cl *storage.Claim, marks []storage.Mark) (storage.Signals, error) {
	now, known := db.writer.known[cl.ID]
	if !known {
		var err error
		if now, err = claimedNow(c, cl.ID); err != nil {
			return storage.Signals{}, err
		}
		db.writer.known[cl.ID] = now
	}
	if now.epoch != cl.Epoch {
		return storage.Signals{}, storage.ErrNotOwner
	}
	if now.state == batch.Completed {
		return now.signals, nil
	}
	if now.state == batch.Queued {
		delete(db.writer.known, cl.ID) // the state changes
	}
	if err := progress(c, cl.ID, now.state, marks); err != nil {
		return storage.Signals{}, err
	}
	return now.signals, db.journal.record(c, cl.ID, marks)
}

// claimedNow reads the current state of a batch; the zero value if it is gone.
func claimedNow(c *sqlite.Conn, id storage.BatchID) (now batchState, err error) {
	err = query(c, "running", func(s *sqlite.Stmt) error {
		now = batchState{s.ColumnInt64(0), batch.Status(s.ColumnInt(1)), storage.Signals{Stopped: s.ColumnBool(2), Deleted: s.ColumnBool(3), Paused: s.ColumnBool(4)}}
		return nil
	}, int64(id))
	return now, err
}

// running reads the state of a claimed batch, if the claim is the queue's newest.
func running(c *sqlite.Conn, cl *storage.Claim) (batch.Status, storage.Signals, error) {
	now, err := claimedNow(c, cl.ID)
	if err == nil && (now.state == 0 || now.epoch != cl.Epoch) {
		err = storage.ErrNotOwner
	}
	if err != nil {
		return 0, storage.Signals{}, err
	}
	return now.state, now.signals, nil
}

// progress marks a batch as in progress once it has a result.
func progress(c *sqlite.Conn, id storage.BatchID, state batch.Status, marks []storage.Mark) error {
	if state != batch.Queued || !slices.ContainsFunc(marks, func(m storage.Mark) bool { return m.State == storage.Done && m.Result.Status != batch.NotExecuted }) {
		return nil
	}
	return query(c, "progress", nil, int64(id))
}

// Finish implements storage.Storage.
func (db *DB) Finish(ctx context.Context, cl *storage.Claim, marks []storage.Mark, reason string, release bool) (*storage.Claim, error) {
	marks, err := db.recordMost(ctx, cl, marks)
	if err != nil {
		return nil, err
	}
	var next int64
	err = db.operate(ctx, "end a batch", &operation{bytes: storage.Size(marks), by: storage.Caller{Store: cl.Store}, run: func(c *sqlite.Conn) error {
		next = 0
		state, err := owned(c, cl)
		if err != nil {
			return err
		}
		if state != 0 && state != batch.Completed {
			if err := db.journal.settle(c, cl.ID, marks); err != nil {
				return err
			}
			if err := db.end(c, cl.ID, cl.Queue, reason); err != nil {
				return err
			}
		}
		if !release {
			if next, err = queryInt(c, "next_open", int64(cl.Queue)); err != nil {
				return err
			}
		}
		if next == 0 {
			return db.leave(c, cl, time.Time{}, storage.NoWait)
		}
		return db.begin(c, cl.Queue, next, cl.Epoch, false)
	}})
	if err != nil || next == 0 {
		return nil, err
	}
	return db.claimed(ctx, next, cl.Epoch)
}

// owned checks that a claim is its queue's newest. The state is 0 if the batch has ended and was
// purged.
func owned(c *sqlite.Conn, cl *storage.Claim) (batch.Status, error) {
	_, epoch, err := ownerOf(c, cl.Queue)
	if err != nil {
		return 0, err
	}
	if epoch != cl.Epoch {
		return 0, storage.ErrNotOwner
	}
	state, _, err := running(c, cl)
	return state, uncertain(err)
}

// Release implements storage.Storage.
func (db *DB) Release(ctx context.Context, cl *storage.Claim, marks []storage.Mark, notBefore time.Time) error {
	marks, err := db.recordMost(ctx, cl, marks)
	if err != nil {
		return err
	}
	return db.operate(ctx, "release a batch", &operation{bytes: storage.Size(marks), by: storage.Caller{Store: cl.Store}, run: func(c *sqlite.Conn) error {
		state, err := owned(c, cl)
		if err != nil {
			return err
		}
		if state != 0 && state != batch.Completed {
			if err := progress(c, cl.ID, state, marks); err != nil {
				return err
			}
			if err := db.journal.settle(c, cl.ID, marks); err != nil {
				return err
			}
			if err := query(c, "leave_batch", nil, int64(cl.ID)); err != nil {
				return err
			}
		}
		return db.leave(c, cl, notBefore, cl.Waits)
	}})
}

// leave gives up the queue of a claim.
func (db *DB) leave(c *sqlite.Conn, cl *storage.Claim, notBefore time.Time, waits storage.WaitReason) error {
	return query(c, "leave_queue", nil, int64(cl.Queue), storage.Millis(notBefore), int64(cl.ID), storage.Millis(storage.Forever), int(waits), db.clock.Now().UnixMilli(), cl.Credential)
}

// uncertain returns err, or nil if it is an error of package storage.
func uncertain(err error) error {
	if storage.Certain(err) {
		return nil
	}
	return err
}
