package outbound

import (
	"bytes"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// Bounds of an answer, and of what may stand before it.
const (
	maxStatus        = 599
	maxEmptyLines    = 8
	maxInformational = 16
)

// errMalformed is the error of an answer that no HTTP server may send.
var errMalformed = errors.New("the answer is malformed")

// response reads the header of an answer to a request with the method, past empty lines and
// informational answers. written says whether the whole request had been written, or at
// least its last write had begun, when a byte of an answer came. clean reports
// whether the next answer on the connection certainly begins where the body of this one ends.
func response(c *conn, method string, written *atomic.Bool) (resp *http.Response, clean bool, err error) {
	req := &http.Request{Method: method}
	clean = true
	for range maxInformational + 1 {
		lines, err := skipEmptyLines(c)
		if err != nil {
			return nil, false, err
		}
		clean = clean && lines == 0 && written.Load()
		head, _ := c.reader.Peek(c.reader.Buffered())
		single := !framedTwice(head)
		if resp, err = http.ReadResponse(c.reader, req); err != nil {
			return nil, false, err
		}
		switch {
		case resp.StatusCode < 100 || resp.StatusCode > maxStatus:
			return nil, false, errMalformed
		case resp.StatusCode >= 200 || resp.StatusCode == http.StatusSwitchingProtocols:
			clean = clean && persists(resp, method) && (single || len(resp.TransferEncoding) == 0)
			return resp, clean && c.heed(resp.Header["Keep-Alive"]), nil
		}
		clean = false // nobody asked for it, and some servers send it with a body
	}
	return nil, false, errMalformed
}

// skipEmptyLines skips what some servers send behind an answer, and returns how many bytes.
func skipEmptyLines(c *conn) (n int, err error) {
	for ; n <= 2*maxEmptyLines; n++ {
		b, err := c.reader.Peek(1)
		if err != nil {
			return n, err
		}
		if b[0] != '\r' && b[0] != '\n' {
			return n, nil
		}
		_, _ = c.reader.Discard(1)
	}
	return n, errMalformed
}

// persists reports whether an answer leaves its connection open and has a body whose end is
// certain. An answer without a body that describes one is not certain: servers send the
// body all the same, at any time.
func persists(resp *http.Response, method string) bool {
	if resp.Close || resp.StatusCode < 200 || resp.ProtoMajor != 1 || resp.ProtoMinor < 1 {
		return false
	}
	if method != http.MethodHead && resp.StatusCode != http.StatusNoContent && resp.StatusCode != http.StatusNotModified {
		return true
	}
	length := resp.Header["Content-Length"]
	return len(resp.TransferEncoding) == 0 && (len(length) == 0 || length[0] == "0")
}

// framedTwice reports whether a header may have both a Content-Length and a
// Transfer-Encoding: net/http lets the second one count, and another server may have meant
// the first (RFC 9112, section 6.3). A header that has not come whole may.
func framedTwice(head []byte) bool {
	length, coding := false, false
	for {
		line, rest, found := bytes.Cut(head, []byte("\n"))
		if !found {
			return true
		}
		if len(bytes.TrimSuffix(line, []byte("\r"))) == 0 {
			return length && coding
		}
		length = length || hasName(line, "content-length")
		coding = coding || hasName(line, "transfer-encoding")
		head = rest
	}
}

// hasName reports whether a header's line begins with the name, in whatever case.
func hasName(line []byte, name string) bool {
	return len(line) > len(name) && line[len(name)] == ':' && strings.EqualFold(string(line[:len(name)]), name)
}

// heed shortens the time for which the connection may be idle to what the upstream says it
// grants, less a second for the way. It reports whether any time is left.
func (c *conn) heed(keepAlive []string) bool {
	for _, value := range keepAlive {
		for field := range strings.SplitSeq(value, ",") {
			name, text, _ := strings.Cut(strings.TrimSpace(field), "=")
			seconds, err := strconv.Atoi(text)
			if err == nil && seconds >= 0 && seconds < int(idleTimeout/time.Second) && strings.EqualFold(name, "timeout") {
				c.keep = min(c.keep, time.Duration(seconds-1)*time.Second)
			}
		}
	}
	return c.keep > 0
}
