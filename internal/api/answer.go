package api

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"sync"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

const (
	// pageBytes is how much of the bodies of a batch is read at once.
	pageBytes = 256 << 10
	// flushBytes is how much of an answer is held back. A shorter answer is sent
	// whole, with its Content-Length.
	flushBytes = 256 << 10
	// answersShare is how much memory all answers may take that hold responses, in
	// bytes. An answer takes answerBytes while it is put together, and what it is long
	// while it is sent whole.
	answersShare = 48 << 20
	answerBytes  = 2 * flushBytes // a page, and what is made of it
	// maxPooled bounds the buffers that are kept for later answers.
	maxPooled = 1 << 20
)

// buffers are reused: most answers are built in one without an allocation.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

// answer is a successful answer that holds responses and may be too large to be held
// in memory. Memory is taken before anything is read, and what is large is sent in pieces.
type answer struct {
	s       *API
	c       *call
	pooled  *[]byte
	buf     []byte
	reading hold        // while a page is read
	held    int64       // bytes of answersShare
	base    int64       // of these, beside a page of results
	coder   *compressor // of an answer that is sent in pieces; nil: as it is
}

func (s *API) newAnswer(c *call) *answer { return &answer{s: s, c: c, reading: c.hold(s.memory.reads)} }

// open takes a buffer: after the memory for responses, if there are to be any.
func (a *answer) open() {
	a.pooled = buffers.Get().(*[]byte)
	a.buf = (*a.pooled)[:0]
}

// enter takes memory for what is sent: the base, and as many bytes more. What the answer
// held before is given back first, so that answers can't wait for each other. An error is the
// answer to give.
func (a *answer) enter(bytes int64) error {
	a.keep(0)
	a.base = max(a.base, answerBytes)
	n := min(a.base+bytes, answersShare/2)
	ctx, cancel := context.WithTimeout(a.c.r.Context(), memoryWait)
	defer cancel()
	if err := a.s.memory.answers.Enter(ctx, n, a.c.names...); err != nil {
		return fail(unavailable, "Too many large answers are being read at the moment. Retry in a second, or with responses=false.")
	}
	a.held = n
	return nil
}

// reserve takes memory for a page of responses, as long as it is sent and while it is read. An
// error is the answer to give.
func (a *answer) reserve() error {
	if err := a.enter(a.s.MaxAnswer); err != nil {
		return err
	}
	return a.reading.need(a.s.memory.largestAnswer)
}

// keep gives back what the answer holds beyond so many bytes.
func (a *answer) keep(bytes int64) {
	if bytes < a.held {
		a.s.memory.answers.Leave(a.held-bytes, a.c.names...)
		a.held = bytes
	}
}

// settle gives back what a page that was read has not taken. Of a page that is not larger than
// pages are the base has room.
func (a *answer) settle(page []storage.IndexedResult) {
	bytes := 0
	for i := range page {
		bytes += len(page[i].Body)
	}
	if bytes <= pageBytes {
		bytes = 0
	}
	a.keep(a.base + int64(bytes))
	a.reading.free()
}

// free gives the buffer back. The answer must not be used afterwards.
func (a *answer) free() {
	a.reading.free()
	a.keep(0)
	if a.pooled != nil && cap(a.buf) <= maxPooled {
		*a.pooled = a.buf
		buffers.Put(a.pooled)
	}
}

// end sends the rest of the answer.
func (a *answer) end() {
	if a.held > 0 {
		a.keep(int64(len(a.buf)))
		a.c.pace.write(a.c.w, len(a.buf), a.last)
		return
	}
	a.last()
}

// last sends what has not been sent.
func (a *answer) last() {
	switch {
	case a.c.started:
		a.write(true)
	case a.c.r.Method == http.MethodHead:
		// The length of what a GET would bring is not known.
		a.c.status = http.StatusOK
		a.c.typed()
		a.c.w.WriteHeader(http.StatusOK)
	default:
		a.c.send(http.StatusOK, a.buf)
	}
}

// flush sends what has come together, if that is a lot.
func (a *answer) flush() {
	if len(a.buf) < flushBytes {
		return
	}
	if !a.c.started {
		a.c.status = http.StatusOK
		a.c.typed()
		if a.coder = newCompressor(a.c.coding); a.coder != nil {
			a.c.w.Header().Set("Content-Encoding", string(a.c.coding))
		}
	}
	a.c.pace.write(a.c.w, len(a.buf), func() { a.write(false) })
	a.buf = a.buf[:0]
	if a.c.r.Context().Err() != nil {
		abort() // nobody reads the rest
	}
}

// piece is flush for what writes a long body into a buffer of its own: see batch.Form.
func (a *answer) piece(buf []byte) []byte {
	a.buf = buf
	a.flush()
	return a.buf
}

// write sends what is in the buffer as a piece of the answer.
func (a *answer) write(last bool) {
	if a.coder == nil {
		a.c.write(a.buf)
		return
	}
	a.coder.piece(a.buf, last, a.c.write)
}

// responses appends responses: what had ended at the moment of the status, in request
// order, and where the view has all also what was not executed. Results that were recorded
// since are left out, so that the answer stays true to that moment. Without a separator each
// is a line. An error is returned only while nothing was sent.
func (a *answer) responses(st *storage.Status, v *view, separator string) error {
	a.settle(st.Results)
	notExecuted := storage.IndexedResult{Result: batch.Result{Status: batch.NotExecuted, Line: st.Reason}}
	page := st.Results
	st.Results = nil // the page lets go of them
	for i, n := v.after+1, 0; i < st.Total && (v.limit == 0 || n < v.limit); i++ {
		result := &notExecuted
		if st.Ended.Has(i) {
			var err error
			if page, err = a.seek(st, page, i); err != nil {
				return a.failed(st, err)
			}
			result = &page[0]
		} else if result.Index = i; !v.all {
			continue
		}
		if v.only != 0 && result.Status != v.only || v.inDoubt && !result.InDoubt {
			continue
		}
		id := ""
		if st.IDs != nil {
			id = st.IDs[i]
		}
		if n++; n > 1 {
			a.buf = append(a.buf, separator...)
		}
		if a.buf = v.append(a.buf, id, result, a.piece); v.lines {
			a.buf = append(a.buf, '\n')
		}
		a.flush()
	}
	return nil
}

// errMissing ends an answer like any failure of storage.
var errMissing = errors.New("a result that had been recorded can't be read")

// seek returns the results from index i on, which has ended, reading more if the
// page at hand is used up.
func (a *answer) seek(st *storage.Status, page []storage.IndexedResult, i int) ([]storage.IndexedResult, error) {
	for len(page) > 0 && page[0].Index < i {
		page[0] = storage.IndexedResult{} // its body is sent
		page = page[1:]
	}
	if len(page) == 0 {
		if err := a.reserve(); err != nil {
			return nil, err
		}
		var err error
		if page, err = a.s.Storage.Results(a.c.ctx(), st.ID, i, pageBytes); err != nil {
			return nil, err
		}
		a.settle(page)
	}
	if len(page) == 0 || page[0].Index != i {
		return nil, errMissing
	}
	return page, nil
}

// failed returns the answer for an error of storage. If a part of another answer
// is out already, it breaks the connection.
func (a *answer) failed(st *storage.Status, err error) error {
	answer := a.s.storageFailed(a.c, "results", st.Ticket, err)
	if a.c.started {
		abort()
	}
	return answer
}

// requestsOf reads a batch's requests for an answer, which then holds only those from
// first to last whole: of the others it has ids, methods and paths. To be called before reserve.
func (a *answer) requestsOf(id storage.BatchID, first, last int) ([]batch.Request, batch.Options, error) {
	room := int64(batch.MaxRequests * (batch.MaxPath + batch.MaxID))
	if first <= last {
		room += a.s.memory.largestBatch / 2
	}
	if err := a.enter(room); err != nil {
		return nil, batch.Options{}, err
	}
	if err := a.reading.need(a.s.memory.largestBatch); err != nil {
		return nil, batch.Options{}, err
	}
	defer a.reading.free()
	all, options, err := a.s.Storage.Requests(a.c.ctx(), id)
	if err != nil {
		return nil, options, err
	}
	kept := 0
	for i := range all {
		r := &all[i]
		switch {
		case i < first || i > last:
			r.Body, r.Links = nil, nil
		case first > 0 || last < len(all)-1:
			r.Body = bytes.Clone(r.Body) // the bodies share one buffer
		}
		kept += len(r.ID) + len(r.Path) + len(r.Body)
	}
	if kept > flushBytes {
		a.base += int64(kept) // else the base has room for it
	}
	a.keep(a.base)
	return all, options, nil
}
