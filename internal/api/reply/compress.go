package reply

import (
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// Coding is how an answer's body is encoded (RFC 9110, section 8.4.1).
type Coding string

// The codings that an answer may have.
const (
	Identity Coding = ""
	Gzip     Coding = "gzip"
	Zstd     Coding = "zstd"
)

// worthCompressing is the minimum size of an answer that is compressed, in bytes.
const worthCompressing = 1 << 10

// compressor encodes an answer's body piece by piece. It keeps almost no memory between two pieces,
// so that slow readers cost almost none. In gzip, no piece refers to an earlier one; in zstd, each
// piece is a frame of its own (RFC 8878, section 3.1: the content of consecutive frames is
// concatenated). An answer holds no secret of the service next to text that a client can choose, so
// its length reveals nothing.
type compressor struct {
	coding Coding
	gzip   *gzip.Writer // only for Gzip
	out    []byte
}

var (
	compressed = sync.Pool{New: func() any { return new([]byte) }}

	zstdEncoder = sync.OnceValue(func() *zstd.Encoder {
		e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(2),
			zstd.WithWindowSize(512<<10), zstd.WithLowerEncoderMem(true))
		if err != nil {
			panic(err) //nolint:forbidigo // the options are constants that the library accepts
		}
		return e
	})
)

// newCompressor returns nil for Identity.
func newCompressor(c Coding) *compressor {
	if c == Identity {
		return nil
	}
	return &compressor{coding: c}
}

// Write receives the output of gzip.
func (z *compressor) Write(p []byte) (int, error) {
	z.out = append(z.out, p...)
	return len(p), nil
}

// piece encodes a piece and calls send with the result, which is valid until send returns.
func (z *compressor) piece(plain []byte, last bool, send func([]byte)) {
	pooled := compressed.Get().(*[]byte)
	defer func() {
		if cap(z.out) <= maxPooled {
			*pooled = z.out
		}
		z.out = nil
		compressed.Put(pooled)
	}()
	z.out = (*pooled)[:0]
	if z.coding == Zstd {
		z.out = zstdEncoder().EncodeAll(plain, z.out)
		send(z.out)
		return
	}
	if z.gzip == nil {
		z.gzip, _ = gzip.NewWriterLevel(z, gzip.StatelessCompression) // the level is valid
	}
	_, _ = z.gzip.Write(plain) // into memory
	if last {
		_ = z.gzip.Close()
	}
	send(z.out)
}
