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

// journal makes results durable where it is cheap. A mark's place is a row of the table
// marks, beside the others of its batch; the marks of fifty batches that run at once lie
// on fifty pages, and a commit would have to write them all. So what a group of calls
// records is written as one row of the table journal. It is moved to its place, its batch's
// marks all at once, when the batch ends or is given up, and when the journal grows long.
//
// Until then it is also here, in memory, where reads look for it. What reads see is what
// was committed. A read takes what is here first and begins its transaction on the
// database afterwards: what was moved in between it finds there. Where both have a mark,
// one that is Done counts, else the one here, which is newer or the same.
//
// When the file is opened, what an earlier process left in the table is moved to its
// place. The rows say themselves what still counts: an entry without marks says that
// everything earlier of its batch is in its place.
//
// A row holds entries one after the other: the batch's id and the number of marks
// (uvarint), then each mark with its length before (4 bytes, little endian).
//
// The methods are the writer's alone, except of.
type journal struct {
	bounds
	mu      sync.RWMutex // guards batches and what it holds; only the writer changes them
	batches map[storage.BatchID]*fresh

	rows    []journalRow // of the table, oldest first
	bytes   int          // of these rows
	flushes int

	// Of the transaction under way:
	buf     []byte // the row
	steps   []step // in their order
	written int64  // the row's id; 0: none
	cut     int64  // rows before this id were deleted
	usual   int    // how long the last row was
}

type journalRow struct {
	id    int64
	bytes int
}

// fresh is what the journal holds of one batch.
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

// step is one entry of the transaction under way.
type step struct {
	id         storage.BatchID
	index      int
	start, end int // of the mark in buf; 0: everything earlier of the batch is in its place
}

// bounds are those of the journal.
type bounds struct {
	// table is how many bytes the table may hold before marks of batches that still run
	// are moved. It bounds what is in memory, too.
	table int
	// call is the size in bytes of the results of one call beyond which they are stored in
	// their places at once: writing them twice would cost more than it saves.
	call int
	// trimAfter is after how many rows those that don't count any more are deleted.
	trimAfter int
}

var usualBounds = bounds{table: 4 << 20, call: 64 << 10, trimAfter: 64}

func newJournal() *journal {
	return &journal{bounds: usualBounds, batches: map[storage.BatchID]*fresh{}}
}

// of returns what the journal holds of a batch, by index. It may be called from any
// goroutine, before the read transaction begins that it is used in.
func (j *journal) of(id storage.BatchID) []freshMark {
	j.mu.RLock()
	defer j.mu.RUnlock()
	if f := j.batches[id]; f != nil {
		return slices.Clone(f.marks)
	}
	return nil
}

// begin begins a transaction, whatever became of the one before.
func (j *journal) begin() {
	j.buf, j.steps, j.written, j.cut = nil, j.steps[:0], 0, 0
}

// record adds the marks of one call to the transaction.
func (j *journal) record(c *sqlite.Conn, id storage.BatchID, marks []storage.Mark) error {
	size, inPlace := 0, false
	for i := range marks {
		size += len(marks[i].Result.Body) + len(marks[i].Result.Line)
		// A result that is stored already is where the table marks has it: reads of what the
		// journal holds don't look there.
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

// settle moves what the journal holds of a batch to its place, and stores marks there
// that are newer.
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

// held returns what the journal holds of a batch, the transaction under way included.
func (j *journal) held(id storage.BatchID) []freshMark {
	f := j.batches[id] // the writer alone changes it, so it needs no lock to look
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

// put takes a mark up, unless the one before is Done.
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

// packedOver is storage.Over for packed marks. One that is damaged, which others report,
// replaces the earlier one.
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

// flush writes the transaction's row and deletes rows that don't count any more. It comes
// last before the commit.
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

// trim bounds the table.
func (j *journal) trim(c *sqlite.Conn) error {
	long := j.bytes > j.table
	if j.flushes++; j.flushes%j.trimAfter != 0 && !long {
		return nil
	}
	oldest := int64(math.MaxInt64)
	var behind int64 // rows before this id are to be got rid of, whatever they hold
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

// commit makes the transaction, which is on disk now, what reads see.
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

// empty moves everything to its place and empties the table.
func (j *journal) empty(c *sqlite.Conn) error {
	if err := j.settleAll(c); err != nil {
		return err
	}
	j.buf = nil // there is no row any more that it would be about
	return query(c, "cut_journal", nil, int64(math.MaxInt64))
}

// settleAll moves everything to its place.
func (j *journal) settleAll(c *sqlite.Conn) error {
	for _, id := range slices.Sorted(maps.Keys(j.batches)) {
		if err := j.settle(c, id, nil); err != nil {
			return err
		}
	}
	return nil
}

var errDamagedJournal = errors.New("the results that were recorded last, in the table journal, are damaged: restore the file from a backup")

// replay moves to its place what an earlier process has left in the table, in one
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

// takeUp reads the entries of one row.
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

// ends are the requests of a batch that have ended, by how they ended.
type ends struct{ all, skipped, failed, inDoubt batch.Set }

// ended returns the ends that the journal held.
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

// endsOf returns the ends of a batch's requests, in the table and in what the journal held.
func endsOf(c *sqlite.Conn, id storage.BatchID, held []freshMark) (ends, error) {
	e, err := ended(held)
	if err == nil {
		err = e.read(c, id)
	}
	return e, err
}

// read adds the ends that the table has.
func (e *ends) read(c *sqlite.Conn, id storage.BatchID) error {
	return query(c, "done", func(s *sqlite.Stmt) error {
		e.add(s.ColumnInt(0), batch.ResultStatus(s.ColumnInt(1)), s.ColumnBool(2))
		return nil
	}, int64(id))
}

// completed returns how many requests ran to an end.
func (e *ends) completed() int { return e.all.Len() - e.skipped.Len() }
