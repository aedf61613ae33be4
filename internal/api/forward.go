package api

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/outbound"
)

// hasUnclearEnd reports whether a proxy in front of the service might disagree about where the
// request ends. The request may have had both Content-Length and Transfer-Encoding, and net/http
// hides that; HTTP/1.0 has no Transfer-Encoding. The connection is closed after such a request (RFC
// 9112, section 6.1), so that its last bytes aren't taken for another request.
func hasUnclearEnd(r *http.Request) bool {
	return r.ProtoMajor == 1 && (len(r.TransferEncoding) > 0 || r.ProtoMinor == 0)
}

// forwardable lists the methods that an error suggests. All other methods are forwarded too, except
// tunnels.
const forwardable = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"

// isTunnel reports whether a method would open a tunnel, or show the caller the headers that were
// added on the way.
func isTunnel(method string) bool {
	switch strings.ToUpper(method) {
	case http.MethodConnect, http.MethodTrace, "TRACK":
		return true
	}
	return false
}

// forward lets the upstream answer a call that isn't about batches. segments are those of the
// escaped path. The rules for the path are the same as in a batch's requests. The upstream checks
// the token.
func (s *API) forward(c *call, segments []string) error {
	store, err := url.PathUnescape(segments[3])
	if err != nil || !batch.ValidStoreID(store) {
		return fail(wrongParameter, "The store id in the path must be 1 to %d of the characters A-Z a-z 0-9 _ -.", batch.MaxStoreID)
	}
	if !strings.HasPrefix(c.R.RequestURI, c.R.URL.EscapedPath()) {
		return fail(wrongParameter, "The request target must be a path in which all special characters are percent-encoded.")
	}
	path := "/" + strings.Join(segments[4:], "/")
	if c.R.URL.RawQuery != "" || c.R.URL.ForceQuery {
		path += "?" + c.R.URL.RawQuery
	}
	if err := batch.CheckPath(path); err != nil {
		return fail(wrongParameter, "The path after the store %v.", err)
	}
	c.setNames(batch.OwnerOf(c.R.Header.Get("Authorization")), s.network(c.R))
	leave, err := enter(s.forwards, c.Names, time.Second, "Too many of your calls are being forwarded. Retry when some have ended.")
	if err != nil {
		return err
	}
	defer leave()
	// These headers describe answers of this service. The upstream sends its own.
	for _, name := range []string{"Cache-Control", "X-Content-Type-Options", requestIDHeader} {
		c.W.Header().Del(name)
	}
	err = s.Forward(&forwardWriter{c.W, &c.Status}, c.R, store, path)
	if err == nil {
		return nil
	}
	failed, ok := errors.AsType[*outbound.ForwardError](err)
	switch {
	case ok && failed.Status == http.StatusGatewayTimeout:
		return fail(upstreamTimeout, "Upstream: %v.", err)
	case ok && failed.Status == http.StatusBadRequest:
		return fail(wrongParameter, "Upstream: %v.", err)
	}
	return fail(upstreamFailed, "Upstream: %v.", err)
}

// forwardWriter writes an answer of the upstream, and records its status.
type forwardWriter struct {
	http.ResponseWriter
	code *int
}

// WriteHeader implements http.ResponseWriter.
func (f *forwardWriter) WriteHeader(status int) {
	if status >= http.StatusOK || status == http.StatusSwitchingProtocols {
		*f.code = status
	}
	f.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController find the writer.
func (f *forwardWriter) Unwrap() http.ResponseWriter { return f.ResponseWriter }
