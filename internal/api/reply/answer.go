package reply

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"strconv"
	"sync"

	"github.com/sheafapi/sheaf/internal/api/watch"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/budget"
	"github.com/sheafapi/sheaf/internal/gate"
	"github.com/sheafapi/sheaf/internal/storage"
)

const (
	// PageBytes is how many bytes of a batch's bodies are read at once.
	PageBytes = 256 << 10
	// flushBytes is how much of an answer is collected before it is sent. A shorter answer is sent
	// whole, with its Content-Length.
	flushBytes = 256 << 10
	// AnswersShare is how much memory all answers with responses may take, in bytes.
	AnswersShare = 48 << 20
	// AnswerBytes is how many bytes an answer takes while it is built: a page, and the text made
	// from it. An answer that is sent whole takes its length.
	AnswerBytes = 2 * flushBytes
	// readShare is how many bytes all calls may hold while they read from storage, in addition to
	// what the largest read may need.
	readShare = 32 << 20
	// maxPooled is the maximum capacity of a buffer that is kept for later answers.
	maxPooled = 1 << 20
)

// Storage is what answers need from a database. Package storage defines the contract.
type Storage interface {
	Status(ctx context.Context, key storage.Key, maxBytes int) (*storage.Status, error)
	Results(ctx context.Context, id storage.BatchID, from, maxBytes int) ([]storage.IndexedResult, error)
	Requests(ctx context.Context, id storage.BatchID) ([]batch.Request, batch.Options, error)
}

// Source reads batches for answers, and limits the memory that all answers take. A gate, of which a
// caller gets at most half of what is free, counts the memory that waits for a client. A budget,
// which owners get in turns, counts the memory that waits only for storage and the CPU. A Source is
// safe for concurrent use.
type Source struct {
	Storage   Storage
	Hub       *watch.Hub
	Answers   *gate.Gate[Name] // what was read and is being sent
	Reads     *budget.Budget   // what is being read
	maxAnswer int64

	LargestBatch  int64 // maximum number of bytes for reading one batch's requests
	largestAnswer int64 // maximum number of bytes for reading a page of results
}

// NewSource returns a Source for answers whose bodies have at most maxAnswer bytes, and batches whose
// requests take at most largestBatch bytes while they are read.
func NewSource(s Storage, hub *watch.Hub, maxAnswer, largestBatch int64) *Source {
	largestAnswer := 2*maxAnswer + PageBytes // as the database sends it, and as it is kept
	most := max(largestAnswer, largestBatch)
	return &Source{
		Storage: s, Hub: hub, maxAnswer: maxAnswer, LargestBatch: largestBatch, largestAnswer: largestAnswer,
		Answers: gate.New[Name](AnswersShare, AnswersShare), Reads: budget.New(most+readShare, most),
	}
}

// buffers are reused: most answers are built in one without an allocation.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

// Answer is a successful answer that may be too large for memory. Memory is reserved before
// anything is read, and a large answer is sent in pieces. The caller calls Open, appends to Buf,
// calls Flush now and then, and calls End at the end. It must always call Free.
type Answer struct {
	Buf []byte

	s       *Source
	c       *Call
	pooled  *[]byte
	reading Hold        // while a page is read
	held    int64       // bytes of AnswersShare
	base    int64       // the part of held that isn't for a page of results
	coder   *compressor // of an answer that is sent in pieces; nil: it isn't compressed
}

// Answer begins an answer. It sends nothing and takes no memory.
func (s *Source) Answer(c *Call) *Answer { return &Answer{s: s, c: c, reading: c.Hold(s.Reads)} }

// Open takes a buffer.
func (a *Answer) Open() {
	a.pooled = buffers.Get().(*[]byte)
	a.Buf = (*a.pooled)[:0]
}

// enter reserves memory for what is sent: the base, and the given number of bytes. It first gives
// back what the answer holds, so that answers can't wait for each other. Its error is ErrNoMemory.
func (a *Answer) enter(bytes int64) error {
	a.keep(0)
	a.base = max(a.base, AnswerBytes)
	n := min(a.base+bytes, AnswersShare/2)
	ctx, cancel := context.WithTimeout(a.c.R.Context(), MemoryWait)
	defer cancel()
	if err := a.s.Answers.Enter(ctx, n, a.c.Names...); err != nil {
		return ErrNoMemory
	}
	a.held = n
	return nil
}

// Reserve reserves memory for a page of responses, while it is read and while it is sent. Its error is
// ErrNoMemory.
func (a *Answer) Reserve() error {
	if err := a.enter(a.s.maxAnswer); err != nil {
		return err
	}
	return a.reading.Need(a.s.largestAnswer)
}

// keep gives back what the answer holds beyond the given number of bytes.
func (a *Answer) keep(bytes int64) {
	if bytes < a.held {
		a.s.Answers.Leave(a.held-bytes, a.c.Names...)
		a.held = bytes
	}
}

// settle gives back the memory that was reserved for a page but isn't used by it. The base covers a
// page of the usual size.
func (a *Answer) settle(page []storage.IndexedResult) {
	bytes := 0
	for i := range page {
		bytes += len(page[i].Body)
	}
	if bytes <= PageBytes {
		bytes = 0
	}
	a.keep(a.base + int64(bytes))
	a.reading.Free()
}

// Free gives back all memory. The Answer must not be used afterwards.
func (a *Answer) Free() {
	a.reading.Free()
	a.keep(0)
	if a.pooled != nil && cap(a.Buf) <= maxPooled {
		*a.pooled = a.Buf
		buffers.Put(a.pooled)
	}
}

// End sends the rest of the answer.
func (a *Answer) End() {
	if a.held > 0 {
		a.keep(int64(len(a.Buf)))
		a.c.paced(len(a.Buf), a.sendRest)
		return
	}
	a.sendRest()
}

func (a *Answer) sendRest() {
	switch {
	case a.c.Started:
		a.sendPiece(true)
	case a.c.R.Method == http.MethodHead:
		a.c.begin(http.StatusOK) // without a Content-Length, because that of a GET isn't known
	default:
		a.c.Send(http.StatusOK, a.Buf)
	}
}

// Flush sends what Buf holds, if that is at least flushBytes.
func (a *Answer) Flush() {
	if len(a.Buf) < flushBytes {
		return
	}
	if !a.c.Started {
		if a.coder = newCompressor(a.c.Coding); a.coder != nil {
			a.c.W.Header().Set("Content-Encoding", string(a.c.Coding))
		}
		a.c.begin(http.StatusOK)
	}
	a.c.paced(len(a.Buf), func() { a.sendPiece(false) })
	a.Buf = a.Buf[:0]
	if a.c.gone() {
		Abort()
	}
}

// Piece is Flush for a function that appends a long body to a buffer of its own: see batch.Form.
func (a *Answer) Piece(buf []byte) []byte {
	a.Buf = buf
	a.Flush()
	return a.Buf
}

// AppendJSON appends the JSON of a value to Buf.
func (a *Answer) AppendJSON(v any) error {
	body, err := marshal(v)
	a.Buf = append(a.Buf, body...)
	return err
}

func (a *Answer) sendPiece(last bool) {
	if a.coder == nil {
		a.c.write(a.Buf)
		return
	}
	a.coder.piece(a.Buf, last, a.c.write)
}

// errMissing means that storage has no result for a request that has ended. It ends an answer like
// any failure of storage.
var errMissing = errors.New("a recorded result can't be read")

// results iterates over the results of a status in request order: those that had ended at the
// moment of the status and, with all, those that were not executed. Results that were recorded
// later are left out, so that the answer describes that moment.
type results struct {
	st     *storage.Status
	all    bool
	except *batch.Set // indexes to leave out; nil: none

	index       int                     // of the next result
	page        []storage.IndexedResult // from the current result on
	notExecuted storage.IndexedResult
	err         error
}

// results returns the results from an index on. Call Reserve before reading st. The returned results
// own st.Results from then on; st.Results is set to nil.
func (a *Answer) results(st *storage.Status, from int, all bool, except *batch.Set) results {
	a.settle(st.Results)
	x := results{st: st, all: all, except: except, index: from, page: st.Results}
	x.notExecuted.Result = batch.Result{Status: batch.NotExecuted, Line: st.Reason}
	st.Results = nil // so that only the page refers to them
	return x
}

// next returns the next result, which is valid until next is called again. It returns nil at the
// end, and also when a result can't be read, in which case it sets err. The answer isn't a field of
// x, because then it would be allocated on the heap.
func (x *results) next(a *Answer) *storage.IndexedResult {
	for ; x.index < x.st.Total; x.index++ {
		i := x.index
		switch {
		case x.except != nil && x.except.Has(i):
			continue
		case x.st.Ended.Has(i):
			if x.err = x.seek(a, i); x.err != nil {
				return nil
			}
			x.index++
			return &x.page[0]
		case x.all:
			x.index++
			x.notExecuted.Index = i
			return &x.notExecuted
		}
	}
	return nil
}

// seek makes page begin with the result of request i, which has ended. It reads the next page if
// this one is used up.
func (x *results) seek(a *Answer, i int) error {
	for len(x.page) > 0 && x.page[0].Index < i {
		x.page[0] = storage.IndexedResult{} // its body has been sent
		x.page = x.page[1:]
	}
	if len(x.page) == 0 {
		if err := a.Reserve(); err != nil {
			return err
		}
		var err error
		if x.page, err = a.s.Storage.Results(a.c.Ctx(), x.st.ID, i, PageBytes); err != nil {
			return err
		}
		a.settle(x.page)
	}
	if len(x.page) == 0 || x.page[0].Index != i {
		return errMissing
	}
	return nil
}

// Result reads the result of the request at index. It returns nil if that request has no result.
func (a *Answer) Result(id storage.BatchID, index int) (*storage.IndexedResult, error) {
	if err := a.Reserve(); err != nil {
		return nil, err
	}
	page, err := a.s.Storage.Results(a.c.Ctx(), id, index, 1)
	if err != nil || len(page) == 0 || page[0].Index != index {
		return nil, err
	}
	a.settle(page)
	return &page[0], nil
}

// Requests reads a batch's requests. Those from first to last are whole; the others have only ids,
// methods and paths. Call it before Reserve.
func (a *Answer) Requests(id storage.BatchID, first, last int) ([]batch.Request, batch.Options, error) {
	room := int64(batch.MaxRequests * (batch.MaxPath + batch.MaxID))
	if first <= last {
		room += a.s.LargestBatch / 2
	}
	if err := a.enter(room); err != nil {
		return nil, batch.Options{}, err
	}
	if err := a.reading.Need(a.s.LargestBatch); err != nil {
		return nil, batch.Options{}, err
	}
	defer a.reading.Free()
	all, options, err := a.s.Storage.Requests(a.c.Ctx(), id)
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
		a.base += int64(kept) // otherwise the base covers it
	}
	a.keep(a.base)
	return all, options, nil
}

// File sends a body as a file, in pieces, each of which the client must read in time.
func (a *Answer) File(name string, body []byte) {
	h := a.c.W.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Content-Disposition", `attachment; filename="`+name+`"`)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	a.c.begin(http.StatusOK)
	for len(body) > 0 {
		piece := body[:min(len(body), flushBytes)]
		a.c.paced(len(piece), func() { a.c.write(piece) })
		if body = body[len(piece):]; a.c.gone() {
			Abort()
		}
	}
}
