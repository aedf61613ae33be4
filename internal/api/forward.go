package api

import (
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
)

// hasUnclearEnd reports whether a proxy in front could think that a request ends elsewhere: it
// may have come with both Content-Length and Transfer-Encoding, of which net/http removes one
// without a trace, and HTTP/1.0 has no Transfer-Encoding. The connection is closed after such a
// request (RFC 9112, section 6.1), so that nothing behind it is taken for another one.
func hasUnclearEnd(r *http.Request) bool {
	return r.ProtoMajor == 1 && (len(r.TransferEncoding) > 0 || r.ProtoMinor == 0)
}

// forwardable are the methods that an answer names; others are forwarded too, but for tunnels.
const forwardable = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"

// isTunnel reports whether a method would open a tunnel, or return a request with the headers
// that were added on the way to whoever sent it.
func isTunnel(method string) bool {
	switch strings.ToUpper(method) {
	case http.MethodConnect, http.MethodTrace, "TRACK":
		return true
	}
	return false
}

// forward has the upstream answer a call that is no batch's: segments are those of its
// path, escaped, from /api/v3/{storeId}/ on. The same rules hold as for the path of a
// batch's request. The token is the upstream's to judge.
func (s *API) forward(c *call, segments []string) error {
	store, err := url.PathUnescape(segments[3])
	if err != nil || !batch.ValidStoreID(store) {
		return fail(wrongParameter, "The store id in the path must be 1 to %d of the characters A-Z a-z 0-9 _ -.", batch.MaxStoreID)
	}
	if !strings.HasPrefix(c.R.RequestURI, c.R.URL.EscapedPath()) {
		return fail(wrongParameter, "The request's address must be a path in which everything special is percent-encoded.")
	}
	path := "/" + strings.Join(segments[4:], "/")
	if c.R.URL.RawQuery != "" || c.R.URL.ForceQuery {
		path += "?" + c.R.URL.RawQuery
	}
	if err := batch.CheckPath(path); err != nil {
		return fail(wrongParameter, "The path behind the store %v.", err)
	}
	c.setNames(batch.OwnerOf(c.R.Header.Get("Authorization")), s.network(c.R))
	leave, err := enter(s.forwards, c.Names, time.Second, "Too many of your calls are being forwarded. Retry when some have ended.")
	if err != nil {
		return err
	}
	defer leave()
	// What this service says of its own answers, the upstream says of its.
	for _, name := range []string{"Cache-Control", "X-Content-Type-Options", requestIDHeader} {
		c.W.Header().Del(name)
	}
	status, err := s.Forward(&forwarded{c.W, &c.Status}, c.R, store, path)
	switch {
	case err == nil:
		return nil
	case status == http.StatusGatewayTimeout:
		return fail(upstreamTimeout, "Upstream: %v.", err)
	case status == http.StatusBadRequest:
		return fail(wrongParameter, "Upstream: %v.", err)
	}
	return fail(upstreamFailed, "Upstream: %v.", err)
}

// forwarded is the writer of an answer that is the upstream's; it takes note of its status.
type forwarded struct {
	http.ResponseWriter
	code *int
}

// WriteHeader implements http.ResponseWriter.
func (f *forwarded) WriteHeader(status int) {
	if status >= http.StatusOK || status == http.StatusSwitchingProtocols {
		*f.code = status
	}
	f.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (f *forwarded) Unwrap() http.ResponseWriter { return f.ResponseWriter }
