package batch

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// The stored form of a batch's requests: a byte that names the form, then strings,
// each with its length before (uvarint). A request is its id, method, path and body,
// and, in the forms of linked requests, its links in JSON or an empty string.
const (
	plainForm = 0 // as it is
	zstdForm  = 1 // compressed (RFC 8878)
	withLinks = 2 // a bit beside these
)

// worthPacking is the size in bytes below which compressing does not pay.
const worthPacking = 512

// maxUnpacked bounds what a damaged blob can make Unpack allocate, in bytes.
const maxUnpacked = 1 << 30

var encoder = sync.OnceValue(func() *zstd.Encoder {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(2),
		zstd.WithWindowSize(1<<20), zstd.WithLowerEncoderMem(true))
	if err != nil {
		panic(err) //nolint:forbidigo // an option that the library does not know: no input leads here
	}
	return e
})

var decoder = sync.OnceValue(func() *zstd.Decoder {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(2), zstd.WithDecoderMaxMemory(maxUnpacked))
	if err != nil {
		panic(err) //nolint:forbidigo // as above
	}
	return d
})

// ErrDamaged is the error of what is not in its stored form.
var ErrDamaged = errors.New("the stored form is damaged")

// Pack returns the stored form of a batch's requests, compressed where that pays.
func Pack(requests []Request) []byte {
	size, form := 1, byte(plainForm)
	for i := range requests {
		r := &requests[i]
		if r.Links != nil {
			form = withLinks
		}
		size += len(r.ID) + len(r.Method) + len(r.Path) + len(r.Body) + 4*binary.MaxVarintLen16
	}
	buf := append(make([]byte, 0, size), form)
	for i := range requests {
		r := &requests[i]
		buf = appendField(buf, r.ID)
		buf = appendField(buf, r.Method)
		buf = appendField(buf, r.Path)
		buf = appendField(buf, r.Body)
		if form == withLinks {
			buf = appendField(buf, packLinks(r.Links))
		}
	}
	return compress(buf)
}

func packLinks(l *Links) []byte {
	if l == nil {
		return nil
	}
	text, err := json.Marshal(l)
	if err != nil {
		panic(err) //nolint:forbidigo // strings and numbers only: no input leads here
	}
	return text
}

// Unpack is the inverse of Pack. The requests share one buffer. Damaged data is an
// error, and so is data without a request: no batch is empty.
func Unpack(data []byte) ([]Request, error) {
	linked := len(data) > 0 && data[0]&withLinks != 0
	data, err := decompress(data)
	if err != nil {
		return nil, err
	}
	var out []Request
	for len(data) > 0 {
		var fields [4][]byte
		for i := range fields {
			if fields[i], data, err = cutField(data); err != nil {
				return nil, err
			}
		}
		r := Request{ID: string(fields[0]), Method: method(fields[1]), Path: string(fields[2])}
		if len(fields[3]) > 0 {
			r.Body = fields[3]
		}
		if linked {
			if r.Links, data, err = cutLinks(data); err != nil {
				return nil, err
			}
		}
		out = append(out, r)
	}
	if len(out) == 0 || len(out) > MaxRequests {
		return nil, fmt.Errorf("%w: there are %d requests", ErrDamaged, len(out))
	}
	for i := range out {
		if err := out[i].Links.check(i); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// UnpackedHead is how many bytes of a packed form UnpackedSize needs to see.
const UnpackedHead = 1 + zstd.HeaderMaxSize

// UnpackedSize returns about how many bytes Unpack needs, the packed form included, for one
// of that many bytes that begins with head.
func UnpackedSize(head []byte, packed int64) int64 {
	if len(head) == 0 {
		return packed
	}
	size := packed
	if head[0]&^withLinks == zstdForm {
		var h zstd.Header
		if err := h.Decode(head[1:]); err == nil && h.HasFCS {
			size += int64(min(h.FrameContentSize, maxUnpacked))
		} else {
			size += packed
		}
	}
	if head[0]&withLinks != 0 {
		size *= 2 // links are text, and take more as values
	}
	return size
}

// check reports whether the links of request i can be what Pack was given.
func (l *Links) check(i int) error {
	if l == nil {
		return nil
	}
	earlier := func(j int) bool { return j >= 0 && j < i }
	for _, j := range l.DependsOn {
		if !earlier(j) {
			return fmt.Errorf("%w: request %d depends on request %d", ErrDamaged, i, j)
		}
	}
	for _, r := range l.Refs {
		if !earlier(r.From) || r.Where < InPath || r.Where > InHeader {
			return fmt.Errorf("%w: request %d has the reference %d of request %d", ErrDamaged, i, r.Where, r.From)
		}
	}
	if l.RunIf > Always {
		return fmt.Errorf("%w: request %d runs on condition %d", ErrDamaged, i, l.RunIf)
	}
	return nil
}

// cutLinks reads a request's links.
func cutLinks(data []byte) (l *Links, rest []byte, err error) {
	text, rest, err := cutField(data)
	if err != nil || len(text) == 0 {
		return nil, rest, err
	}
	if err := json.Unmarshal(text, &l); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return l, rest, nil
}

// method returns a method as a string, without a copy of it for each request.
func method(b []byte) string {
	for _, m := range Methods {
		if m == string(b) {
			return m
		}
	}
	return string(b)
}

// PackIDs returns the stored form of the requests' ids, which a status needs without
// the rest; nil when no request has one.
func PackIDs(requests []Request) []byte {
	buf := []byte{plainForm}
	some := false
	for i := range requests {
		some = some || requests[i].ID != ""
		buf = appendField(buf, requests[i].ID)
	}
	if !some {
		return nil
	}
	return compress(buf)
}

// UnpackIDs is the inverse of PackIDs: the ids by index.
func UnpackIDs(data []byte) ([]string, error) {
	data, err := decompress(data)
	if err != nil {
		return nil, err
	}
	var out []string
	for len(data) > 0 {
		var id []byte
		if id, data, err = cutField(data); err != nil {
			return nil, err
		}
		out = append(out, string(id))
	}
	return out, nil
}

func appendField[T string | []byte](buf []byte, field T) []byte {
	return append(binary.AppendUvarint(buf, uint64(len(field))), field...)
}

func cutField(data []byte) (field, rest []byte, err error) {
	n, width := binary.Uvarint(data)
	if width <= 0 || n > uint64(len(data)-width) {
		return nil, nil, ErrDamaged
	}
	end := width + int(n)
	return data[width:end:end], data[end:], nil
}

// compress returns a plain form compressed, or as it is if that is not larger.
func compress(plain []byte) []byte {
	if len(plain) < worthPacking {
		return plain
	}
	out := encoder().EncodeAll(plain[1:], append(make([]byte, 0, len(plain)/2), plain[0]|zstdForm))
	if len(out) >= len(plain) {
		return plain
	}
	return out
}

// decompress returns the strings behind the byte that names the form.
func decompress(data []byte) ([]byte, error) {
	if len(data) == 0 {
		return nil, nil
	}
	switch data[0] &^ withLinks {
	case plainForm:
		return data[1:], nil
	case zstdForm:
		out, err := decoder().DecodeAll(data[1:], nil)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		return out, nil
	}
	return nil, fmt.Errorf("%w: unknown form %d", ErrDamaged, data[0])
}

// PackHeaders returns the stored form of an answer's headers; nil: there is none.
func PackHeaders(headers []Header) []byte {
	var buf []byte
	for _, h := range headers {
		buf = appendField(appendField(buf, h.Name), h.Value)
	}
	return buf
}

// UnpackHeaders is the inverse of PackHeaders.
func UnpackHeaders(data []byte) (out []Header, err error) {
	for len(data) > 0 {
		var name, value []byte
		if name, data, err = cutField(data); err != nil {
			return nil, err
		}
		if value, data, err = cutField(data); err != nil {
			return nil, err
		}
		out = append(out, Header{string(name), string(value)})
	}
	return out, nil
}
