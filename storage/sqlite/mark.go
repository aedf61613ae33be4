package sqlite

import (
	"encoding/binary"

	"github.com/sheafapi/sheaf/batch"
	"github.com/sheafapi/sheaf/storage"
	"zombiezen.com/go/sqlite"
)

// A packed mark is its state (one byte), then numbers as varints: index, attempts,
// retries, throttles, the moment of the first throttle, maybe done (0 or 1), when it
// started and ended, not before, the result's status, code and kind, the length of its
// line; then the line, and what is left is the body. Moments are in milliseconds.
const packedNumbers = 13

// packMark appends a mark in its packed form.
func packMark(buf []byte, m *storage.Mark) []byte {
	t, r := &m.Tries, &m.Result
	maybe := int64(0)
	if t.MaybeDone {
		maybe = 1
	}
	buf = append(buf, byte(m.State))
	for _, n := range [packedNumbers]int64{
		int64(m.Index), int64(t.Attempts), int64(t.Retries), int64(t.Throttles), batch.Millis(t.ThrottledSince), maybe,
		batch.Millis(t.StartedAt), batch.Millis(t.EndedAt), batch.Millis(m.NotBefore),
		int64(r.Status), int64(r.Code), int64(r.Kind), int64(len(r.Line)),
	} {
		buf = binary.AppendVarint(buf, n)
	}
	return append(append(buf, r.Line...), r.Body...)
}

// unpackMark is the inverse of packMark. The body is a part of data.
func unpackMark(data []byte) (m storage.Mark, err error) {
	if len(data) == 0 {
		return m, errDamagedJournal
	}
	m.State = storage.MarkState(data[0])
	data = data[1:]
	var n [packedNumbers]int64
	for i := range n {
		var width int
		if n[i], width = binary.Varint(data); width <= 0 {
			return m, errDamagedJournal
		}
		data = data[width:]
	}
	line := n[12]
	if n[0] < 0 || n[0] >= batch.MaxRequests || line < 0 || line > int64(len(data)) {
		return m, errDamagedJournal
	}
	m.Index = int(n[0])
	m.Tries = storage.Tries{
		Attempts: int(n[1]), Retries: int(n[2]), Throttles: int(n[3]), ThrottledSince: batch.FromMillis(n[4]), MaybeDone: n[5] != 0,
		StartedAt: batch.FromMillis(n[6]), EndedAt: batch.FromMillis(n[7]),
	}
	m.NotBefore = batch.FromMillis(n[8])
	m.Result = batch.Result{Status: batch.ResultStatus(n[9]), Code: int(n[10]), Kind: batch.BodyKind(n[11]), Line: string(data[:line])}
	if body := data[line:]; len(body) > 0 {
		m.Result.Body = body[:len(body):len(body)]
	}
	return m, nil
}

// readMark reads a row of the statement "marks".
func readMark(s *sqlite.Stmt) storage.Mark {
	return storage.Mark{
		Index: s.ColumnInt(0),
		State: storage.MarkState(s.ColumnInt(1)),
		Tries: storage.Tries{
			Attempts:       s.ColumnInt(2),
			Retries:        s.ColumnInt(3),
			Throttles:      s.ColumnInt(4),
			ThrottledSince: batch.FromMillis(s.ColumnInt64(5)),
			MaybeDone:      s.ColumnBool(6),
			StartedAt:      batch.FromMillis(s.ColumnInt64(7)),
			EndedAt:        batch.FromMillis(s.ColumnInt64(8)),
		},
		NotBefore: batch.FromMillis(s.ColumnInt64(9)),
		Result: batch.Result{
			Status: batch.ResultStatus(s.ColumnInt(10)),
			Code:   s.ColumnInt(11),
			Kind:   batch.BodyKind(s.ColumnInt(12)),
			Line:   s.ColumnText(13),
			Body:   blob(s, 14),
		},
	}
}

// putMark stores a mark in its place, unless one that is Done is there. This is the
// service's most frequent statement by far, so it does without query's boxes.
func putMark(s *sqlite.Stmt, id storage.BatchID, m *storage.Mark) error {
	t, r := &m.Tries, &m.Result
	for i, n := range [...]int64{
		int64(id)*512 + int64(m.Index), int64(m.State), int64(t.Attempts), int64(t.Retries), int64(t.Throttles),
		batch.Millis(t.ThrottledSince), 0, batch.Millis(t.StartedAt), batch.Millis(t.EndedAt), batch.Millis(m.NotBefore),
		int64(r.Status), int64(r.Code), int64(r.Kind),
	} {
		s.BindInt64(i+1, n)
	}
	s.BindBool(7, t.MaybeDone)
	s.BindText(14, r.Line)
	if len(r.Body) == 0 {
		s.BindNull(15)
	} else {
		s.BindBytes(15, r.Body)
	}
	_, err := s.Step()
	if again := s.Reset(); err == nil {
		err = again
	}
	return err
}
