package api

import (
	"net/http"
	"sync"

	"github.com/sheafapi/sheaf/batch"
	"github.com/sheafapi/sheaf/storage"
)

const (
	// pageBytes is how much of the bodies of a batch is read at once.
	pageBytes = 1 << 20
	// flushBytes is how much of an answer is held back. A shorter answer is sent
	// whole, with its Content-Length.
	flushBytes = 256 << 10
	// maxPooled bounds the buffers that are kept for later answers.
	maxPooled = 1 << 20
)

// buffers are reused: most answers are built in one without an allocation.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

// answer is a successful answer that holds responses and may be too large to be held
// in memory.
type answer struct {
	s      *server
	c      *call
	pooled *[]byte
	buf    []byte
}

func (s *server) newAnswer(c *call) *answer {
	pooled := buffers.Get().(*[]byte)
	return &answer{s: s, c: c, pooled: pooled, buf: (*pooled)[:0]}
}

// free gives the buffer back. The answer must not be used afterwards.
func (a *answer) free() {
	if cap(a.buf) <= maxPooled {
		*a.pooled = a.buf
		buffers.Put(a.pooled)
	}
}

// end sends the rest of the answer.
func (a *answer) end() {
	switch {
	case a.c.started:
		a.c.write(a.buf)
	case a.c.r.Method == http.MethodHead:
		// The length of what a GET would bring is not known.
		a.c.w.Header().Set("Content-Type", "application/json")
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
		a.c.w.Header().Set("Content-Type", "application/json")
	}
	a.c.write(a.buf)
	a.buf = a.buf[:0]
	if a.c.r.Context().Err() != nil {
		abort() // nobody reads the rest
	}
}

// responses appends the field responses: what had ended at the moment of the status,
// in request order, and with all set also what was not executed. Results that were
// recorded since are left out, so that the answer stays true to that moment.
func (a *answer) responses(st *storage.Status, escaped, all bool) {
	a.buf = append(a.buf, `,"responses":[`...)
	first := len(a.buf)
	element := func(i int, r *batch.Result) {
		if first < 0 {
			a.buf = append(a.buf, ',')
		}
		first = -1
		id := ""
		if st.IDs != nil {
			id = st.IDs[i]
		}
		a.buf = batch.AppendResult(a.buf, id, r, escaped)
		a.flush()
	}
	notExecuted := batch.Result{Status: batch.NotExecuted, Line: st.Reason}
	page := st.Results
	for i := range st.Total {
		if !st.Ended.Has(i) {
			if all {
				element(i, &notExecuted)
			}
			continue
		}
		if page = from(page, i); len(page) == 0 {
			page = a.page(st, i)
		}
		if page[0].Index != i {
			a.lost(st, "a result is missing")
		}
		element(i, &page[0].Result)
	}
	a.buf = append(a.buf, ']')
}
