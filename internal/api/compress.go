package api

import (
	"strconv"
	"strings"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// coding is how an answer's body is encoded (RFC 9110, section 8.4.1).
type coding string

// The codings that an answer may have.
const (
	identity   coding = ""
	gzipCoding coding = "gzip"
	zstdCoding coding = "zstd"
)

// worthCompressing is the size in bytes from which an answer is compressed.
const worthCompressing = 1 << 10

// negotiate returns the coding that a client wants most of those there are: by weight,
// zstd before gzip where it does not mind (RFC 9110, section 12.5.3). Without the
// header, or if it makes no sense, an answer is sent as it is. A client that refuses even
// that gets it all the same: it can't be told so in a coding that it would read.
func negotiate(accept []string) coding {
	if len(accept) == 0 {
		return identity
	}
	weights := map[string]int{}
	for element := range strings.SplitSeq(strings.Join(accept, ","), ",") {
		name, parameters, _ := strings.Cut(element, ";")
		name = strings.ToLower(strings.TrimSpace(name))
		if name == "x-gzip" {
			name = string(gzipCoding)
		}
		weights[name] = weight(parameters)
	}
	of := func(c coding) int {
		w, given := weights[string(c)]
		if !given {
			w = weights["*"]
		}
		return w
	}
	best, most := identity, weights["identity"]
	for _, c := range []coding{gzipCoding, zstdCoding} {
		if w := of(c); w > 0 && w >= most {
			best, most = c, w
		}
	}
	return best
}

// weight reads the weight of an element in thousandths: "q=0.5" is 500, none is 1000,
// and one that is malformed is 0.
func weight(parameters string) int {
	for parameter := range strings.SplitSeq(parameters, ";") {
		name, value, _ := strings.Cut(parameter, "=")
		if strings.ToLower(strings.TrimSpace(name)) != "q" {
			continue
		}
		q, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
		if err != nil || !(q >= 0 && q <= 1) {
			return 0
		}
		return int(q * 1000)
	}
	return 1000
}

// compressor encodes an answer's body piece by piece. It keeps next to nothing between
// two pieces, so that slow readers cost no memory: gzip without a window from one piece
// to the next, zstd in one frame for each piece (RFC 8878, section 3.1: frames that
// follow each other are one content). The service's answers hold no secrets of the
// service that a chosen text beside them could find out by their length.
type compressor struct {
	coding coding
	gzip   *gzip.Writer // of gzipCoding
	out    []byte
}

var (
	compressed = sync.Pool{New: func() any { return new([]byte) }}

	zstdEncoder = sync.OnceValue(func() *zstd.Encoder {
		e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(2),
			zstd.WithWindowSize(512<<10), zstd.WithLowerEncoderMem(true))
		if err != nil {
			panic(err) //nolint:forbidigo // an option that the library does not know: no input leads here
		}
		return e
	})
)

// newCompressor returns nil for identity.
func newCompressor(c coding) *compressor {
	if c == identity {
		return nil
	}
	return &compressor{coding: c}
}

// Write takes what gzip makes.
func (z *compressor) Write(p []byte) (int, error) {
	z.out = append(z.out, p...)
	return len(p), nil
}

// piece encodes a piece, and calls send with what came of it, to be used until send
// returns.
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
	if z.coding == zstdCoding {
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
