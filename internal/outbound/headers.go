package outbound

import (
	"slices"
	"strings"

	"github.com/sheafapi/sheaf/batch"
)

// maxKept bounds the headers that are kept of an answer, in bytes of names and values.
const maxKept = 8 << 10

// dropped are the headers of an answer that are not kept: the connection's own (RFC 9110,
// section 7.6.1), what is told elsewhere, and cookies, which are credentials.
var dropped = []string{
	"Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
	"Content-Length", "Date", "Set-Cookie",
}

// framing reports whether a header decides where a request ends, what becomes of its
// connection, or for whom it is: only this package sets such a header.
func framing(name string) bool {
	return slices.ContainsFunc(framingHeaders, func(h string) bool { return strings.EqualFold(h, name) })
}

var framingHeaders = []string{
	"Host", "Content-Length", "Transfer-Encoding", "Connection", "Upgrade", "Expect", "TE", "Trailer", "Keep-Alive",
	"Proxy-Connection", "HTTP2-Settings", "Authorization",
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
