package outbound

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/http/httputil"
	"net/textproto"
	"net/url"
	"time"
)

// forwardIdle is how long a forwarded call may stand still: its body on the way to the
// upstream, and its answer on the way back.
const forwardIdle = 5 * time.Minute

// A ForwardError says in words that a caller may see why a call was not forwarded, or has
// no answer. Nothing was sent to the caller.
type ForwardError struct {
	Status int // 502 or 504; 400: the path can't be sent as it is
	Line   string
}

func (e *ForwardError) Error() string { return e.Line }

// Forward sends a caller's own call to the upstream and streams the answer back, both as
// they come: the path and query byte for byte below the store's root, the method, body
// and headers (see forwardedHeader). trusted says that the call comes from a trusted proxy.
// A connection is not upgraded. The answer's header has to come within the client's timeout; after that both ways may take as long as they move. An error is a
// *ForwardError. When an answer breaks off, it panics with http.ErrAbortHandler, as a handler does.
func (c *Client) Forward(w http.ResponseWriter, r *http.Request, store, path string, trusted bool) error {
	target := c.to.target(store, path)
	u, err := url.ParseRequestURI(target)
	if !sendable(target) || err != nil || u.RequestURI() != target {
		return &ForwardError{http.StatusBadRequest, "the path can't be sent as it is"}
	}
	if left, ok := maxForwards(r); ok && left == 0 {
		w.WriteHeader(http.StatusNoContent) // this service is the last recipient
		return nil
	}
	out := &moving{ResponseWriter: w, control: http.NewResponseController(w)}
	in := r.WithContext(r.Context())
	in.Header, in.Trailer, in.Body = forwardedHeader(r, trusted), nil, &movingBody{r.Body, out}
	out.moved()
	_ = out.control.EnableFullDuplex() // an answer may begin before the body has ended; HTTP/2 always lets it
	if c.handler != nil {
		in.URL, in.RequestURI, in.Host = u, target, c.to.host
		c.handler.ServeHTTP(out, in)
		if out.malformed {
			return c.unforwarded(r.Context(), errMalformed)
		}
		return nil
	}
	u.Scheme, u.Host = c.to.scheme, c.to.host
	var failed *ForwardError
	proxy := httputil.ReverseProxy{
		Transport: c.forward(),
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out = limitInformational(p.Out)
			p.Out.URL, p.Out.Host = u, ""
			for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
				if values, ok := p.In.Header[name]; ok { // which ReverseProxy takes off
					p.Out.Header[name] = values
				}
			}
			if _, told := p.In.Header["User-Agent"]; !told {
				p.Out.Header["User-Agent"] = nil // not net/http's own
			}
		},
		ModifyResponse: func(resp *http.Response) error {
			// An upgrade was not asked for: net/http would hand the caller's connection over.
			if resp.StatusCode < 200 || resp.StatusCode > maxStatus {
				return errMalformed
			}
			return nil
		},
		FlushInterval: -1, // at once
		ErrorLog:      log.New(io.Discard, "", 0),
		ErrorHandler:  func(_ http.ResponseWriter, _ *http.Request, err error) { failed = c.unforwarded(r.Context(), err) },
	}
	proxy.ServeHTTP(out, in)
	if failed != nil {
		return failed
	}
	return nil
}

// limitInformational lets the request fail after too many informational answers.
func limitInformational(r *http.Request) *http.Request {
	n := 0
	return r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(int, textproto.MIMEHeader) error {
			if n++; n > maxInformational {
				return errMalformed
			}
			return nil
		},
	}))
}

// forward returns the transport of forwarded calls. It connects as everything else does.
// Each call has a connection to itself. A caller's credential may be in any header or in
// the path, so nothing tells which calls could share one; and on one that carries a single call
// no request can be sent again, and no late byte be taken for another answer.
func (c *Client) forward() *http.Transport {
	c.forwarding.Do(func() {
		c.transport = &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return c.network.DialContext(ctx, "tcp", c.to.address)
			},
			TLSClientConfig: c.tls, TLSHandshakeTimeout: dialTimeout,
			ResponseHeaderTimeout: c.timeout, MaxResponseHeaderBytes: maxAnswerHeader,
			DisableKeepAlives: true, DisableCompression: true,
		}
	})
	return c.transport
}

// unforwarded says what a failure means to the caller.
func (c *Client) unforwarded(ctx context.Context, err error) *ForwardError {
	switch {
	case ctx.Err() != nil:
		return &ForwardError{http.StatusBadGateway, "the call was interrupted before an answer came"}
	case isTimeout(err):
		return &ForwardError{http.StatusGatewayTimeout, "no answer within " + c.timeout.String()}
	}
	if why := dialFailure(err); why != "" {
		return &ForwardError{http.StatusBadGateway, "no answer from the upstream (" + why + ")"}
	}
	return &ForwardError{http.StatusBadGateway, "the upstream's answer could not be read"}
}

// moving is a caller's connection whose deadlines move on as long as bytes do.
type moving struct {
	http.ResponseWriter
	control   *http.ResponseController
	malformed bool // a handler's answer that nobody may send; it goes nowhere
}

// moved sets the deadlines anew. Writers that know none, such as a test's, go without.
func (m *moving) moved() {
	limit := time.Now().Add(forwardIdle)
	_, _ = m.control.SetReadDeadline(limit), m.control.SetWriteDeadline(limit)
}

func (m *moving) WriteHeader(code int) {
	if m.malformed = m.malformed || code > maxStatus; m.malformed {
		clear(m.Header())
		return
	}
	m.ResponseWriter.WriteHeader(code)
}

func (m *moving) Write(p []byte) (int, error) {
	if m.malformed {
		return 0, errMalformed
	}
	m.moved()
	return m.ResponseWriter.Write(p)
}

// FlushError is for http.ResponseController.
func (m *moving) FlushError() error {
	if m.malformed {
		return errMalformed
	}
	return m.control.Flush()
}

// Unwrap is for http.ResponseController.
func (m *moving) Unwrap() http.ResponseWriter { return m.ResponseWriter }

// movingBody is the body that comes over it.
type movingBody struct {
	io.ReadCloser
	over *moving
}

func (b *movingBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if n > 0 && !errors.Is(err, io.EOF) {
		b.over.moved()
	}
	return n, err
}
