package outbound

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// Limits of an answer and of what may precede it.
const (
	maxStatus        = 599
	maxEmptyLines    = 8
	maxInformational = 16
)

// errMalformed means that an answer isn't valid HTTP.
var errMalformed = errors.New("the answer is malformed")

// response reads the head of an answer to a request with the method. It skips empty lines and
// informational answers before that head. written must return true once the last write of the request has
// begun; an answer that comes earlier is odd. Unless an answer is odd, the next one on the connection
// certainly begins where the body of this one ends. If response returns an error, resp is the part of the
// final answer that was read; nil if not even its status line was read.
func response(c *conn, method string, written *atomic.Bool) (resp *http.Response, f flaws, err error) {
	req := &http.Request{Method: method}
	clean := true
	for range maxInformational + 1 {
		lines, err := skipEmptyLines(c)
		if err != nil {
			return nil, f, err
		}
		clean = clean && lines == 0 && written.Load()
		if head, _ := c.reader.Peek(c.reader.Buffered()); isRegular(head) {
			resp, err = http.ReadResponse(c.reader, req)
		} else {
			resp, f, err = readLeniently(c, req)
		}
		switch {
		case resp == nil:
			return nil, f, err
		case resp.StatusCode < 100 || resp.StatusCode > maxStatus:
			return nil, f, errMalformed
		case resp.StatusCode >= 200 || resp.StatusCode == http.StatusSwitchingProtocols:
			f.odd = f.odd || !clean || err != nil || !persists(resp, method) || !c.heed(resp.Header["Keep-Alive"])
			return resp, f, err
		case err != nil:
			return nil, f, err
		}
		clean = false // the request doesn't ask for it, and some servers send a body with it
	}
	return nil, f, errMalformed
}

// skipEmptyLines skips empty lines, which some servers send after an answer. n is their length in
// bytes.
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

// persists reports whether the connection stays open after an answer and the end of its body is
// certain. If an answer that must not have a body announces one, its end isn't certain, because some
// servers send that body anyway.
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

// heed shortens the time that the connection may be idle to a second less than the upstream's
// Keep-Alive header allows. Within that time, a POST may use the connection too. heed reports whether
// any time remains.
func (c *conn) heed(keepAlive []string) bool {
	for _, value := range keepAlive {
		for field := range strings.SplitSeq(value, ",") {
			name, text, _ := strings.Cut(strings.TrimSpace(field), "=")
			seconds, err := strconv.Atoi(text)
			if err == nil && seconds >= 0 && strings.EqualFold(name, "timeout") {
				most := int(idleTimeout/time.Second) + 1
				c.keep, c.promised = min(c.keep, time.Duration(min(seconds, most)-1)*time.Second), true
			}
		}
	}
	return c.keep > 0
}
