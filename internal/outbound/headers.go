package outbound

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/sheafapi/sheaf/internal/batch"
	"golang.org/x/net/http/httpguts"
)

// headerError means that a call has a header that must not be sent. Callers may see its text, which
// has the header's name but not its value.
type headerError struct {
	name string
	why  error
}

func (e *headerError) Error() string {
	return fmt.Sprintf("the request's header %.64q %v; the request was not sent", e.name, e.why)
}

var errHeaderValue = errors.New("has a value that can't be sent")

// checkHeaders validates a call's headers once more. They were validated when the batch was created,
// but the policy or the database may have been changed since then.
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

// isRefusal reports whether an attempt failed because the call is invalid or the guard forbids the
// address.
func isRefusal(err error) bool {
	var header *headerError
	return errors.Is(err, errPath) || errors.Is(err, errCredential) || errors.Is(err, errGuarded) || errors.As(err, &header)
}

// maxKept is how much of an answer's headers is kept, in bytes of names and values.
const maxKept = 8 << 10

// dropped are the headers of an answer that are not kept: those of the connection (RFC 9110, section
// 7.6.1), those that are reported elsewhere, and cookies, because they are credentials.
var dropped = []string{
	"Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
	"Content-Length", "Date", "Set-Cookie",
}

// Kept returns the headers to store with the answer, sorted by name. Several values of one name are
// joined with commas (RFC 9110, section 5.3). Headers beyond maxKept are left out.
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
