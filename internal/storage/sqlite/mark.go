package sqlite

import (
	"encoding/binary"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
	"zombiezen.com/go/sqlite"
)

// A packed mark is its state (one byte), followed by numbers as varints: index, attempts, retries,
// throttles, the time of the first throttle, maybe done (see maybeDone), the times of start and
// end, not before, the result's status, code and kind, and the length of its line. The line comes
// next, and the rest is the body. Times are in milliseconds. If the first byte has the bit
// withHeaders, the length of the packed headers and the headers themselves come before the body.
const (
	packedNumbers = 13
	withHeaders   = 0x40
	wasSkipped    = 0x20 // the result is NOT_EXECUTED
	hasNoAnswer   = 0x10 // the stored answer stays
	stateBits     = 0x0f
)

// The bits of the number "maybe done".
const (
	maybeDone = 1 << iota
	inDoubt
)

// doubts returns the uncertainties about a request's attempts as one number.
func doubts(t *storage.Tries) (n int64) {
	if t.MaybeDone {
		n |= maybeDone
	}
	if t.InDoubt {
		n |= inDoubt
	}
	return n
}

// packMark appends a mark in its packed form.
func packMark(buf []byte, m *storage.Mark) []byte {
	t, r := &m.Tries, &m.Result
	headers := storage.PackHeaders(r.Headers)
	state := byte(m.State)
	if headers != nil {
		state |= withHeaders
	}
	if r.Status == batch.NotExecuted {
		state |= wasSkipped
	}
	if r.Status == 0 {
		state |= hasNoAnswer
	}
	buf = append(buf, state)
	for _, n := range [packedNumbers]int64{
		int64(m.Index), int64(t.Attempts), int64(t.Retries), int64(t.Throttles), storage.Millis(t.ThrottledSince), doubts(t),
		storage.Millis(t.StartedAt), storage.Millis(t.EndedAt), storage.Millis(m.NotBefore),
		int64(r.Status), int64(r.Code), int64(r.Kind), int64(len(r.Line)),
	} {
		buf = binary.AppendVarint(buf, n)
	}
	buf = append(buf, r.Line...)
	if headers != nil {
		buf = append(binary.AppendUvarint(buf, uint64(len(headers))), headers...)
	}
	return append(buf, r.Body...)
}

// unpackMark is the inverse of packMark. The body is a slice of data.
func unpackMark(data []byte) (m storage.Mark, err error) {
	if len(data) == 0 {
		return m, errDamagedJournal
	}
	headers := data[0]&withHeaders != 0
	m.State = storage.MarkState(data[0] & stateBits)
	n, data, err := unpackNumbers(data[1:])
	if err != nil {
		return m, err
	}
	line := n[12]
	if n[0] < 0 || n[0] >= batch.MaxRequests || line < 0 || line > int64(len(data)) {
		return m, errDamagedJournal
	}
	m.Index = int(n[0])
	m.Tries = storage.Tries{
		Attempts: int(n[1]), Retries: int(n[2]), Throttles: int(n[3]), ThrottledSince: storage.FromMillis(n[4]),
		MaybeDone: n[5]&maybeDone != 0, InDoubt: n[5]&inDoubt != 0, StartedAt: storage.FromMillis(n[6]), EndedAt: storage.FromMillis(n[7]),
	}
	m.NotBefore = storage.FromMillis(n[8])
	m.Result = batch.Result{Status: batch.ResultStatus(n[9]), Code: int(n[10]), Kind: batch.BodyKind(n[11]), Line: string(data[:line])}
	body := data[line:]
	if headers {
		n, width := binary.Uvarint(body)
		if width <= 0 || n > uint64(len(body)-width) {
			return m, errDamagedJournal
		}
		end := width + int(n)
		if m.Result.Headers, err = storage.UnpackHeaders(body[width:end]); err != nil {
			return m, err
		}
		body = body[end:]
	}
	if len(body) > 0 {
		m.Result.Body = body[:len(body):len(body)]
	}
	return m, nil
}

// unpackNumbers reads the numbers of a packed mark and returns the rest.
func unpackNumbers(data []byte) (n [packedNumbers]int64, rest []byte, err error) {
	for i := range n {
		var width int
		if n[i], width = binary.Varint(data); width <= 0 {
			return n, nil, errDamagedJournal
		}
		data = data[width:]
	}
	return n, data, nil
}

// readMark reads a row of the statement "marks_alone".
func readMark(s *sqlite.Stmt) storage.Mark {
	return storage.Mark{
		Index: s.ColumnInt(0),
		State: storage.MarkState(s.ColumnInt(1)),
		Tries: storage.Tries{
			Attempts:       s.ColumnInt(2),
			Retries:        s.ColumnInt(3),
			Throttles:      s.ColumnInt(4),
			ThrottledSince: storage.FromMillis(s.ColumnInt64(5)),
			MaybeDone:      s.ColumnInt64(6)&maybeDone != 0,
			InDoubt:        s.ColumnInt64(6)&inDoubt != 0,
			StartedAt:      storage.FromMillis(s.ColumnInt64(7)),
			EndedAt:        storage.FromMillis(s.ColumnInt64(8)),
		},
		NotBefore: storage.FromMillis(s.ColumnInt64(9)),
		Result: batch.Result{
			Status: batch.ResultStatus(s.ColumnInt(10)),
			Code:   s.ColumnInt(11),
			Kind:   batch.BodyKind(s.ColumnInt(12)),
			Line:   s.ColumnText(13),
		},
	}
}

// putMark stores a mark in its place, unless there is one that is Done. It doesn't use query, whose
// arguments are boxed, because this is the service's most frequent statement by far.
func putMark(s *sqlite.Stmt, id storage.BatchID, m *storage.Mark) error {
	t, r := &m.Tries, &m.Result
	for i, n := range [...]int64{
		int64(id)*512 + int64(m.Index), int64(m.State), int64(t.Attempts), int64(t.Retries), int64(t.Throttles),
		storage.Millis(t.ThrottledSince), doubts(t), storage.Millis(t.StartedAt), storage.Millis(t.EndedAt), storage.Millis(m.NotBefore),
		int64(r.Status), int64(r.Code), int64(r.Kind),
	} {
		s.BindInt64(i+1, n)
	}
	s.BindText(14, r.Line)
	if len(r.Body) == 0 {
		s.BindNull(15)
	} else {
		s.BindBytes(15, r.Body)
	}
	if headers := storage.PackHeaders(r.Headers); headers == nil {
		s.BindNull(16)
	} else {
		s.BindBytes(16, headers)
	}
	_, err := s.Step()
	if again := s.Reset(); err == nil {
		err = again
	}
	return err
}
