package outbound

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"
)

// maxLine is the longest reason phrase, in bytes.
const maxLine = 1 << 10

// read reads an answer whose header has arrived. It calls hold before it allocates memory for the body.
// If it returns an error, the answer has the part of the body that arrived. read doesn't close the body,
// because that would read the rest of it.
func (c *Client) read(call *Call, resp *http.Response, hold func(n int64) error) (Answer, error) {
	a := Answer{Outcome: Answered, Code: resp.StatusCode, Line: line(resp), Header: resp.Header}
	if resp.Body == http.NoBody || call.Method == http.MethodHead || resp.StatusCode == http.StatusSwitchingProtocols {
		return a, nil
	}
	if resp.ContentLength > c.maxAnswer {
		return c.tooLarge(a.Code), nil
	}
	var err error
	if a.Body, err = readBody(resp, c.maxAnswer, hold); int64(len(a.Body)) > c.maxAnswer {
		return c.tooLarge(a.Code), nil
	}
	return a, err
}

// incomplete returns the Answer if only a part of it arrived. The request isn't in doubt, because the
// status line reports its outcome.
func (c *Client) incomplete(a Answer, err error) Answer {
	a.Incomplete = true
	a.Line += "; the answer is incomplete: " + c.missing(err)
	return a
}

// tooLarge returns the Answer if the upstream's is larger than the limit. code is the upstream's
// status code, which says whether it carried out the request.
func (c *Client) tooLarge(code int) Answer {
	return Answer{
		Outcome: TooLarge, Code: http.StatusBadGateway,
		Line: "Bad Gateway: the upstream answered " + strconv.Itoa(code) + ", and the answer is larger than the limit of " + size(c.maxAnswer),
	}
}

// withheld returns the Answer of a request that Permit has refused.
func withheld() Answer {
	return Answer{
		Outcome: Withheld, Code: http.StatusBadGateway,
		Line: "Bad Gateway: another node took over before the request was sent",
	}
}

// size formats a number of bytes, with a unit if that is exact, as in 5 MiB.
func size(n int64) string {
	switch {
	case n%(1<<20) == 0:
		return strconv.FormatInt(n>>20, 10) + " MiB"
	case n%(1<<10) == 0:
		return strconv.FormatInt(n>>10, 10) + " KiB"
	}
	return strconv.FormatInt(n, 10) + " bytes"
}

// firstRead is how many bytes of a body are read before its buffer grows.
const firstRead = 16 << 10

// trust limits the memory that is allocated for a body of known length, as a multiple of what the
// upstream has already sent.
const trust = 32

// scratch holds buffers for the beginnings of bodies.
var scratch = sync.Pool{New: func() any {
	b := make([]byte, firstRead)
	return &b
}}

// readBody reads a body, up to one byte more than limit. It returns nil for an empty body. If it returns
// an error, it also returns the part that arrived. It calls hold with the size of each buffer before it
// allocates the buffer.
//
// The buffer grows with what has arrived, so an upstream that announces much but sends little takes
// little memory. Once the upstream has sent a part of what it announced, the buffer grows faster, which
// saves copies.
func readBody(resp *http.Response, limit int64, hold func(n int64) error) ([]byte, error) {
	maxRead := limit + 1
	if resp.ContentLength >= 0 {
		maxRead = resp.ContentLength
		if maxRead <= firstRead {
			if err := hold(maxRead); err != nil {
				return nil, err
			}
			b := make([]byte, maxRead)
			n, err := io.ReadFull(resp.Body, b)
			return b[:n], err
		}
	}
	first := scratch.Get().(*[]byte)
	defer scratch.Put(first)
	b := (*first)[:0]
	if err := hold(firstRead); err != nil {
		return nil, err
	}
	for {
		n, err := resp.Body.Read(b[len(b):min(int64(cap(b)), maxRead)])
		b = b[:len(b)+n]
		switch {
		case err == io.EOF || err == nil && int64(len(b)) == maxRead:
			if cap(b) > firstRead && 4*len(b) > 3*cap(b) {
				return b, nil
			}
			if len(b) == 0 {
				return nil, nil
			}
			return bytes.Clone(b), nil
		case err != nil:
			return bytes.Clone(b), err
		case len(b) == cap(b):
			size := min(2*int64(cap(b)), maxRead)
			if resp.ContentLength >= 0 {
				size = min(trust*int64(cap(b)), maxRead)
			}
			if err := hold(size); err != nil {
				return bytes.Clone(b), err
			}
			b = append(make([]byte, 0, size), b...)
		}
	}
}

// line returns an answer's reason phrase in a form that can be stored and shown: valid UTF-8 without
// control characters, of at most maxLine bytes. If it is empty, line returns the standard phrase.
func line(resp *http.Response) string {
	_, s, _ := strings.Cut(resp.Status, " ")
	if !plain(s) {
		s = strings.ToValidUTF8(s, "\uFFFD")
		s = strings.Map(func(r rune) rune {
			if unicode.IsControl(r) {
				return -1
			}
			return r
		}, s)
	}
	if s = strings.TrimSpace(s); len(s) > maxLine {
		end := maxLine
		for !utf8.RuneStart(s[end]) {
			end--
		}
		s = s[:end]
	}
	if s == "" {
		return http.StatusText(resp.StatusCode)
	}
	return s
}

// plain reports whether s is printable ASCII. Nearly every reason phrase is.
func plain(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// Failures that don't come from the network.
var (
	errPath       = errors.New("the path is not valid in a request line")
	errCredential = errors.New("the credential is not valid in a header")
	errPanicked   = errors.New("the upstream's handler panicked")
)

// failure returns the Answer of an attempt that got no answer. sent says whether a byte of the request
// may have been written.
func (c *Client) failure(call *Call, sent bool, err error) Answer {
	a := Answer{Outcome: NotSent, Code: http.StatusBadGateway}
	if isRefusal(err) {
		a.Outcome = Refused
	}
	var what string
	if sent {
		a.Outcome = Doubt
		what = c.unanswered(err)
		if call.Method == http.MethodPost || call.Method == http.MethodPatch {
			what += "; it is not known whether the upstream carried the request out"
		}
	} else {
		what = c.unsent(err)
	}
	if errors.Is(err, errTimeout) || !sent && isTimeout(err) {
		a.Code = http.StatusGatewayTimeout
	}
	a.Line = http.StatusText(a.Code) + ": " + what
	return a
}
