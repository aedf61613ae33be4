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

// hopByHop are the headers of a connection, which end here whether Connection names them or not
// (RFC 9110, section 7.6.1). Expectations and trailers end here, too: a body is awaited by this
// service, and an upstream could merge a trailer into the headers.
var hopByHop = []string{
	"Connection", "Expect", "Http2-Settings", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Proxy-Connection", "Te", "Trailer",
	"Transfer-Encoding", "Upgrade",
}

// forwardedHeader returns the headers of a call as they are forwarded. trusted says that the
// call comes from a proxy whose word counts: what that says about the caller stays, and this
// service's view is appended. What any other caller says about itself is replaced.
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

// maxForwards returns how many more services an OPTIONS may be forwarded to (RFC 9110, section
// 7.6.2). It is not ok if the request doesn't say.
func maxForwards(r *http.Request) (left int, ok bool) {
	values := r.Header["Max-Forwards"]
	if r.Method != http.MethodOptions || len(values) != 1 {
		return 0, false
	}
	left, err := strconv.Atoi(values[0])
	return left, err == nil && left >= 0
}

// isListed reports whether Connection asks for a header to be taken off, and may. It can't take
// off what is meant for the API: a caller could make it lose the credential, or what a trusted
// proxy says about the caller.
func isListed(connection []string, name string) bool {
	return httpguts.HeaderValuesContainsToken(connection, name) && !batch.EndToEnd(name)
}

// appendTo adds a value to a list, which is one line afterwards.
func appendTo(h http.Header, name, value string) {
	h[name] = []string{strings.Join(append(h[name], value), ", ")}
}

// isOneHost reports whether a Host can stand in a list of hosts.
func isOneHost(host string) bool { return host != "" && !strings.ContainsAny(host, ",;\"' \t") }
