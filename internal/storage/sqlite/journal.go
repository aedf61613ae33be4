package sqlite

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
	"zombiezen.com/go/sqlite"
)

// journal makes results durable cheaply. The place of a mark is its row in the table marks, next to
// the other marks of its batch. The marks of fifty running batches are on fifty pages, and a commit
// would have to write all of these. So a group of calls is recorded as one row of the table
// journal. The marks of a batch are moved to their places together when the batch ends or is given
// up, and when the journal grows long.
//
// Until then, they are also here in memory, where reads look for them. Reads see only committed
// marks. A read first copies the marks here and then begins its transaction on the database, where
// it finds the marks that were moved in between. If both have a mark, the one that is Done counts;
// otherwise the one here, which is newer or the same.
//
// When the file is opened, the rows that an earlier process left in the table are moved to their
// places. The rows show which marks still count: an entry without marks means that all earlier
// marks of its batch are in their places.
//
// A row is a sequence of entries: the batch's id and the number of marks (uvarint), then
// each mark after its length (4 bytes, little endian).
//
// Only the writer calls the methods, except of.
type journal struct {
	bounds
	mu      sync.RWMutex // guards batches and its contents; only the writer changes them
	batches map[storage.BatchID]*fresh

	rows    []journalRow // the rows of the table, oldest first
	bytes   int          // of these rows
	flushes int

	// The current transaction:
	buf     []byte // its row
	steps   []step // its entries, in order
	written int64  // the row's id; 0: not written
	cut     int64  // rows before this id were deleted; 0: none
	usual   int    // length of the last row
}

type journalRow struct {
	id    int64
	bytes int
}

// fresh is the marks of one batch in the journal.
type fresh struct {
	marks []freshMark // by index
	first int64       // the oldest row with one of them
}

// freshMark is the newest mark of one request, packed.
type freshMark struct {
	index int
	mark  []byte
}

func (m *freshMark) state() storage.MarkState {
	return storage.MarkState(m.mark[0] & stateBits)
}

// step is one entry of the current transaction.
type step struct {
	id         storage.BatchID
	index      int
	start, end int // of the mark in buf; 0: all earlier marks of the batch are in their places
}

// bounds are the journal's limits.
type bounds struct {
	// table is how many bytes the table may hold before marks of running batches are moved. It also
	// limits what is in memory.
	table int
	// call is the size in bytes above which the results of one call go to their places at once,
	// because writing them twice would cost more than it saves.
	call int
	// trimAfter is after how many new rows those that no longer count are deleted.
	trimAfter int
}

var usualBounds = bounds{table: 4 << 20, call: 64 << 10, trimAfter: 64}

func newJournal() *journal {
	return &journal{bounds: usualBounds, batches: map[storage.BatchID]*fresh{}}
}

// of returns a copy of the journal's marks of a batch, by index. It is safe for concurrent use.
// Call it before you begin the read transaction that uses the marks.
func (j *journal) of(id storage.BatchID) []freshMark {
	j.mu.RLock()
	defer j.mu.RUnlock()
	if f := j.batches[id]; f != nil {
		return slices.Clone(f.marks)
	}
	return nil
}

// begin begins a transaction, whatever the outcome of the last one.
func (j *journal) begin() {
	j.buf, j.steps, j.written, j.cut = nil, j.steps[:0], 0, 0
}

// record adds the marks of one call to the transaction.
func (j *journal) record(c *sqlite.Conn, id storage.BatchID, marks []storage.Mark) error {
	size, inPlace := 0, false
	for i := range marks {
		size += len(marks[i].Result.Body) + len(marks[i].Result.Line)
		// This mark takes over a result that may be in the table marks, where readers of the
		// journal's marks don't look for it.
		inPlace = inPlace || marks[i].State == storage.Done && marks[i].Result.Status == 0
	}
	if inPlace || size > j.call {
		return j.settle(c, id, marks)
	}
	j.entry(id, len(marks))
	for i := range marks {
		j.buf = append(j.buf, 0, 0, 0, 0)
		start := len(j.buf)
		j.buf = packMark(j.buf, &marks[i])
		binary.LittleEndian.PutUint32(j.buf[start-4:], uint32(len(j.buf)-start))
		j.steps = append(j.steps, step{id, marks[i].Index, start, len(j.buf)})
	}
	return nil
}

func (j *journal) entry(id storage.BatchID, marks int) {
	if j.buf == nil {
		j.buf = make([]byte, 0, j.usual+j.usual/4+512)
	}
	j.buf = binary.AppendUvarint(j.buf, uint64(id))
	j.buf = binary.AppendUvarint(j.buf, uint64(marks))
}

// settle moves the journal's marks of a batch to their places, together with newer marks.
func (j *journal) settle(c *sqlite.Conn, id storage.BatchID, marks []storage.Mark) error {
	held := j.held(id)
	if len(held) == 0 && len(marks) == 0 {
		return nil
	}
	s, err := c.Prepare(queries["put_mark"])
	if err != nil {
		return fmt.Errorf("statement put_mark: %w", err)
	}
	for i := range held {
		m, err := unpackMark(held[i].mark)
		if err != nil {
			return err
		}
		if err := putMark(s, id, &m); err != nil {
			return fmt.Errorf("statement put_mark: %w", err)
		}
	}
	for i := range marks {
		if err := putMark(s, id, &marks[i]); err != nil {
			return fmt.Errorf("statement put_mark: %w", err)
		}
	}
	if len(held) > 0 {
		j.entry(id, 0)
		j.steps = append(j.steps, step{id: id})
	}
	return nil
}

// held returns the journal's marks of a batch, including those of the current transaction.
func (j *journal) held(id storage.BatchID) []freshMark {
	f := j.batches[id] // only the writer changes batches, so it needs no lock to read it
	if !slices.ContainsFunc(j.steps, func(s step) bool { return s.id == id }) {
		if f == nil {
			return nil
		}
		return f.marks
	}
	var out fresh
	if f != nil {
		out.marks = slices.Clone(f.marks)
	}
	for _, s := range j.steps {
		switch {
		case s.id != id:
		case s.end == 0:
			out.marks = nil
		default:
			out.put(s.index, j.buf[s.start:s.end])
		}
	}
	return out.marks
}

// put adds a mark, unless the batch already has one for this request that is Done.
func (f *fresh) put(index int, mark []byte) {
	at, found := len(f.marks), false
	if at > 0 && f.marks[at-1].index >= index {
		at, found = slices.BinarySearchFunc(f.marks, index, func(m freshMark, index int) int { return cmp.Compare(m.index, index) })
	}
	switch {
	case !found:
		f.marks = slices.Insert(f.marks, at, freshMark{index, mark})
	case f.marks[at].state() == storage.Done:
	case mark[0]&hasNoAnswer != 0:
		f.marks[at].mark = packedOver(f.marks[at].mark, mark)
	default:
		f.marks[at].mark = mark
	}
}

// packedOver is storage.Over for packed marks. A damaged mark replaces the earlier one; its readers
// report the damage.
func packedOver(earlier, mark []byte) []byte {
	if earlier[0]&hasNoAnswer != 0 {
		return mark
	}
	before, err := unpackMark(earlier)
	if err != nil {
		return mark
	}
	m, err := unpackMark(mark)
	if err != nil {
		return mark
	}
	m = storage.Over(before, m)
	return packMark(nil, &m)
}

// flush writes the transaction's row and deletes rows that no longer count. It is the last call
// before the commit.
func (j *journal) flush(c *sqlite.Conn) error {
	if len(j.buf) == 0 {
		return nil
	}
	if err := j.trim(c); err != nil {
		return err
	}
	if err := query(c, "insert_journal", nil, j.buf); err != nil {
		return err
	}
	j.written = c.LastInsertRowID()
	return nil
}

// trim limits the length of the table.
func (j *journal) trim(c *sqlite.Conn) error {
	long := j.bytes > j.table
	if j.flushes++; j.flushes%j.trimAfter != 0 && !long {
		return nil
	}
	oldest := int64(math.MaxInt64)
	var behind int64 // rows up to this id must go, whatever they hold
	if long {
		rest := j.bytes
		for _, row := range j.rows {
			if rest -= row.bytes; rest <= j.table/2 {
				behind = row.id
				break
			}
		}
	}
	for id, f := range j.batches {
		if f.first <= behind {
			if err := j.settle(c, id, nil); err != nil {
				return err
			}
			continue
		}
		oldest = min(oldest, f.first)
	}
	if len(j.rows) == 0 || j.rows[0].id >= oldest {
		return nil
	}
	j.cut = min(oldest, j.rows[len(j.rows)-1].id+1)
	return query(c, "cut_journal", nil, j.cut)
}

// commit makes the transaction visible to reads. It must be on disk.
func (j *journal) commit() {
	if j.cut != 0 {
		n := 0
		for n < len(j.rows) && j.rows[n].id < j.cut {
			j.bytes -= j.rows[n].bytes
			n++
		}
		j.rows = slices.Delete(j.rows, 0, n)
	}
	if j.written == 0 {
		return
	}
	j.usual = len(j.buf)
	j.rows = append(j.rows, journalRow{j.written, len(j.buf)})
	j.bytes += len(j.buf)
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, s := range j.steps {
		if s.end == 0 {
			delete(j.batches, s.id)
			continue
		}
		f := j.batches[s.id]
		if f == nil {
			f = &fresh{first: j.written}
			j.batches[s.id] = f
		}
		f.put(s.index, j.buf[s.start:s.end:s.end])
	}
}

// empty moves all marks to their places and empties the table.
func (j *journal) empty(c *sqlite.Conn) error {
	if err := j.settleAll(c); err != nil {
		return err
	}
	j.buf = nil // its entries concern only rows that are deleted
	return query(c, "cut_journal", nil, int64(math.MaxInt64))
}

// settleAll moves all marks to their places.
func (j *journal) settleAll(c *sqlite.Conn) error {
	for _, id := range slices.Sorted(maps.Keys(j.batches)) {
		if err := j.settle(c, id, nil); err != nil {
			return err
		}
	}
	return nil
}

var errDamagedJournal = errors.New("the results that were recorded last, in the table journal, are damaged: restore the file from a backup")

// replay moves the marks that an earlier process left in the table to their places, in one
// transaction.
func replay(c *sqlite.Conn) (err error) {
	left := map[storage.BatchID]*fresh{}
	err = query(c, "read_journal", func(s *sqlite.Stmt) error { return takeUp(left, blob(s, 0)) })
	if err != nil {
		return err
	}
	if err := query(c, "begin", nil); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, query(c, "rollback", nil))
		}
	}()
	j := &journal{batches: left}
	if err := j.empty(c); err != nil {
		return err
	}
	return query(c, "commit", nil)
}

// takeUp adds the entries of one row to batches.
func takeUp(batches map[storage.BatchID]*fresh, row []byte) error {
	for len(row) > 0 {
		id, idWidth := binary.Uvarint(row)
		if idWidth <= 0 {
			return errDamagedJournal
		}
		marks, width := binary.Uvarint(row[idWidth:])
		if width <= 0 {
			return errDamagedJournal
		}
		row = row[idWidth+width:]
		if marks == 0 {
			delete(batches, storage.BatchID(id))
			continue
		}
		f := batches[storage.BatchID(id)]
		if f == nil {
			f = &fresh{}
			batches[storage.BatchID(id)] = f
		}
		for range marks {
			if len(row) < 4 {
				return errDamagedJournal
			}
			length := int64(binary.LittleEndian.Uint32(row))
			if row = row[4:]; length > int64(len(row)) {
				return errDamagedJournal
			}
			m, err := unpackMark(row[:length])
			if err != nil {
				return err
			}
			f.put(m.Index, row[:length:length])
			row = row[length:]
		}
	}
	return nil
}

// ends is the ended requests of a batch: all, and those with each outcome.
type ends struct{ all, skipped, failed, inDoubt batch.Set }

// ended returns the ends among the journal's marks.
func ended(held []freshMark) (e ends, err error) {
	for i := range held {
		if held[i].state() != storage.Done {
			continue
		}
		n, _, err := unpackNumbers(held[i].mark[1:])
		if err != nil {
			return e, err
		}
		status, doubtful := batch.ResultStatus(n[9]), false
		if status == batch.Failed {
			m, err := unpackMark(held[i].mark)
			if err != nil {
				return e, err
			}
			doubtful = m.InDoubt()
		}
		e.add(held[i].index, status, doubtful)
	}
	return e, nil
}

func (e *ends) add(i int, status batch.ResultStatus, inDoubt bool) {
	e.all.Add(i)
	switch status {
	case batch.NotExecuted:
		e.skipped.Add(i)
	case batch.Failed:
		e.failed.Add(i)
	case batch.Succeeded:
	}
	if inDoubt {
		e.inDoubt.Add(i)
	}
}

// endsOf returns the ends of a batch's requests, from the table and from the journal's marks.
func endsOf(c *sqlite.Conn, id storage.BatchID, held []freshMark) (ends, error) {
	e, err := ended(held)
	if err == nil {
		err = e.read(c, id)
	}
	return e, err
}

// read adds the ends from the table.
func (e *ends) read(c *sqlite.Conn, id storage.BatchID) error {
	return query(c, "done", func(s *sqlite.Stmt) error {
		e.add(s.ColumnInt(0), batch.ResultStatus(s.ColumnInt(1)), s.ColumnBool(2))
		return nil
	}, int64(id))
}

// completed returns how many requests were executed.
func (e *ends) completed() int { return e.all.Len() - e.skipped.Len() }
