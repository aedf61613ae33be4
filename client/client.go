// Package client creates batches of HTTP requests on a Sheaf service and reads their results. It
// also works with other servers that implement the batch API of docs/contract.md. If such
// a server doesn't support what Sheaf adds, such as long polling, events and NDJSON, the client does
// without it.
//
// A call is retried if it fails for a temporary reason: no connection, or a status of 408, 429, 502,
// 503 or 504. The client waits as long as Retry-After says, or else with exponential backoff, until
// Options.RetryFor has passed or the context is done. A retry never carries out anything twice.
// Create always sends a deduplication key and is not retried once servers may have forgotten the key.
// Retry is retried only after a 429 answer.
//
// An unsuccessful answer from the server is returned as an *Error. The package depends only on the
// standard library.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Options configure a Client or an Operator.
type Options struct {
	// Server is the URL of the service, such as http://127.0.0.1:8080. Required.
	Server string
	// Store is the store (tenant) whose batches the client uses. Required for New.
	Store string
	// Token is sent as a Bearer token. Required.
	Token string

	// HTTPClient makes the calls. Its Timeout must be 0, or it cuts off Wait and Stream.
	// Default: a client with its own connections that does not follow redirects.
	HTTPClient *http.Client
	// UserAgent is the value of the User-Agent header. Default: sheaf-client.
	UserAgent string

	// RetryFor is how long a call that fails for a temporary reason is retried.
	// Default: 2 minutes. If negative, calls are not retried.
	RetryFor time.Duration
	// OnRetry, if not nil, is called before each retry with the error and the time until the
	// retry. It may be called concurrently and must not block.
	OnRetry func(err error, pause time.Duration)
}

// Client creates and reads the batches of one store. Its methods are safe for concurrent use.
type Client struct {
	options Options
	batch   string // the URL of the store's batches
	http    *http.Client
}

const (
	// callTimeout is how long the server may be silent, in addition to the time that a call asks
	// it to wait. A stream of events sends something every 15 seconds.
	callTimeout = time.Minute
	// waitFor is how long Wait asks the server to wait for a change, in seconds.
	waitFor = 30
	// firstPause and lastPause are the shortest and the longest pause between attempts, before
	// jitter.
	firstPause = 250 * time.Millisecond
	lastPause  = 15 * time.Second
	// dedupFor is how long Create is retried. Servers remember its key for an hour after the
	// first attempt that reached them.
	dedupFor = 50 * time.Minute
	// maxAnswer is the maximum size of an answer that is read into memory, in bytes. The status of
	// a batch with 500 answers of 5 MiB is larger; Results can read it.
	maxAnswer = 1 << 30
)

// New returns a client. It does not connect to the server. The error says which option is invalid.
func New(o Options) (*Client, error) {
	base, err := o.check()
	switch {
	case err != nil:
		return nil, err
	case o.Store == "":
		return nil, errors.New("a store is required")
	case !validStore(o.Store):
		return nil, fmt.Errorf("the store is %q but must be 1 to 64 of the characters A-Z a-z 0-9 _ -", o.Store)
	}
	return newClient(o, base.JoinPath("api", "v3", o.Store, "batch").String()), nil
}

// check validates all options except the store and returns the server's URL.
func (o *Options) check() (*url.URL, error) {
	base, err := url.Parse(o.Server)
	switch {
	case err != nil || base.Scheme != "http" && base.Scheme != "https" || base.Host == "":
		return nil, fmt.Errorf("the server is %q but must be a URL such as http://127.0.0.1:8080", o.Server)
	case base.User != nil || base.RawQuery != "" || base.Fragment != "":
		return nil, errors.New("the server's URL must not have a user name, query or fragment")
	case o.Token == "":
		return nil, errors.New("a token is required")
	case strings.ContainsFunc(o.Token, func(r rune) bool { return r <= ' ' || r >= 0x7f }):
		return nil, errors.New("the token has an invalid character: a space, a control character or one beyond ASCII")
	}
	return base, nil
}

// newClient returns a client whose calls go to paths below address.
func newClient(o Options, address string) *Client {
	if o.RetryFor == 0 {
		o.RetryFor = 2 * time.Minute
	}
	if o.UserAgent == "" {
		o.UserAgent = "sheaf-client"
	}
	c := &Client{options: o, batch: address, http: o.HTTPClient}
	if c.http == nil {
		c.http = &http.Client{
			Transport: &http.Transport{
				Proxy: http.ProxyFromEnvironment, MaxIdleConnsPerHost: 16, IdleConnTimeout: time.Minute, ForceAttemptHTTP2: true,
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	return c
}

// validStore reports whether store is a valid store ID.
func validStore(store string) bool {
	return len(store) <= 64 && !strings.ContainsFunc(store, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_' && r != '-'
	})
}

// call is one call of the API.
type call struct {
	method string
	path   string // relative to Client.batch
	query  url.Values
	body   []byte
	accept string
	lastID string        // Last-Event-ID
	wait   time.Duration // how long the server is asked to wait
	once   bool          // carrying it out twice does harm, so it is retried only after a 429

	validate bool   // send tag, so that an unchanged answer is not sent again
	tag      string // the ETag of the last answer (RFC 9110, section 8.8.3)

	creates bool // it has a deduplication key, so it is safe to retry for dedupFor
}

// open makes the call, with retries, and returns the successful answer. The caller must close its body.
func (c *Client) open(ctx context.Context, what *call) (resp *http.Response, err error) {
	err = c.retry(ctx, what, func() error {
		resp, err = c.attempt(ctx, what) //nolint:bodyclose // the caller closes it
		return err
	})
	return resp, err
}

// errNotModified means that the answer is the same as the last one.
var errNotModified = errors.New("not modified")

// ask makes the call, with retries, and decodes the answer into out. It also retries the call if the
// answer ends early.
func (c *Client) ask(ctx context.Context, what *call, out any) error {
	return c.retry(ctx, what, func() error {
		resp, err := c.attempt(ctx, what)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode == http.StatusNotModified {
			return errNotModified
		}
		what.tag = resp.Header.Get("Etag")
		text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
		switch {
		case err != nil:
			return &transportError{server: c.options.Server, err: err}
		case len(text) > maxAnswer:
			return fmt.Errorf("the answer from %s is longer than %d bytes", c.options.Server, maxAnswer)
		}
		if err := json.Unmarshal(text, out); err != nil {
			return fmt.Errorf("%s answered %s, but not with JSON of the batch API (%w); check the server's URL", c.options.Server, resp.Status, err)
		}
		return nil
	})
}

// retry makes attempts until one succeeds or fails for good.
func (c *Client) retry(ctx context.Context, what *call, attempt func() error) error {
	r := c.newRetrier(what)
	for {
		err := attempt()
		if err == nil || !r.pause(ctx, err) {
			return err
		}
	}
}

// retrier decides whether a call is retried.
type retrier struct {
	c        *Client
	once     bool
	retryFor time.Duration
	began    time.Time
	failures int
}

func (c *Client) newRetrier(what *call) *retrier {
	r := &retrier{c: c, once: what.once, retryFor: c.options.RetryFor}
	if what.creates {
		r.retryFor = min(r.retryFor, dedupFor)
	}
	r.reset()
	return r
}

// reset forgets earlier failures after progress.
func (r *retrier) reset() { r.failures, r.began = 0, time.Now() }

// pause waits before the next attempt. It returns false if no attempt must follow: the failure
// isn't temporary, RetryFor has passed, or ctx is done.
func (r *retrier) pause(ctx context.Context, err error) bool {
	pause, ok := backoff(err, r.failures, r.once)
	if !ok || ctx.Err() != nil || time.Since(r.began)+pause > r.retryFor {
		return false
	}
	r.failures++
	if r.c.options.OnRetry != nil {
		r.c.options.OnRetry(err, pause)
	}
	return sleep(ctx, pause) == nil
}

// attempt makes the call once. An unsuccessful answer is an *Error.
func (c *Client) attempt(ctx context.Context, what *call) (*http.Response, error) {
	address := c.batch + what.path
	if len(what.query) > 0 {
		address += "?" + what.query.Encode()
	}
	ctx, cancel := context.WithCancelCause(ctx)
	silence := time.AfterFunc(callTimeout+what.wait, func() { cancel(errTimeout) })
	var content io.Reader
	if what.body != nil {
		content = bytes.NewReader(what.body)
	}
	q, err := http.NewRequestWithContext(ctx, what.method, address, content)
	if err != nil {
		silence.Stop()
		cancel(nil)
		return nil, err
	}
	q.Header.Set("Authorization", "Bearer "+c.options.Token)
	q.Header.Set("User-Agent", c.options.UserAgent)
	if what.body != nil {
		q.Header.Set("Content-Type", "application/json")
	}
	if what.accept != "" {
		q.Header.Set("Accept", what.accept)
	}
	if what.validate && what.tag != "" {
		q.Header.Set("If-None-Match", what.tag)
	}
	if what.lastID != "" {
		q.Header.Set("Last-Event-ID", what.lastID)
	}
	resp, err := c.http.Do(q)
	if err != nil {
		defer cancel(nil)
		defer silence.Stop()
		return nil, &transportError{server: c.options.Server, err: timedOut(ctx, unwrapURL(err))}
	}
	silence.Stop()
	resp.Body = &body{ReadCloser: resp.Body, ctx: ctx, cancel: cancel, silence: silence}
	if resp.StatusCode/100 != 2 && (resp.StatusCode != http.StatusNotModified || !what.validate) {
		defer resp.Body.Close()
		return nil, newError(resp)
	}
	return resp, nil
}

// body is an answer's body. A read fails if the server is silent for callTimeout.
type body struct {
	io.ReadCloser
	ctx     context.Context //nolint:containedctx // the call's own, which ends with its body
	cancel  context.CancelCauseFunc
	silence *time.Timer // calls cancel
}

func (b *body) Read(p []byte) (int, error) {
	b.silence.Reset(callTimeout) // the caller may wait as long as it likes between reads
	n, err := b.ReadCloser.Read(p)
	b.silence.Stop()
	if err != nil && !errors.Is(err, io.EOF) {
		err = timedOut(b.ctx, err)
	}
	return n, err
}

func (b *body) Close() error {
	err := b.ReadCloser.Close()
	b.cancel(nil)
	return err
}

// timedOut returns errTimeout if that is why the call ended, and otherwise err.
func timedOut(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), errTimeout) {
		return errTimeout
	}
	return err
}

// sleep waits. It returns an error if ctx is done first.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// backoff reports whether a failure is temporary, and how long to wait. failures counts the earlier ones.
func backoff(err error, failures int, once bool) (pause time.Duration, ok bool) {
	pause = min(firstPause<<min(failures, 10), lastPause)
	pause = pause/2 + rand.N(pause/2+1) //nolint:gosec // jitter needs no secure randomness
	if refused, ok := errors.AsType[*Error](err); ok {
		switch refused.StatusCode {
		case http.StatusTooManyRequests:
		case http.StatusRequestTimeout, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
			if once {
				return 0, false
			}
		default:
			return 0, false
		}
		return max(pause, refused.RetryAfter), true
	}
	if _, ok := errors.AsType[*transportError](err); ok && !once {
		return pause, true
	}
	return 0, false
}

// retryAfter returns the value of Retry-After (RFC 9110, section 10.2.3), at most a day if it is in
// seconds; 0: the header is missing.
func retryAfter(h http.Header, now time.Time) time.Duration {
	text := h.Get("Retry-After")
	if seconds, err := strconv.Atoi(text); err == nil && seconds >= 0 {
		return time.Duration(min(seconds, 24*3600)) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(at.Sub(now), 0)
	}
	return 0
}
