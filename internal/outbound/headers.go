package outbound

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/sheafapi/sheaf/internal/batch"
	"golang.org/x/net/http/httpguts"
)

// headerError is the error of a call with a header that is not sent. Its text may be shown to
// a caller: names are the caller's own, values are not quoted.
type headerError struct {
	name string
	why  error
}

func (e *headerError) Error() string {
	return fmt.Sprintf("the request's header %.64q %v; the request was not sent", e.name, e.why)
}

var errHeaderValue = errors.New("has a value that can't be sent")

// checkHeaders is the last door for a call's headers. They were checked when the batch was
// created, but what is admitted may have changed since, and a database can be written to.
func (c *Client) checkHeaders(call *Call) error {
	for i := range call.Headers {
		h := &call.Headers[i]
		err := c.headers.Check(h.Name)
		if err == nil && !httpguts.ValidHeaderFieldValue(h.Value) {
			err = errHeaderValue
		}
		if err != nil {
			return &headerError{h.Name, err}
		}
	}
	return nil
}

// isRefusal reports whether an attempt failed because the call can never be sent as it is.
func isRefusal(err error) bool {
	var header *headerError
	return errors.Is(err, errPath) || errors.Is(err, errCredential) || errors.As(err, &header)
}

// maxKept bounds the headers that are kept of an answer, in bytes of names and values.
const maxKept = 8 << 10

// dropped are the headers of an answer that are not kept: the connection's own (RFC 9110,
// section 7.6.1), what is told elsewhere, and cookies, which are credentials.
var dropped = []string{
	"Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
	"Content-Length", "Date", "Set-Cookie",
}

// Kept returns the headers of the answer that are kept with it, by name; several of one
// name are one, with commas between (RFC 9110, section 5.3). What is beyond 8 KiB is left out.
func (a *Answer) Kept() []batch.Header {
	var out []batch.Header
	for name, values := range a.Header {
		if len(values) > 0 && !slices.Contains(dropped, name) {
			out = append(out, batch.Header{Name: name, Value: strings.ToValidUTF8(strings.Join(values, ", "), "\ufffd")})
		}
	}
	slices.SortFunc(out, func(a, b batch.Header) int { return strings.Compare(a.Name, b.Name) })
	size := 0
	for i := range out {
		if size += len(out[i].Name) + len(out[i].Value); size > maxKept {
			return out[:i:i]
		}
	}
	return out
}
