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
	// maxDrains bounds the bodies that are read to their ends at the same time.
	maxDrains = 64
	// drainTime is how long one of them may take.
	drainTime = 15 * time.Second
	// drainSpare is how many bytes a body may exceed the largest one that is served, so that the
	// client also sees the answer that its body is too large.
	drainSpare = 64 << 20
	drainPiece = 32 << 10
)

// drains reads the rest of the bodies of requests that were refused before the whole body arrived.
// Otherwise the connection must be closed with bytes unread, or the stream reset. Clients that send a
// whole body before they read then report a broken connection instead of the answer. A body beyond
// the limits isn't read.
type drains struct {
	most   int64 // bytes of a body
	time   time.Duration
	places *gate.Gate[netip.Prefix]
}

func newDrains(maxBody int64) *drains {
	return &drains{maxBody + drainSpare, drainTime, gate.New[netip.Prefix](maxDrains, maxDrains)}
}

// pieces are buffers to read into.
var pieces = sync.Pool{New: func() any { return new([drainPiece]byte) }}

// wrap returns a writer that reads the request's body to its end before it sends an error, and the
// request to be answered with it: a copy, because the server looks at the body of its own.
func (d *drains) wrap(w http.ResponseWriter, r *http.Request, from netip.Prefix) (http.ResponseWriter, *http.Request) {
	if r.Body == nil || r.Body == http.NoBody || r.ContentLength > d.most {
		return w, r
	}
	b := &body{ReadCloser: r.Body, size: r.ContentLength}
	b.asked = !strings.EqualFold(r.Header.Get("Expect"), "100-continue")
	copied := *r
	copied.Body = b
	return &drainer{w, d, b, from}, &copied
}

// body records how far it was read.
type body struct {
	io.ReadCloser
	size  int64 // -1: unknown
	asked bool  // the client has begun to send it, and doesn't wait for 100 Continue
	read  atomic.Int64
	ended atomic.Bool // nothing more can be read
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if read := b.read.Add(int64(n)); err != nil || read == b.size {
		b.ended.Store(true)
	}
	return n, err
}

// drainer is the writer of an answer to a request with a body.
type drainer struct {
	http.ResponseWriter
	all  *drains
	body *body
	from netip.Prefix
}

// WriteHeader implements http.ResponseWriter.
func (d *drainer) WriteHeader(status int) {
	if status >= http.StatusBadRequest && !d.body.ended.Load() && (d.body.asked || d.body.read.Load() > 0) {
		d.drain()
	}
	d.ResponseWriter.WriteHeader(status)
}

// drain reads the rest of the body, unless too many others are being read.
func (d *drainer) drain() {
	if !d.all.places.Try(1, d.from) {
		return
	}
	defer d.all.places.Leave(1, d.from)
	rc := http.NewResponseController(d.ResponseWriter)
	end := time.Now().Add(d.all.time)
	_ = rc.SetReadDeadline(end)               // a writer without deadlines, such as a test's, has none
	piece := pieces.Get().(*[drainPiece]byte) //nolint:forcetypeassert // nothing else is in it
	defer pieces.Put(piece)
	for !d.body.ended.Load() && d.body.read.Load() <= d.all.most && time.Now().Before(end) {
		if _, err := d.body.Read(piece[:]); err != nil {
			break
		}
	}
	_ = rc.SetReadDeadline(time.Time{})
}

// Unwrap is for http.ResponseController.
func (d *drainer) Unwrap() http.ResponseWriter { return d.ResponseWriter }
