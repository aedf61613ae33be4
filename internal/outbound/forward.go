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

// forwardIdle is how long a forwarded call may go without any byte of its body or its answer.
const forwardIdle = 5 * time.Minute

// A ForwardError says why a call was not forwarded or has no answer. Nothing was sent to the caller.
type ForwardError struct {
	Status int    // 400: the path is invalid; otherwise 502 or 504
	Line   string // what happened, in words that callers may see
}

func (e *ForwardError) Error() string { return e.Line }

// Forward sends a call to the upstream and streams its answer to the caller. It forwards the method,
// the body, the headers (see forwardedHeader), and the path and query unchanged below the store's
// URL. Connections are not upgraded.
//
// The answer's header must come within the client's timeout. After that, the call may take any time
// as long as data flows. An error is a *ForwardError. If the answer ends early, Forward panics with
// http.ErrAbortHandler.
func (c *Client) Forward(w http.ResponseWriter, r *http.Request, store, path string) error {
	target := c.to.target(store, path)
	u, err := url.ParseRequestURI(target)
	if !sendable(target) || err != nil || u.RequestURI() != target {
		return &ForwardError{http.StatusBadRequest, "the path can't be sent as it is"}
	}
	if left, ok := maxForwards(r); ok && left == 0 {
		w.WriteHeader(http.StatusNoContent) // Max-Forwards is 0, so this service is the last recipient
		return nil
	}
	out := &forwardWriter{ResponseWriter: w, control: http.NewResponseController(w)}
	in := r.WithContext(r.Context())
	in.Header, in.Trailer, in.Body = forwardedHeader(r, c.trustsProxy != nil && c.trustsProxy(r.RemoteAddr)), nil, &forwardBody{r.Body, out}
	out.extend()
	_ = out.control.EnableFullDuplex() // an answer may begin before the body has ended; always so in HTTP/2
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
				if values, ok := p.In.Header[name]; ok { // ReverseProxy removes them
					p.Out.Header[name] = values
				}
			}
			if _, ok := p.In.Header["User-Agent"]; !ok {
				p.Out.Header["User-Agent"] = nil // keeps net/http from adding its own
			}
		},
		ModifyResponse: func(resp *http.Response) error {
			// Refuse upgrades, which nobody requested: net/http would hand over the connection.
			if resp.StatusCode < 200 || resp.StatusCode > maxStatus {
				return errMalformed
			}
			return nil
		},
		FlushInterval: -1, // flush at once
		ErrorLog:      log.New(io.Discard, "", 0),
		ErrorHandler:  func(_ http.ResponseWriter, _ *http.Request, err error) { failed = c.unforwarded(r.Context(), err) },
	}
	proxy.ServeHTTP(out, in)
	if failed != nil {
		return failed
	}
	return nil
}

// limitInformational makes the request fail after too many informational answers.
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

// forward returns the transport of forwarded calls. Each call uses its own connection, for two
// reasons. The credential may be in any header or in the path, so it is unknown which calls could
// share a connection. And on its own connection, no request is sent twice, and no late byte can be
// taken for another call's answer.
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

// unforwarded returns the error that describes a failure to the caller.
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

// forwardWriter writes to the caller and extends its connection's deadlines as long as data flows.
type forwardWriter struct {
	http.ResponseWriter
	control   *http.ResponseController
	malformed bool // the handler sent an invalid status; its answer is discarded
}

// extend extends the deadlines. Some writers in tests don't support them.
func (m *forwardWriter) extend() {
	limit := time.Now().Add(forwardIdle)
	_, _ = m.control.SetReadDeadline(limit), m.control.SetWriteDeadline(limit)
}

func (m *forwardWriter) WriteHeader(code int) {
	if m.malformed = m.malformed || code > maxStatus; m.malformed {
		clear(m.Header())
		return
	}
	m.ResponseWriter.WriteHeader(code)
}

func (m *forwardWriter) Write(p []byte) (int, error) {
	if m.malformed {
		return 0, errMalformed
	}
	m.extend()
	return m.ResponseWriter.Write(p)
}

// FlushError implements the method that http.ResponseController calls.
func (m *forwardWriter) FlushError() error {
	if m.malformed {
		return errMalformed
	}
	return m.control.Flush()
}

// Unwrap gives http.ResponseController access to the underlying writer.
func (m *forwardWriter) Unwrap() http.ResponseWriter { return m.ResponseWriter }

// forwardBody is the call's body. Reading it extends the deadlines too.
type forwardBody struct {
	io.ReadCloser
	writer *forwardWriter
}

func (b *forwardBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if n > 0 && !errors.Is(err, io.EOF) {
		b.writer.extend()
	}
	return n, err
}
