package inbound

import (
	"io"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sheafapi/sheaf/internal/gate"
)

const (
	// maxDrains is how many bodies are drained at the same time.
	maxDrains = 64
	// drainTime is how long draining one body may take.
	drainTime = 15 * time.Second
	// drainSpare is how many bytes a drained body may exceed the largest one that is served, so
	// that the client also sees the answer that its body is too large.
	drainSpare = 64 << 20
	drainPiece = 32 << 10
)

// drains reads the bodies of refused requests to their end. Otherwise the server would close the
// connection with bytes unread, or reset the stream. Clients that send the whole body before they read
// would then report a broken connection instead of the answer. Bodies beyond the limits are not drained.
type drains struct {
	max   int64 // the size of a body, in bytes
	time  time.Duration
	limit *gate.Gate[netip.Prefix]
}

func newDrains(maxBody int64) *drains {
	return &drains{maxBody + drainSpare, drainTime, gate.New[netip.Prefix](maxDrains, maxDrains)}
}

// pieces holds buffers to read into.
var pieces = sync.Pool{New: func() any { return new([drainPiece]byte) }}

// wrap returns a writer that drains the request's body before it sends an error, and the request to
// serve with it. That is a copy, because the server still uses the body of the original.
func (d *drains) wrap(w http.ResponseWriter, r *http.Request, from netip.Prefix) (http.ResponseWriter, *http.Request) {
	if r.Body == nil || r.Body == http.NoBody || r.ContentLength > d.max {
		return w, r
	}
	b := &body{ReadCloser: r.Body, size: r.ContentLength}
	b.sending = !strings.EqualFold(r.Header.Get("Expect"), "100-continue")
	copied := *r
	copied.Body = b
	return &drainer{w, d, b, from}, &copied
}

// body counts how much of it has been read.
type body struct {
	io.ReadCloser
	size    int64 // -1: unknown
	sending bool  // the client sends the body without waiting for 100 Continue
	read    atomic.Int64
	ended   atomic.Bool // nothing more can be read
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if read := b.read.Add(int64(n)); err != nil || read == b.size {
		b.ended.Store(true)
	}
	return n, err
}

// drainer writes the answer to a request with a body.
type drainer struct {
	http.ResponseWriter
	all  *drains
	body *body
	from netip.Prefix
}

// WriteHeader implements http.ResponseWriter.
func (d *drainer) WriteHeader(status int) {
	if status >= http.StatusBadRequest && !d.body.ended.Load() && (d.body.sending || d.body.read.Load() > 0) {
		d.drain()
	}
	d.ResponseWriter.WriteHeader(status)
}

// drain reads the rest of the body, unless too many others are being drained.
func (d *drainer) drain() {
	if !d.all.limit.Try(1, d.from) {
		return
	}
	defer d.all.limit.Leave(1, d.from)
	rc := http.NewResponseController(d.ResponseWriter)
	end := time.Now().Add(d.all.time)
	_ = rc.SetReadDeadline(end)               // some writers in tests don't support deadlines
	piece := pieces.Get().(*[drainPiece]byte) //nolint:forcetypeassert // the pool holds nothing else
	defer pieces.Put(piece)
	for !d.body.ended.Load() && d.body.read.Load() <= d.all.max && time.Now().Before(end) {
		if _, err := d.body.Read(piece[:]); err != nil {
			break
		}
	}
	_ = rc.SetReadDeadline(time.Time{})
}

// Unwrap gives http.ResponseController access to the underlying writer.
func (d *drainer) Unwrap() http.ResponseWriter { return d.ResponseWriter }
