package outbound

import (
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/sheafapi/sheaf/internal/batch"
	"golang.org/x/net/http/httpguts"
)

// hopByHop are the headers that concern only one connection (RFC 9110, section 7.6.1). They are not
// forwarded, whether or not Connection lists them. Expect isn't forwarded because this service waits
// for the body itself, and Trailer isn't because an upstream could merge a trailer into the headers.
var hopByHop = []string{
	"Connection", "Expect", "Http2-Settings", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Proxy-Connection", "Te", "Trailer",
	"Transfer-Encoding", "Upgrade",
}

// forwardedHeader returns the headers to forward with a call. If the call comes from a trusted proxy,
// its X-Forwarded headers are kept, and this service's values are appended. Otherwise they are
// replaced.
func forwardedHeader(r *http.Request, trusted bool) http.Header {
	out := make(http.Header, len(r.Header)+3)
	for name, values := range r.Header {
		switch {
		case slices.Contains(hopByHop, name), isListed(r.Header["Connection"], name):
		case !batch.PlainHeader(name): // servers read X_Forwarded_For as X-Forwarded-For
		case !trusted && batch.SpeaksForProxy(name):
		default:
			out[name] = slices.Clone(values)
		}
	}
	if left, ok := maxForwards(r); ok && left > 0 {
		out.Set("Max-Forwards", strconv.Itoa(left-1))
	}
	proto := "http"
	if r.TLS != nil {
		proto = "https"
	}
	if from, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		appendTo(out, "X-Forwarded-For", from.Addr().Unmap().WithZone("").String())
	}
	if isOneHost(r.Host) {
		appendTo(out, "X-Forwarded-Host", r.Host)
	}
	appendTo(out, "X-Forwarded-Proto", proto)
	return out
}

// maxForwards returns how many more times an OPTIONS request may be forwarded (RFC 9110, section
// 7.6.2). ok is false if the request doesn't limit that.
func maxForwards(r *http.Request) (left int, ok bool) {
	values := r.Header["Max-Forwards"]
	if r.Method != http.MethodOptions || len(values) != 1 {
		return 0, false
	}
	left, err := strconv.Atoi(values[0])
	return left, err == nil && left >= 0
}

// isListed reports whether Connection lists a header that it may remove. It may not remove headers
// that are meant for the API. Otherwise a caller could remove the credential, or what a trusted proxy
// says about the caller.
func isListed(connection []string, name string) bool {
	return httpguts.HeaderValuesContainsToken(connection, name) && !batch.EndToEnd(name)
}

// appendTo appends a value to a header and joins its values into one line.
func appendTo(h http.Header, name, value string) {
	h[name] = []string{strings.Join(append(h[name], value), ", ")}
}

// isOneHost reports whether a Host header can be an element of a list of hosts.
func isOneHost(host string) bool { return host != "" && !strings.ContainsAny(host, ",;\"' \t") }
