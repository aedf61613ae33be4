// Package outbound sends sub-requests to the upstream. It is all of the service's
// egress. What it guarantees (docs/contract.md#how-batches-run):
//
//   - It never sends a request twice, whatever becomes of the connection.
//   - One caller's bytes never reach another's request or answer: connections belong to a
//     store and a token, and carry nothing after an exchange whose end is not certain.
//   - An Answer tells for certain whether any byte of the request was written.
//   - Nothing is written that the call's Permit refuses at that moment.
//   - It goes to the configured host and nowhere else: redirects are answers, and
//     no proxy is taken from the environment. A Guard judges where that leads.
//   - The bytes of a path and a body reach the upstream exactly as they came.
//   - An answer is bounded while it is read, and an attempt in time. An answer takes its memory
//     from the call's share before it is read. Where that has to wait, the upstream is read
//     more slowly, and the attempt's time stands still.
//
// When something fails, the Answer says so in words that a caller may see: no
// address, no host, nothing of the request.
//
// It speaks HTTP/1.1, one request at a time on each connection, and parses answers with
// net/http's own reader. It doesn't use net/http's client, whose goroutines decide what is
// written and when: they may send again what was written before, and switching between them
// costs more than all the rest of a call.
package outbound

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"golang.org/x/net/http/httpguts"
)

// Bounds that need no option.
const (
	dialTimeout     = 10 * time.Second // name, connection and TLS handshake together
	bufferSize      = 16 << 10         // bytes that are written at once
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

	TLS   *tls.Config // what a connection over TLS begins from: authorities, a client's certificate. Default: the system's authorities, no certificate
	Guard *Guard      // judges the addresses that are connected to; nil: all are let through

	Timeout   time.Duration // bound on one attempt, from dialling to the answer's last byte; positive
	MaxAnswer int64         // bytes of an answer's body; positive
	MaxConns  int           // connections, in use and idle, above which no idle one is kept; as many as there are attempts at the same time; positive
	UserAgent string        // empty: the header is not sent

	Headers batch.HeaderPolicy // admits the headers of calls

	Logger *slog.Logger // told of a panic in Handler; default: slog.Default()
}

// Client sends requests to one upstream. It may be used by many goroutines, and
// does not limit how many attempts there are at the same time.
type Client struct {
	to      *template
	handler http.Handler
	idle    pool
	tls     *tls.Config
	network *net.Dialer
	dial    func(ctx context.Context) (net.Conn, error) // with its TLS handshake

	forwarding sync.Once
	transport  *http.Transport // of Forward; nil: not used yet

	timeout   time.Duration
	maxAnswer int64
	userAgent string
	headers   batch.HeaderPolicy
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
	if !httpguts.ValidHeaderFieldValue(o.UserAgent) {
		return nil, errors.New("the user agent can't have control characters")
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	c := &Client{
		to: to, handler: o.Handler, idle: pool{most: o.MaxConns},
		timeout: o.Timeout, maxAnswer: o.MaxAnswer, userAgent: o.UserAgent, headers: o.Headers, log: o.Logger,
	}
	c.dial = c.dialer(o)
	return c, nil
}

// dialer returns the function that connects to the upstream. It takes no proxy from the
// environment: that would see every credential, and "the connection could not be made"
// would no longer be about the upstream.
func (c *Client) dialer(o Options) func(ctx context.Context) (net.Conn, error) {
	c.network = &net.Dialer{Timeout: dialTimeout}
	if o.Guard != nil {
		c.network.ControlContext = o.Guard.control
	}
	if c.to.scheme == "http" {
		return func(ctx context.Context) (net.Conn, error) { return c.network.DialContext(ctx, "tcp", c.to.address) }
	}
	c.tls = &tls.Config{}
	if o.TLS != nil {
		c.tls = o.TLS.Clone()
	}
	c.tls.MinVersion, c.tls.NextProtos = max(c.tls.MinVersion, tls.VersionTLS12), []string{"http/1.1"}
	c.tls.DynamicRecordSizingDisabled = true // one buffer is one TLS record, and so one system call, as without TLS
	secure := &tls.Dialer{NetDialer: c.network, Config: c.tls}
	return func(ctx context.Context) (net.Conn, error) { return secure.DialContext(ctx, "tcp", c.to.address) }
}

// Close closes the connections that are idle. An attempt under way ends as usual.
func (c *Client) Close() {
	c.idle.close()
	c.forward().CloseIdleConnections()
}

// Do makes one attempt and returns what came of it. It returns when the answer is
// complete, when the attempt's time is up or when ctx ends, whichever is first.
func (c *Client) Do(ctx context.Context, call *Call) Answer {
	target := c.to.target(call.Store, call.Path)
	switch {
	case !sendable(target):
		return c.failure(call, false, errPath)
	case ctx.Err() != nil:
		return c.failure(call, false, errInterrupted)
	}
	if err := c.checkHeaders(call); err != nil {
		return c.failure(call, false, err)
	}
	if c.handler != nil {
		return c.decode(ctx, call, c.serve(ctx, call, target))
	}
	return c.decode(ctx, call, c.send(ctx, call, target))
}

// send makes an attempt over the network.
func (c *Client) send(ctx context.Context, call *Call, target string) Answer {
	if !httpguts.ValidHeaderFieldValue(call.Token) || !httpguts.ValidHeaderFieldValue(call.Key) {
		return c.failure(call, false, errCredential)
	}
	x := c.newExchange(call, target)
	defer x.free()
	for {
		conn, err := c.connect(ctx, x)
		if err != nil {
			return c.failure(call, false, x.cause(ctx, err))
		}
		used := conn.used
		a, err := x.over(ctx, conn)
		switch {
		case err == nil:
			return a
		case a.Code > 0 && !errors.Is(err, errWithheld):
			return c.incomplete(a, x.cause(ctx, err))
		case x.sent:
			return c.failure(call, true, x.cause(ctx, err))
		case errors.Is(err, errWithheld):
			return withheld()
		case !used || ctx.Err() != nil:
			return c.failure(call, false, x.cause(ctx, err))
		}
		// The upstream has closed the idle connection, or sent something, and nothing was
		// written. The next one is another: either it works, or it is new and its
		// failure is the end.
	}
}

// connect returns an idle connection of the exchange's owner, or else a new one.
func (c *Client) connect(ctx context.Context, x *exchange) (*conn, error) {
	maxIdle := idleTimeout
	if x.call.Method == http.MethodPost || x.call.Method == http.MethodPatch {
		maxIdle = freshTimeout
	}
	if idle := c.idle.take(x.owner, maxIdle); idle != nil {
		return idle, nil
	}
	ctx, cancel := context.WithDeadline(ctx, x.deadline)
	defer cancel()
	raw, err := c.dial(ctx)
	if err != nil {
		c.idle.drop(nil)
		c.idle.renew(x.owner)
		return nil, err
	}
	return newConn(raw, x.owner), nil
}

// appendHead appends a request's head. What comes from outside was checked: the target,
// the token and the key.
func (c *Client) appendHead(b []byte, call *Call, target string) []byte {
	b = append(append(append(b, call.Method...), ' '), target...)
	b = append(append(b, " HTTP/1.1\r\nHost: "...), c.to.host...)
	b = append(append(b, "\r\nAuthorization: Bearer "...), call.Token...)
	if call.Key != "" && !call.has("Idempotency-Key") {
		b = append(append(b, "\r\nIdempotency-Key: "...), call.Key...)
	}
	if c.userAgent != "" && !call.has("User-Agent") {
		b = append(append(b, "\r\nUser-Agent: "...), c.userAgent...)
	}
	for i := range call.Headers {
		h := &call.Headers[i]
		b = append(append(append(append(b, "\r\n"...), h.Name...), ": "...), h.Value...)
	}
	switch {
	case len(call.Body) > 0:
		if !call.has("Content-Type") {
			b = append(b, "\r\nContent-Type: "+contentType...)
		}
		b = append(b, "\r\nContent-Length: "...)
		b = strconv.AppendInt(b, int64(len(call.Body)), 10)
		if !readsBody(call.Method) {
			b = append(b, "\r\nConnection: close"...)
		}
	case call.Method == http.MethodPost, call.Method == http.MethodPut, call.Method == http.MethodPatch:
		b = append(b, "\r\nContent-Length: 0"...)
	}
	return append(b, "\r\n\r\n"...)
}

// readsBody reports whether every server reads the body of a request with the method. With
// another method some leave it unread, and take it for the next request on the connection:
// such a connection carries no other.
func readsBody(method string) bool {
	return method == http.MethodPost || method == http.MethodPut || method == http.MethodPatch
}

// contentType is that of every body.
const contentType = "application/json"
