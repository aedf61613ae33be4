// Package outbound sends the requests of batches to the upstream. No other package opens outgoing
// connections. It guarantees (docs/contract.md#how-batches-run):
//
//   - It never sends a request twice, whatever happens to the connection.
//   - One caller's bytes never reach another's request or answer. A connection belongs to one store
//     and token, and is closed after an exchange whose end is not certain.
//   - An Answer says for certain whether any byte of the request was written.
//   - Nothing is written after the call's Permit has refused.
//   - It connects only to the configured host. It doesn't follow redirects or use a proxy from the
//     environment. A Guard decides which addresses of that host are allowed.
//   - Paths and bodies reach the upstream unchanged, byte for byte.
//   - The size of an answer and the time of an attempt are limited. The call's share of memory grows
//     before the answer is read. While the share waits for memory, reading pauses and the attempt's
//     time doesn't run.
//
// If an attempt fails, the Answer says why in words that callers may see. They contain no address,
// no host name, and nothing of the request.
//
// The client speaks HTTP/1.1 with one request at a time on each connection, and parses answers with
// net/http's reader. It doesn't use net/http's client, which decides in its own goroutines what is
// written and when. That client may send a request again, and switching between its goroutines costs
// more than all the rest of a call.
package outbound

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"golang.org/x/net/http/httpguts"
)

// Fixed limits.
const (
	dialTimeout     = 10 * time.Second // for name resolution, connection and TLS handshake together
	bufferSize      = 16 << 10         // the most bytes in one write
	maxAnswerHeader = 256 << 10        // the size of an answer's header, in bytes
)

// Options configure a Client.
type Options struct {
	// Template is the upstream's URL. Its path may contain {storeId} any number of times, which
	// stands for the store.
	Template string
	// Handler, if not nil, answers calls in this process. Then only the path and host of Template
	// matter.
	Handler http.Handler

	TLS   *tls.Config // certificate authorities and client certificate; nil: the system's authorities, no certificate
	Guard *Guard      // decides which addresses are allowed; nil: all are

	Timeout   time.Duration // the longest time of an attempt, from dialing to the answer's last byte; positive
	MaxAnswer int64         // the size of an answer's body, in bytes; positive
	MaxConns  int           // above this number of connections, idle ones are closed; positive
	UserAgent string        // "": the header is not sent

	RequestHeaders []string // headers that calls may have besides the usual ones

	// TrustsProxy reports whether an http.Request.RemoteAddr belongs to a proxy whose X-Forwarded
	// headers Forward trusts; nil: none does.
	TrustsProxy func(remote string) bool

	Logger *slog.Logger // logs panics of Handler; nil: slog.Default()
}

// Client sends requests to one upstream. It is safe for concurrent use and doesn't limit the number
// of concurrent attempts.
type Client struct {
	to      *template
	handler http.Handler
	idle    pool
	tls     *tls.Config
	network *net.Dialer
	dial    func(ctx context.Context) (net.Conn, error) // includes the TLS handshake

	forwarding sync.Once
	transport  *http.Transport // used by Forward; nil: not used yet

	timeout   time.Duration
	maxAnswer int64
	userAgent string
	headers   batch.HeaderPolicy
	log       *slog.Logger

	trustsProxy func(remote string) bool // nil: none is trusted
}

// New returns a client. It does not connect yet. The error says which option is invalid and what
// would be valid.
func New(o Options) (*Client, error) {
	to, err := parseTemplate(o.Template)
	if err != nil {
		return nil, err
	}
	if o.Timeout <= 0 || o.MaxAnswer <= 0 || o.MaxConns <= 0 {
		return nil, errors.New("the timeout, the limit of an answer and the number of connections must be greater than 0")
	}
	if !httpguts.ValidHeaderFieldValue(o.UserAgent) {
		return nil, errors.New("the user agent must not have control characters")
	}
	headers, err := batch.AdmitHeaders(o.RequestHeaders...)
	if err != nil {
		return nil, fmt.Errorf("request headers: %w", err)
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	c := &Client{
		to: to, handler: o.Handler, idle: pool{max: o.MaxConns},
		timeout: o.Timeout, maxAnswer: o.MaxAnswer, userAgent: o.UserAgent, headers: headers, log: o.Logger, trustsProxy: o.TrustsProxy,
	}
	c.dial = c.dialer(o)
	return c, nil
}

// dialer returns the function that connects to the upstream. It ignores proxies in the environment.
// A proxy would see every credential, and a failed connection would say nothing about the upstream.
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
	c.tls.DynamicRecordSizingDisabled = true // so that each buffer is one TLS record and one system call, as without TLS
	secure := &tls.Dialer{NetDialer: c.network, Config: c.tls}
	return func(ctx context.Context) (net.Conn, error) { return secure.DialContext(ctx, "tcp", c.to.address) }
}

// Headers returns the headers that calls may have.
func (c *Client) Headers() batch.HeaderPolicy { return c.headers }

// Address returns the upstream's host and port.
func (c *Client) Address() string { return c.to.address }

// Close closes idle connections. Attempts in flight end as usual.
func (c *Client) Close() {
	c.idle.close()
	c.forward().CloseIdleConnections()
}

// Do makes one attempt and returns its result. It returns when the answer is complete, the attempt
// times out, or ctx is done.
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

// Reach returns nil if a connection can be made, and closes it. It sends no request.
func (c *Client) Reach(ctx context.Context) error {
	if c.handler != nil {
		return nil
	}
	conn, err := c.dial(ctx)
	if err == nil {
		_ = conn.Close()
	}
	return err
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
		// Retry: the idle connection was already closed, or the upstream had sent something on it,
		// and nothing was written. The loop ends at the latest with a new connection, whose failure
		// is final.
	}
}

// connect returns an idle connection of the exchange's owner, or a new one.
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

// appendHead appends a request's head. The target, the token and the key have been validated.
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

// readsBody reports whether every server reads the body of a request with this method. With other
// methods, some servers don't read the body and take it for the next request on the connection. So
// the connection is not reused.
func readsBody(method string) bool {
	return method == http.MethodPost || method == http.MethodPut || method == http.MethodPatch
}

// contentType is the default Content-Type of a body.
const contentType = "application/json"
