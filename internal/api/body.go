package api

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"errors"
	"io"
	"mime"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/sheafapi/sheaf/internal/api/reply"
)

// readBody reads and decompresses a body of at most limit bytes. When the caller no longer needs
// the body, it must call release, even after an error.
//
// A compressed body is read completely before it is decompressed, so that a slow upload takes only as
// much memory as it has sent.
func (s *API) readBody(c *call, limit int64) (body []byte, release func(), err error) {
	held := &share{names: c.Names}
	zipped, err := s.isZipped(c)
	if err == nil && c.R.ContentLength > limit {
		err = tooLarge(limit)
	}
	if err != nil {
		return nil, held.free, err
	}
	rc := http.NewResponseController(c.W)
	in := &bodyReader{s: s, c: c, held: held, src: http.MaxBytesReader(c.W, c.R.Body, limit), limit: limit, size: c.R.ContentLength}
	in.arrive = func(bytes int64) { // fails only if the writer has no deadlines, like a test's
		_ = rc.SetReadDeadline(time.Now().Add(reply.Grace + time.Duration(bytes)*time.Second/reply.LeastRate))
	}
	if body, err = in.read(); err != nil {
		return nil, held.free, readFailed(err, limit)
	}
	_ = rc.SetReadDeadline(time.Time{})
	if zipped {
		if body, err = s.inflate(c, held, body, limit); err != nil {
			return nil, held.free, readFailed(err, limit)
		}
	}
	return body, held.free, nil
}

// isZipped reports whether the body is compressed with gzip. It refuses other codings.
func (s *API) isZipped(c *call) (bool, error) {
	switch strings.ToLower(strings.Join(c.R.Header.Values("Content-Encoding"), ",")) {
	case "", "identity":
		return false, nil
	case "gzip", "x-gzip":
		return true, nil
	}
	c.W.Header().Set("Accept-Encoding", "gzip")
	return false, fail(unsupportedMediaType, "The header Content-Encoding must be gzip or absent.")
}

// inflate decompresses a body that is in memory.
func (s *API) inflate(c *call, held *share, zipped []byte, limit int64) ([]byte, error) {
	src, err := gzip.NewReader(bytes.NewReader(zipped))
	if err != nil {
		return nil, err
	}
	in := &bodyReader{s: s, c: c, held: held, src: &inTurns{s, c, src}, limit: limit, size: -1, beside: int64(cap(zipped))}
	return in.read()
}

// inTurns reads from a source that needs only the CPU, in turns with other callers.
type inTurns struct {
	s   *API
	c   *call
	src io.Reader
}

// Read reads the next piece when it is the caller's turn.
func (t *inTurns) Read(p []byte) (n int, err error) {
	turn := t.s.compute(t.c, int64(len(p)), func() error {
		n, err = t.src.Read(p)
		return nil
	})
	if turn != nil {
		return 0, turn
	}
	return n, err
}

// bodyReader reads a body into memory.
type bodyReader struct {
	s      *API
	c      *call
	held   *share
	src    io.Reader
	limit  int64
	size   int64             // -1: unknown
	beside int64             // bytes held in addition to the body: its compressed form
	arrive func(bytes int64) // called with the number of bytes that must arrive next; nil: src is in memory
}

// read returns the whole body.
func (in *bodyReader) read() (body []byte, err error) {
	body = make([]byte, 0, growth(0, in.size, in.limit))
	in.expect(int64(cap(body)))
	for err == nil && int64(len(body)) != in.size {
		if len(body) == cap(body) {
			body, err = in.grow(body)
			continue
		}
		var n int
		n, err = in.src.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
	}
	if errors.Is(err, io.EOF) && in.size >= 0 && int64(len(body)) != in.size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return body, nil
}

func (in *bodyReader) expect(bytes int64) {
	if in.arrive != nil {
		in.arrive(bytes)
	}
}

// grow enlarges a full buffer. It returns io.EOF if there are no more bytes.
func (in *bodyReader) grow(body []byte) ([]byte, error) {
	// Read one byte to see whether there is more, before taking memory for it.
	var probe [1]byte
	if _, err := io.ReadFull(in.src, probe[:]); err != nil {
		return body, err
	}
	next := growth(len(body), in.size, in.limit)
	if next <= int64(len(body)) {
		return body, tooLarge(in.limit)
	}
	if err := in.s.memory.take(in.c.R.Context(), in.held, in.beside+next); err != nil {
		return body, err
	}
	in.expect(next - int64(len(body)))
	grown := make([]byte, len(body), next)
	copy(grown, body)
	return append(grown, probe[0]), nil
}

// growth returns the next capacity of a buffer that is full at n bytes: four times n, up to the
// size or the limit. So memory is taken for bytes that have arrived, not for those that a
// Content-Length announces.
func growth(n int, size, limit int64) int64 {
	next := min(max(4*int64(n), freeBody), limit)
	if size >= 0 {
		next = min(next, size)
	}
	return next
}

// isTooLarge reports whether err means that the body is too large.
func isTooLarge(err error) bool {
	var answer *apiError
	return errors.As(err, &answer) && answer.code == payloadTooLarge
}

func tooLarge(limit int64) error {
	return fail(payloadTooLarge, "The body is larger than %d bytes, before or after decompression. Split the batch.", limit)
}

// readFailed returns the answer for an error of reading the body.
func readFailed(err error, limit int64) error {
	var answer *apiError
	var large *http.MaxBytesError
	var corrupt flate.CorruptInputError
	switch {
	case errors.As(err, &answer):
		return err
	case errors.As(err, &large):
		return tooLarge(limit)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fail(requestTimeout, "The body did not arrive in time.")
	case errors.Is(err, gzip.ErrHeader), errors.Is(err, gzip.ErrChecksum), errors.As(err, &corrupt):
		return fail(wrongParameter, "The body isn't valid gzip, although its Content-Encoding is gzip.")
	}
	return fail(wrongParameter, "The body did not arrive completely.")
}

// checkMediaType refuses a body that isn't declared to be JSON in UTF-8 (RFC 8259, section 8.1). A web
// page of another site can't declare a form as JSON, so it can't create batches.
func checkMediaType(h http.Header) error {
	const want = "The header Content-Type must be application/json or text/json"
	switch mediaType, charset := mediaTypeOf(h); {
	case len(h.Values("Content-Type")) > 1:
		return fail(unsupportedMediaType, "%s, and must be sent once.", want)
	case !isJSONType(mediaType):
		return fail(unsupportedMediaType, "%s.", want)
	case charset != utf8Charset:
		return fail(unsupportedMediaType, "%s, and its charset, if any, must be utf-8.", want)
	}
	return nil
}

// byteOrderMark is what some programs write at the beginning of UTF-8 text.
var byteOrderMark = []byte("\ufeff")

// utf8Charset is the name of UTF-8, in lower case.
const utf8Charset = "utf-8"

// mediaTypeOf returns the declared type and charset of a body, in lower case. The charset is UTF-8
// by default. Both are empty unless there is exactly one well-formed Content-Type.
func mediaTypeOf(h http.Header) (mediaType, charset string) {
	values := h.Values("Content-Type")
	if len(values) != 1 {
		return "", ""
	}
	mediaType, attrs, err := mime.ParseMediaType(values[0])
	if err != nil {
		return "", ""
	}
	switch charset = strings.ToLower(attrs["charset"]); charset {
	case "", "utf8": // "utf8" isn't registered, but many programs write it
		charset = utf8Charset
	}
	return mediaType, charset
}

func isJSONType(mediaType string) bool {
	return mediaType == "application/json" || mediaType == "text/json"
}
