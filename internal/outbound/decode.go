package outbound

import (
	"bufio"
	"bytes"
	"compress/flate"
	"compress/zlib"
	"context"
	"errors"
	"io"
	"net/http"
	"slices"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// maxCodings is how many content codings of an answer are decoded.
const maxCodings = 2

// errUndecodable means that a body doesn't match its Content-Encoding.
var errUndecodable = errors.New("the body isn't what its Content-Encoding says")

// decode undoes an answer's Content-Encoding: gzip, deflate, br or zstd. A body with another coding stays
// unchanged, and so does its header. The same applies to a body that can't be decoded; the answer's line
// then says so. The decoded body is limited like any other. The call's share of memory holds it in
// addition to the encoded one.
func (c *Client) decode(ctx context.Context, call *Call, a Answer) Answer {
	var codings []string
	for _, value := range a.Header["Content-Encoding"] {
		for _, coding := range list([]byte(value)) {
			if coding != "" && coding != "identity" {
				codings = append(codings, coding)
			}
		}
	}
	if a.Outcome != Answered || a.Incomplete || len(a.Body) == 0 || len(codings) == 0 || len(codings) > maxCodings {
		return a
	}
	body := a.Body
	for _, coding := range slices.Backward(codings) {
		if decoders[coding] == nil {
			return a
		}
		var err error
		switch body, err = c.decodeOne(ctx, call, decoders[coding], body, int64(len(a.Body))); {
		case errors.Is(err, errUndecodable):
			a.Line += "; the answer isn't encoded as its Content-Encoding says"
			return a
		case err != nil: // interrupted while waiting for memory
			return c.incomplete(a, errInterrupted)
		case int64(len(body)) > c.maxAnswer:
			return c.tooLarge(a.Code)
		}
	}
	a.Body = body
	a.Header = a.Header.Clone()
	delete(a.Header, http.CanonicalHeaderKey("Content-Encoding"))
	return a
}

// decoders has a decoder for each known coding.
var decoders = map[string]func(io.Reader) (io.ReadCloser, error){
	"gzip": readGzip, "x-gzip": readGzip, "deflate": readDeflate, "br": readBrotli, "zstd": readZstd,
}

func readGzip(r io.Reader) (io.ReadCloser, error) { return gzip.NewReader(r) }

// readDeflate reads the coding "deflate". Some servers send it without the zlib wrapper that it
// should have (RFC 9110, section 8.4.1.2).
func readDeflate(r io.Reader) (io.ReadCloser, error) {
	b := bufio.NewReader(r)
	if head, _ := b.Peek(2); len(head) == 2 && head[0]&0xf == 8 && (int(head[0])<<8|int(head[1]))%31 == 0 {
		return zlib.NewReader(b)
	}
	return flate.NewReader(b), nil
}

// window limits the memory, in bytes, that a zstd or brotli stream may ask for (RFC 9659).
const window = 8 << 20

// readBrotli reads the coding "br" (RFC 7932). The first bits of a stream name its window. Only 1111
// stands for more than 8 MiB.
func readBrotli(r io.Reader) (io.ReadCloser, error) {
	b := bufio.NewReader(r)
	if head, _ := b.Peek(1); len(head) == 1 && head[0]&0xf == 0xf {
		return nil, errUndecodable
	}
	return io.NopCloser(brotli.NewReader(b)), nil
}

func readZstd(r io.Reader) (io.ReadCloser, error) {
	d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(window))
	if err != nil {
		return nil, err
	}
	return d.IOReadCloser(), nil
}

// decodeOne decodes a body, up to one byte more than the limit of an answer. held is how many bytes the
// share already holds for the encoded body.
func (c *Client) decodeOne(ctx context.Context, call *Call, open func(io.Reader) (io.ReadCloser, error), body []byte, held int64) ([]byte, error) {
	r, err := open(bytes.NewReader(body))
	if err != nil {
		return nil, errUndecodable
	}
	defer r.Close()
	var out []byte
	for {
		if len(out) == cap(out) {
			size := min(max(firstRead, 2*int64(cap(out))), c.maxAnswer+1)
			if err := growTo(ctx, call, held+size); err != nil {
				return nil, err
			}
			out = append(make([]byte, 0, size), out...)
		}
		n, err := r.Read(out[len(out):cap(out)])
		out = out[:len(out)+n]
		switch {
		case err == io.EOF || int64(len(out)) > c.maxAnswer:
			return out, nil
		case err != nil:
			return nil, errUndecodable
		}
	}
}

// growTo makes the call's share of memory hold at least n bytes.
func growTo(ctx context.Context, call *Call, n int64) error {
	share := call.Memory
	if share == nil || n <= share.Held() || share.TryGrow(n-share.Held()) {
		return nil
	}
	return share.Grow(ctx, n-share.Held())
}
