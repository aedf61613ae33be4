package storage

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/sheafapi/sheaf/internal/batch"
)

// The stored form of a batch's requests is a byte that names the form, followed by strings, each
// preceded by its length (uvarint). A request is stored as its id, method, path and body. If any
// request of the batch has links, each request also has a string with its links in JSON, which may
// be empty.
const (
	plainForm = 0 // not compressed
	zstdForm  = 1 // compressed (RFC 8878)
	withLinks = 2 // a bit that is added to one of the two
)

// worthPacking is the size in bytes above which compression pays off.
const worthPacking = 512

// maxUnpacked limits how many bytes a damaged blob can make Unpack allocate.
const maxUnpacked = 1 << 30

var encoder = sync.OnceValue(func() *zstd.Encoder {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(2),
		zstd.WithWindowSize(1<<20), zstd.WithLowerEncoderMem(true))
	if err != nil {
		panic(err) //nolint:forbidigo // the library rejected an option; no input causes this
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

// ErrDamaged is the error for stored data that can't be decoded.
var ErrDamaged = errors.New("the stored form is damaged")

// Pack returns the stored form of a batch's requests, compressed if that makes it smaller.
func Pack(requests []batch.Request) []byte {
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

func packLinks(l *batch.Links) []byte {
	if l == nil {
		return nil
	}
	text, err := json.Marshal(l)
	if err != nil {
		panic(err) //nolint:forbidigo // strings and numbers can always be encoded
	}
	return text
}

// Unpack is the inverse of Pack. The requests share one buffer. It returns ErrDamaged for damaged
// data and for data without a request, because no batch is empty.
func Unpack(data []byte) ([]batch.Request, error) {
	linked := len(data) > 0 && data[0]&withLinks != 0
	data, err := decompress(data)
	if err != nil {
		return nil, err
	}
	var out []batch.Request
	for len(data) > 0 {
		var fields [4][]byte
		for i := range fields {
			if fields[i], data, err = cutField(data); err != nil {
				return nil, err
			}
		}
		r := batch.Request{ID: string(fields[0]), Method: method(fields[1]), Path: string(fields[2])}
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
	if len(out) == 0 || len(out) > batch.MaxRequests {
		return nil, fmt.Errorf("%w: there are %d requests", ErrDamaged, len(out))
	}
	for i := range out {
		if err := checkLinks(out[i].Links, i); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// UnpackedHead is the number of leading bytes of a packed form that UnpackedSize needs.
const UnpackedHead = 1 + zstd.HeaderMaxSize

// UnpackedSize estimates how many bytes of memory Unpack needs, including the packed form. The
// packed form is packed bytes long and begins with head.
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
		size *= 2 // links need more memory as values than as text
	}
	return size
}

// checkLinks returns an error if Pack can't have written these links of request i.
func checkLinks(l *batch.Links, i int) error {
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
		if !earlier(r.From) || r.Where < batch.InPath || r.Where > batch.InHeader {
			return fmt.Errorf("%w: request %d has the reference %d of request %d", ErrDamaged, i, r.Where, r.From)
		}
	}
	if l.RunIf > batch.Always {
		return fmt.Errorf("%w: request %d runs on condition %d", ErrDamaged, i, l.RunIf)
	}
	return nil
}

// cutLinks reads a request's links.
func cutLinks(data []byte) (l *batch.Links, rest []byte, err error) {
	text, rest, err := cutField(data)
	if err != nil || len(text) == 0 {
		return nil, rest, err
	}
	if err := json.Unmarshal(text, &l); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return l, rest, nil
}

// method returns a method as a string. Known methods aren't copied.
func method(b []byte) string {
	for _, m := range batch.Methods {
		if m == string(b) {
			return m
		}
	}
	return string(b)
}

// PackIDs returns the stored form of the requests' ids, or nil if no request has one. They are
// stored separately because a status needs the ids without the requests.
func PackIDs(requests []batch.Request) []byte {
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

// UnpackIDs is the inverse of PackIDs. It returns the ids by index.
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

// compress returns the compressed form of plain, or plain itself if compression doesn't make it
// smaller.
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

// decompress returns the strings that follow the form byte.
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

// PackHeaders returns the stored form of an answer's headers, or nil if there are none.
func PackHeaders(headers []batch.Header) []byte {
	var buf []byte
	for _, h := range headers {
		buf = appendField(appendField(buf, h.Name), h.Value)
	}
	return buf
}

// UnpackHeaders is the inverse of PackHeaders.
func UnpackHeaders(data []byte) (out []batch.Header, err error) {
	for len(data) > 0 {
		var name, value []byte
		if name, data, err = cutField(data); err != nil {
			return nil, err
		}
		if value, data, err = cutField(data); err != nil {
			return nil, err
		}
		out = append(out, batch.Header{Name: string(name), Value: string(value)})
	}
	return out, nil
}

// CheckResult returns an error if a result that was read can't have been stored like this.
func CheckResult(r *batch.Result) error {
	switch {
	case r.Status < batch.Succeeded || r.Status > batch.NotExecuted:
		return fmt.Errorf("%w: a result has the status %d", ErrDamaged, r.Status)
	case r.Kind > batch.BinaryBody:
		return fmt.Errorf("%w: a result has a body of kind %d", ErrDamaged, r.Kind)
	case r.Code < 0 || r.Code > 999:
		return fmt.Errorf("%w: a result has the code %d", ErrDamaged, r.Code)
	}
	return nil
}
