package api

import (
	"compress/flate"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sync/semaphore"
)

// How much of create bodies is held in memory at once. Memory is taken as bytes
// arrive and never on a Content-Length's word. Large bodies have a share of their own,
// so that a few slow uploads don't keep everybody else waiting. What storage makes of
// a body while it is stored is about as large again.
const (
	freeBody   = 16 << 10 // bytes that any body may take at once
	smallBody  = 1 << 20  // bytes of a body that is not large
	smallShare = 16 << 20 // bytes of all bodies that are not large
	largeShare = 32 << 20 // bytes of all large bodies
	// memoryWait is how long a body may wait for memory. While its body is not
	// read, a client that has gone away is not noticed.
	memoryWait = 10 * time.Second
)

// memory is what create bodies, and answers that hold responses, may take.
type memory struct {
	small, large, answers *semaphore.Weighted
	builders              chan struct{} // of answers; see builders
	lookers               chan struct{} // searches that look into batches; see look
}

func newMemory() memory {
	return memory{
		small:    semaphore.NewWeighted(smallShare),
		large:    semaphore.NewWeighted(largeShare),
		answers:  semaphore.NewWeighted(answersShare),
		builders: make(chan struct{}, buildersPerCPU*runtime.GOMAXPROCS(0)),
		lookers:  make(chan struct{}, runtime.GOMAXPROCS(0)),
	}
}

// share is memory that one body has taken.
type share struct {
	of *semaphore.Weighted // nil: none
	n  int64
}

// free gives memory back.
func (s *share) free() {
	if s.of != nil {
		s.of.Release(s.n)
		s.of = nil
	}
}

// take takes memory for a body that may grow to size bytes, in exchange for what
// that body has already. Who has to wait gives that back before, so that bodies can't
// wait for each other.
func (m *memory) take(ctx context.Context, had *share, size int64) error {
	next := share{of: m.small, n: size}
	if size > smallBody {
		next = share{of: m.large, n: min(size, largeShare)}
	}
	if !next.of.TryAcquire(next.n) {
		had.free()
		ctx, cancel := context.WithTimeout(ctx, memoryWait)
		defer cancel()
		if err := next.of.Acquire(ctx, next.n); err != nil {
			return fail(unavailable, "Too many large batches are being created at the moment. Create this one again in a second.")
		}
	}
	had.free()
	*had = next
	return nil
}

// readBody reads a create body, decompressed. The caller calls release, also after
// an error, when it needs the body no more.
func (s *API) readBody(c *call) (body []byte, release func(), err error) {
	held := &share{}
	src, size, err := s.openBody(c)
	if err != nil {
		return nil, held.free, err
	}
	body = make([]byte, 0, growth(0, size, s.MaxBody))
	c.allow(http.NewResponseController(c.w).SetReadDeadline, int64(cap(body)))
	for err == nil && int64(len(body)) != size {
		if len(body) == cap(body) {
			body, err = s.grow(c, held, src, body, size)
			continue
		}
		var n int
		n, err = src.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
	}
	if errors.Is(err, io.EOF) && size >= 0 && int64(len(body)) != size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, held.free, s.readFailed(err)
	}
	_ = http.NewResponseController(c.w).SetReadDeadline(time.Time{}) // an unknown writer has none
	return body, held.free, nil
}

// A client that holds memory has to read, or send, at least so fast, after a while of
// grace.
const (
	grace     = 10 * time.Second
	leastRate = 16 << 10 // bytes a second
)

// allow sets a deadline by which so many bytes have to have passed.
func (c *call) allow(set func(time.Time) error, bytes int64) {
	// Writers that know no deadlines, such as a test's, go without.
	_ = set(time.Now().Add(grace + time.Duration(bytes)*time.Second/leastRate))
}

// openBody returns the decompressed body and its size, -1 if that is unknown.
func (s *API) openBody(c *call) (io.Reader, int64, error) {
	if c.r.ContentLength > s.MaxBody {
		return nil, 0, s.tooLarge()
	}
	raw := http.MaxBytesReader(c.w, c.r.Body, s.MaxBody)
	switch strings.ToLower(strings.Join(c.r.Header.Values("Content-Encoding"), ",")) {
	case "", "identity":
		return raw, c.r.ContentLength, nil
	case "gzip", "x-gzip":
		plain, err := gzip.NewReader(raw)
		if err != nil {
			return nil, 0, s.readFailed(err)
		}
		return plain, -1, nil
	}
	c.w.Header().Set("Accept-Encoding", "gzip")
	return nil, 0, fail(unsupportedMediaType, "The header Content-Encoding must be gzip or absent.")
}

// growth returns the next capacity of a buffer that is full at n bytes: four times as
// much, so that memory is taken for what has arrived rather than for what was announced.
func growth(n int, size, limit int64) int64 {
	next := min(max(4*int64(n), freeBody), limit)
	if size >= 0 {
		next = min(next, size)
	}
	return next
}

// grow returns a full buffer with room for more, or an error, io.EOF if no more comes.
func (s *API) grow(c *call, held *share, src io.Reader, body []byte, size int64) ([]byte, error) {
	// One byte tells whether there is more, before memory is taken for it.
	var probe [1]byte
	if _, err := io.ReadFull(src, probe[:]); err != nil {
		return body, err
	}
	next := growth(len(body), size, s.MaxBody)
	if next <= int64(len(body)) {
		return body, s.tooLarge()
	}
	if err := s.memory.take(c.r.Context(), held, next); err != nil {
		return body, err
	}
	c.allow(http.NewResponseController(c.w).SetReadDeadline, next-int64(len(body)))
	grown := make([]byte, len(body), next)
	copy(grown, body)
	return append(grown, probe[0]), nil
}

func (s *API) tooLarge() error {
	return fail(payloadTooLarge, "The body is larger than %d bytes, before or after decompression. Split the batch.", s.MaxBody)
}

// readFailed returns the answer for an error of reading the body.
func (s *API) readFailed(err error) error {
	var answer *apiError
	var large *http.MaxBytesError
	var corrupt flate.CorruptInputError
	switch {
	case errors.As(err, &answer):
		return err
	case errors.As(err, &large):
		return s.tooLarge()
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fail(requestTimeout, "The body did not arrive in time.")
	case errors.Is(err, gzip.ErrHeader), errors.Is(err, gzip.ErrChecksum), errors.As(err, &corrupt):
		return fail(wrongParameter, "The body is no gzip stream, which its Content-Encoding says it is.")
	}
	return fail(wrongParameter, "The body did not arrive completely.")
}
