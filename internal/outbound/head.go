package outbound

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"strconv"
	"strings"
)

const (
	// maxLineKept is the longest line of a head that is kept, in bytes. maxAnswerHeader limits the
	// sum of all lines.
	maxLineKept = 64 << 10
	// maxHeadRead is how many bytes are read to find the end of a head. Bytes beyond the other
	// limits are discarded.
	maxHeadRead = 8 << 20
	// fieldCost is the memory that a field takes in addition to its text, in bytes.
	fieldCost = 32
)

// isRegular reports whether b begins with a complete head that every implementation reads in the same way.
// net/http reads such a head without an error and knows where the body ends.
func isRegular(b []byte) bool {
	status, rest, found := bytes.Cut(b, []byte("\n"))
	found = found && bytes.HasPrefix(status, []byte("HTTP/1.1 "))
	for framed := 0; found; {
		var line []byte
		if line, rest, found = bytes.Cut(rest, []byte("\n")); !found {
			break
		}
		if line = bytes.TrimSuffix(line, []byte("\r")); len(line) == 0 {
			return framed <= 1
		}
		name, value, ok := splitField(line)
		switch {
		case !ok:
			return false
		case isName(name, "Content-Length"):
			if framed++; !isLength(value) {
				return false
			}
		case isName(name, "Transfer-Encoding"):
			if framed++; !isName(value, "chunked") {
				return false
			}
		case isName(name, "Trailer"): // net/http rejects some values
			return false
		}
	}
	return false
}

// isName reports whether b is the given name, ignoring case.
func isName(b []byte, name string) bool {
	return len(b) == len(name) && strings.EqualFold(string(b), name)
}

// isLength reports whether a Content-Length is a number that fits into an int64.
func isLength(b []byte) bool {
	if len(b) == 0 || len(b) > 18 {
		return false
	}
	for _, c := range b {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}

// splitField splits a line of a head into name and value. ok reports whether both are valid according
// to RFC 9110. A value may also have bytes beyond ASCII.
func splitField(line []byte) (name, value []byte, ok bool) {
	i := bytes.IndexByte(line, ':')
	if i <= 0 {
		return nil, nil, false
	}
	name, value = line[:i], bytes.Trim(line[i+1:], " \t")
	for _, c := range name {
		if !isToken(c) {
			return nil, nil, false
		}
	}
	return name, value, isText(value)
}

// isToken reports whether a byte is allowed in a name (RFC 9110, section 5.6.2).
func isToken(c byte) bool {
	return c > ' ' && c < 0x7f && !strings.ContainsRune(`"(),/:;<=>?@[\]{}`, rune(c))
}

// isText reports whether a value has no control characters other than tabs.
func isText(value []byte) bool {
	for _, c := range value {
		if c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// lenientHead reads an irregular head line by line. It drops lines that it can't read.
type lenientHead struct {
	status  string // the first line
	text    bytes.Buffer
	size    int
	last    []byte // the last field, which a folded line may continue; nil if it was dropped
	lengths []string
	codings []string
	flaws
}

// flaws describes what was wrong with an answer.
type flaws struct {
	dropped int  // the number of fields that were dropped
	odd     bool // the connection must not carry another exchange
	unsure  bool // the head has different lengths, so the body may be longer
}

// String returns the text to append to the answer's reason phrase; "": none.
func (f *flaws) String() (s string) {
	switch f.dropped {
	case 0:
	case 1:
		s = "; the answer has a header that could not be read"
	default:
		s = fmt.Sprintf("; the answer has %d headers that could not be read", f.dropped)
	}
	if f.unsure {
		s += "; the answer names different lengths"
	}
	return s
}

// readLeniently reads a head. It replaces the connection's reader with one that begins with a regular head
// of the same meaning. If the head ends early, resp has the part that arrived.
func readLeniently(c *conn, req *http.Request) (resp *http.Response, f flaws, err error) {
	h := &lenientHead{}
	line, _, err := c.readLine()
	if err != nil {
		return nil, f, err
	}
	h.status = string(line[:min(len(line), maxLine)])
	resp, err = http.ReadResponse(bufio.NewReader(strings.NewReader(h.status+"\r\n\r\n")), req)
	if err != nil {
		return nil, f, errMalformed
	}
	for {
		var whole bool
		if line, whole, err = c.readLine(); err != nil || len(line) == 0 {
			break
		}
		h.add(line, whole)
	}
	h.finish(resp.ProtoMinor)
	var rest io.Reader = strings.NewReader("")
	if err == nil {
		// All earlier pending bytes are already in the reader, because its buffer has room for them.
		buffered, _ := c.reader.Peek(c.reader.Buffered())
		c.pending.Reset(bytes.Clone(buffered))
		rest = io.MultiReader(&c.pending, (*limitedReader)(c))
	}
	head := io.MultiReader(strings.NewReader(h.status+"\r\n"), &h.text, strings.NewReader("\r\n"))
	c.reader = bufio.NewReaderSize(io.MultiReader(head, rest), readBuffer)
	resp, broken := http.ReadResponse(c.reader, req)
	if broken != nil {
		return nil, f, errMalformed
	}
	return resp, h.flaws, err
}

// isConsumed reports whether all bytes that were read from the connection have been consumed.
func (c *conn) isConsumed() bool {
	return c.reader.Buffered() == 0 && c.pending.Len() == 0
}

// readLine reads a line and returns it without its line ending. If the line is longer than
// maxLineKept, whole is false and line is only its beginning. It is valid until the next call.
func (c *conn) readLine() (line []byte, whole bool, err error) {
	whole = true
	for {
		part, err := c.reader.ReadSlice('\n')
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, false, err
		}
		if whole = whole && len(line)+len(part) <= maxLineKept; whole && (line != nil || err != nil) {
			line = append(line, part...)
		} else if line == nil {
			line = part
		}
		if err == nil {
			return bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r")), whole, nil
		}
	}
}

// add adds a line of the head. The previous line is now complete, unless this one continues it.
func (h *lenientHead) add(line []byte, whole bool) {
	if line[0] == ' ' || line[0] == '\t' {
		h.odd = true
		switch {
		case h.last == nil:
		case !whole || len(h.last)+len(line) > maxLineKept:
			h.drop()
		default:
			h.last = append(append(h.last, ' '), bytes.Trim(line, " \t")...)
		}
		return
	}
	h.keep()
	if whole {
		h.last = bytes.Clone(line)
	} else {
		h.drop()
	}
}

// drop drops the last field.
func (h *lenientHead) drop() {
	h.last, h.odd = nil, true
	h.dropped++
}

// keep adds the last field to the head.
func (h *lenientHead) keep() {
	if h.last == nil {
		return
	}
	line := h.last
	if i := bytes.IndexByte(line, ':'); i > 0 { // some servers put spaces before the colon
		name := bytes.TrimRight(line[:i], " \t")
		if len(name) < i {
			line, h.odd = append(bytes.Clone(name), line[i:]...), true
		}
	}
	name, value, ok := splitField(line)
	size := h.size + len(line) + fieldCost
	if !ok || size > maxAnswerHeader {
		h.drop()
		return
	}
	h.last, h.size = nil, size
	switch {
	case isName(name, "Content-Length"):
		h.lengths = append(h.lengths, list(value)...)
	case isName(name, "Transfer-Encoding"):
		h.codings = append(h.codings, list(value)...)
	case isName(name, "Trailer"): // trailers are not kept
	default:
		h.field(string(name), string(value))
	}
}

func (h *lenientHead) field(name, value string) { h.text.WriteString(name + ": " + value + "\r\n") }

// maxList is how many elements of a list are read.
const maxList = 16

// list splits a value at its commas, in lower case.
func list(value []byte) (out []string) {
	for _, part := range strings.SplitN(string(value), ",", maxList) {
		out = append(out, strings.ToLower(strings.TrimSpace(part)))
	}
	return out
}

// finish ends the head. It states once where the body ends: by chunks, or else by the lowest of the
// given lengths, or else at the end of the connection. Unless the original head said the same, the
// connection must not carry another exchange, because the next answer might begin elsewhere.
func (h *lenientHead) finish(minor int) {
	h.keep()
	chunked := false
	var other []string
	for _, coding := range h.codings {
		switch coding {
		case "chunked":
			h.odd = h.odd || chunked
			chunked = true
		case "identity", "":
			h.odd = true
		default: // treated as a content coding, which is decoded if it is known
			h.odd = true
			other = append(other, coding)
		}
	}
	if len(other) > 0 {
		h.field("Content-Encoding", strings.Join(other, ", "))
	}
	length := int64(-1)
	for i, text := range h.lengths {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || !isLength([]byte(text)) {
			h.drop()
			continue
		}
		h.odd = h.odd || i > 0
		h.unsure = h.unsure || length >= 0 && length != n
		if length < 0 || n < length {
			length = n
		}
	}
	switch {
	case chunked:
		h.odd = h.odd || length >= 0
		h.unsure = false
		if minor == 0 { // net/http would return the chunks undecoded
			h.status, h.odd = strings.Replace(h.status, "HTTP/1.0", "HTTP/1.1", 1), true
		}
		h.field("Transfer-Encoding", "chunked")
	case length >= 0:
		h.field("Content-Length", strconv.FormatInt(length, 10))
	}
}

// chunkedBody reads a body in chunks up to the last chunk. Malformed trailers are not an error, but
// the connection must not carry another exchange then.
type chunkedBody struct {
	io.Reader
	c *conn
	f *flaws
}

func newChunkedBody(c *conn, f *flaws) *chunkedBody {
	return &chunkedBody{httputil.NewChunkedReader(c.reader), c, f}
}

func (b *chunkedBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err == io.EOF {
		b.c.room = maxAnswerHeader
		for {
			line, whole, err := b.c.readLine()
			if err == nil && len(line) == 0 {
				break
			}
			if _, _, ok := splitField(line); err != nil || !whole || !ok {
				b.f.odd = true
				break
			}
		}
	}
	return n, err
}

// Close does nothing: the connection belongs to its exchange.
func (b *chunkedBody) Close() error { return nil }
