// Package outbound sends sub-requests to the upstream. It is all of the service's
// egress. What it guarantees (wire contract, "How batches run"):
//
//   - It never sends a request twice by itself, whatever becomes of the connection.
//     (Only a GET or HEAD without a body, which net/http may repeat on a connection
//     that the upstream closed under it, is an exception, and harmless.)
//   - An Answer tells for certain whether any byte of the request was written.
//   - Nothing is written that the call's Permit refuses at that moment.
//   - It goes to the configured host and nowhere else: redirects are answers, and
//     no proxy is taken from the environment.
//   - The bytes of a path and a body reach the upstream exactly as they came.
//   - An answer is bounded while it is read, and an attempt in time.
//
// When something fails, the Answer says so in words that a caller may see: no
// address, no host, nothing of the request.
package outbound

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync/atomic"
	"time"
)

// Bounds that need no option.
const (
	dialTimeout     = 10 * time.Second // name, connection and TLS handshake together
	idleTimeout     = 90 * time.Second // how long an idle connection is kept
	bufferSize      = 16 << 10         // bytes of a connection's buffer, one for each direction
	maxAnswerHeader = 256 << 10        // bytes of an answer's header
)

// Options configure a Client.
type Options struct {
	// Template is the upstream's address: http or https, a host, and a path in
	// which {storeId} stands for the store, any number of times or never.
	Template string
	// Handler, if set, answers in this process, with no socket between. Only the
	// path and host of Template count then.
	Handler http.Handler

	Timeout   time.Duration // bound on one attempt, from dialling to the answer's last byte; positive
	MaxAnswer int64         // bytes of an answer's body; positive
	MaxConns  int           // idle connections kept; as many as there are attempts at the same time; positive
	UserAgent string        // empty: the header is not sent

	Logger *slog.Logger // told of a panic in Handler; default: slog.Default()
}

// Client sends requests to one upstream. It may be used by many goroutines, and
// does not limit how many attempts there are at the same time.
type Client struct {
	to        *template
	handler   http.Handler
	transport *http.Transport
	timeout   time.Duration
	maxAnswer int64
	userAgent []string
	log       *slog.Logger
}

// New returns a client. It connects to nothing yet. An error says what is wrong
// with an option and what would be right.
func New(o Options) (*Client, error) {
	to, err := parseTemplate(o.Template)
	if err != nil {
		return nil, err
	}
	if o.Timeout <= 0 || o.MaxAnswer <= 0 || o.MaxConns <= 0 {
		return nil, errors.New("the timeout, the limit of an answer and the number of connections have to be more than 0")
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return &Client{
		to: to, handler: o.Handler, transport: newTransport(o.MaxConns),
		timeout: o.Timeout, maxAnswer: o.MaxAnswer, userAgent: []string{o.UserAgent}, log: o.Logger,
	}, nil
}

// newTransport returns a transport that speaks HTTP/1.1 only: there one connection
// carries one request at a time, so what was written to it belongs to that request.
func newTransport(conns int) *http.Transport {
	dialer := &net.Dialer{Timeout: dialTimeout}
	t := &http.Transport{
		// A proxy of the environment would see every credential, and "the
		// connection could not be made" would no longer be about the upstream.
		Proxy:       nil,
		DialContext: watched(dialer.DialContext, false),
		// One buffer is one TLS record, and so one system call, as without TLS.
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, DynamicRecordSizingDisabled: true},
		Protocols:              new(http.Protocols),
		MaxIdleConns:           conns,
		MaxIdleConnsPerHost:    conns,
		IdleConnTimeout:        idleTimeout,
		MaxResponseHeaderBytes: maxAnswerHeader,
		WriteBufferSize:        bufferSize,
		ReadBufferSize:         bufferSize,
		DisableCompression:     true, // a body is passed on as it came
	}
	t.Protocols.SetHTTP1(true)
	secure := &tls.Dialer{NetDialer: dialer, Config: t.TLSClientConfig}
	t.DialTLSContext = watched(secure.DialContext, true)
	return t
}

// Close closes the connections that are idle. An attempt under way ends as usual.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

// Do makes one attempt and returns what came of it. It returns when the answer is
// complete, when the attempt's time is up or when ctx ends, whichever is first.
func (c *Client) Do(ctx context.Context, call *Call) Answer {
	ctx, cancel := context.WithTimeoutCause(ctx, c.timeout, errTimeout)
	defer cancel()
	target := c.to.target(call.Store, call.Path)
	switch {
	case !sendable(target):
		return c.failure(ctx, call, false, errPath)
	case ctx.Err() != nil:
		return c.failure(ctx, call, false, ctx.Err())
	case c.handler != nil:
		return c.serve(ctx, call, target)
	}
	return c.send(ctx, cancel, call, target)
}

// send makes an attempt over the network.
func (c *Client) send(ctx context.Context, cancel context.CancelFunc, call *Call, target string) Answer {
	a := attempt{permit: call.Permit, cancel: cancel}
	req := c.request(a.trace(ctx), call, target)
	for {
		resp, err := c.transport.RoundTrip(req)
		if err == nil {
			return c.read(ctx, call, resp)
		}
		sent := a.maySend()
		if !sent && a.withheld.Load() {
			return withheld()
		}
		if !sent && a.reused && ctx.Err() == nil {
			// An idle connection that the upstream had closed, noticed before
			// anything was written. The next one is another: either it works,
			// or it is new and its failure is the end.
			a.conn, a.reused, req.Body = nil, false, body(call)
			continue
		}
		return c.failure(ctx, call, sent, err)
	}
}

// request returns the request of an attempt.
//
// net/http sends a request again on a connection that broke if it holds it for
// repeatable: where there is no body, or GetBody could make it anew, and the header
// has an Idempotency-Key. So there is never a GetBody, and the key stands in the map
// under a name that net/http does not look up; to the upstream, case is all one.
func (c *Client) request(ctx context.Context, call *Call, target string) *http.Request {
	r := new(http.Request).WithContext(ctx)
	r.Method = call.Method
	r.URL = &url.URL{Scheme: c.to.scheme, Host: c.to.host, Opaque: target}
	values := [...]string{"Bearer " + call.Token, call.Key}
	r.Header = http.Header{
		"Authorization":   values[0:1:1],
		"idempotency-key": values[1:2:2],
		"User-Agent":      c.userAgent,
	}
	if len(call.Body) > 0 {
		r.Header["Content-Type"] = contentType
		r.Body, r.ContentLength = body(call), int64(len(call.Body))
	}
	return r
}

// contentType is shared by all requests; nothing changes a header's values.
var contentType = []string{"application/json"}

// body returns a reader of a call's body, nil if it has none.
func body(call *Call) io.ReadCloser {
	if len(call.Body) == 0 {
		return nil
	}
	return io.NopCloser(bytes.NewReader(call.Body))
}

// attempt is one attempt over the network, with the connection that it was given, the
// last one if net/http chose again. An idle connection keeps its last attempt, so that
// this must not hold the call.
type attempt struct {
	permit   func() bool
	cancel   context.CancelFunc
	conn     *conn
	reused   bool
	wrote    bool        // to a connection before this one
	withheld atomic.Bool // a connection was barred because the permit refused
}

// trace returns a context under which net/http tells the attempt its connection.
// It does so in the goroutine that called RoundTrip.
func (a *attempt) trace(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) {
			a.wrote = a.maySend()
			a.conn, _ = info.Conn.(*conn)
			a.reused = info.Reused
			if a.conn != nil {
				a.conn.begin(a)
			}
		},
	})
}

// maySend reports whether any byte of the request may have been written. If not,
// none will be.
func (a *attempt) maySend() bool { return a.wrote || a.conn != nil && !a.conn.bar() }
