// Package client hands batches of HTTP requests to a Sheaf service, and reads what became
// of them. It works with every server of the same wire contract: where a server does not
// know what Sheaf adds (waiting, events, lines), the client does without.
//
// A call that fails for a reason that may pass (no connection, 429, 502, 503, 504) is made
// again, as Retry-After says or with growing pauses, until Options.RetryFor is over or the
// context ends. Nothing is done twice by that: Create always has a deduplication key, and is not
// repeated for longer than servers know that; Retry is repeated only where the server has refused it.
//
// The package needs nothing but the standard library.
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

// Options say which service a Client talks to, and as who.
type Options struct {
	Server string // the service's address, such as http://127.0.0.1:8080
	Store  string // the store (tenant)
	Token  string // the caller's token

	HTTPClient *http.Client // Default: one of its own. One with a Timeout cuts Wait and Stream off.
	UserAgent  string       // Default: sheaf-client

	// RetryFor is how long a call is made again that fails for a reason that may pass.
	// Default: 2 minutes; negative: it is made once.
	RetryFor time.Duration
	// OnRetry, if set, is told of each failure after which a call is made again. It may be called
	// from many goroutines, and must not wait.
	OnRetry func(err error, pause time.Duration)
}

// Client is a caller's access to one store. Its methods may be called from many
// goroutines.
type Client struct {
	options Options
	batch   string // the address of the store's batches
	http    *http.Client
}

const (
	// callTimeout is how long the server may be silent, beside the time that it is asked to
	// wait. While it sends events it is heard of every 15 seconds.
	callTimeout = time.Minute
	// waitFor is how long the server is asked to wait for news, in seconds.
	waitFor = 30
	// firstPause and lastPause bound the pauses between attempts.
	firstPause = 250 * time.Millisecond
	lastPause  = 15 * time.Second
	// dedupFor is how long a create is repeated: servers know its key for an hour (wire contract,
	// "Create") from the first attempt that came through.
	dedupFor = 50 * time.Minute
	// mostAnswer bounds an answer that is held in memory, in bytes: 500 answers of 5 MiB, and
	// what JSON adds, don't fit; those are for Results.
	mostAnswer = 1 << 30
)

// New returns a client. It makes no call yet.
func New(o Options) (*Client, error) {
	base, err := o.check()
	switch {
	case err != nil:
		return nil, err
	case o.Store == "":
		return nil, errors.New("a store is required")
	case !validStore(o.Store):
		return nil, fmt.Errorf("the store is %q and has to be 1 to 64 of the characters A-Z a-z 0-9 _ -", o.Store)
	}
	return newClient(o, base.JoinPath("api", "v3", o.Store, "batch").String()), nil
}

// check returns the server's address, or what is wrong with the options apart from the store.
func (o *Options) check() (*url.URL, error) {
	base, err := url.Parse(o.Server)
	switch {
	case err != nil || base.Scheme != "http" && base.Scheme != "https" || base.Host == "":
		return nil, fmt.Errorf("the server is %q and has to be an address such as http://127.0.0.1:8080", o.Server)
	case base.User != nil || base.RawQuery != "" || base.Fragment != "":
		return nil, errors.New("the server's address must have no user name, query or fragment")
	case o.Token == "":
		return nil, errors.New("a token is required")
	case strings.ContainsFunc(o.Token, func(r rune) bool { return r <= ' ' || r >= 0x7f }):
		return nil, errors.New("the token has a character that no token has: a space, a line end or one beyond ASCII")
	}
	return base, nil
}

// newClient returns a client of what is at an address.
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

// validStore follows the wire contract ("Base").
func validStore(store string) bool {
	return len(store) <= 64 && !strings.ContainsFunc(store, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_' && r != '-'
	})
}

// call is one call of the API.
type call struct {
	method string
	path   string // below the address of batches, or of operators
	query  url.Values
	body   []byte
	accept string
	lastID string        // Last-Event-ID
	wait   time.Duration // that the server is asked to wait
	once   bool          // repeating it could do something twice: only after a refusal

	validate bool   // the answer is wanted only if it is not the one with this tag
	tag      string // of the last answer, where the server tells it (RFC 9110, section 8.8.3)

	creates bool // repeating it is safe for as long as its deduplication key is known
}

// open makes the call until it is answered 2xx, and returns that answer. Close its body.
func (c *Client) open(ctx context.Context, what *call) (resp *http.Response, err error) {
	err = c.again(ctx, what, func() error {
		resp, err = c.attempt(ctx, what) //nolint:bodyclose // whoever opens it
		return err
	})
	return resp, err
}

// errNotModified says that the answer is still the one that the caller has.
var errNotModified = errors.New("nothing has changed")

// ask makes the call and decodes the answer into out. A broken answer is asked for again.
func (c *Client) ask(ctx context.Context, what *call, out any) error {
	return c.again(ctx, what, func() error {
		resp, err := c.attempt(ctx, what)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode == http.StatusNotModified {
			return errNotModified
		}
		what.tag = resp.Header.Get("Etag")
		text, err := io.ReadAll(io.LimitReader(resp.Body, mostAnswer+1))
		switch {
		case err != nil:
			return &transportError{server: c.options.Server, err: err}
		case len(text) > mostAnswer:
			return fmt.Errorf("the answer of %s is longer than %d bytes", c.options.Server, mostAnswer)
		}
		if err := json.Unmarshal(text, out); err != nil {
			return fmt.Errorf("%s answered %s with what is no JSON of the batch API (%w): is the address right?", c.options.Server, resp.Status, err)
		}
		return nil
	})
}

// again makes attempts at a call until one is no failure that may pass.
func (c *Client) again(ctx context.Context, what *call, attempt func() error) error {
	r := c.repeater(what)
	for {
		err := attempt()
		if err == nil || !r.pause(ctx, err) {
			return err
		}
	}
}

// repeater decides whether an attempt is followed by another one.
type repeater struct {
	c     *Client
	once  bool
	most  time.Duration // how long attempts are made
	began time.Time
	n     int // failures
}

func (c *Client) repeater(what *call) *repeater {
	r := &repeater{c: c, once: what.once, most: c.options.RetryFor}
	if what.creates {
		r.most = min(r.most, dedupFor)
	}
	r.reset()
	return r
}

// reset forgets the failures so far: there was progress.
func (r *repeater) reset() { r.n, r.began = 0, time.Now() }

// pause waits before another attempt. It reports false if there is to be none: the failure
// does not pass, the time is over or ctx has ended.
func (r *repeater) pause(ctx context.Context, err error) bool {
	pause, may := passing(err, r.n, r.once)
	if !may || ctx.Err() != nil || time.Since(r.began)+pause > r.most {
		return false
	}
	r.n++
	if r.c.options.OnRetry != nil {
		r.c.options.OnRetry(err, pause)
	}
	return sleep(ctx, pause) == nil
}

// attempt makes the call once. Anything but 2xx is an *Error.
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

// body is an answer's body whose server must not be silent for long.
type body struct {
	io.ReadCloser
	ctx     context.Context //nolint:containedctx // the call's own, which ends with its body
	cancel  context.CancelCauseFunc
	silence *time.Timer // cancels
}

func (b *body) Read(p []byte) (int, error) {
	b.silence.Reset(callTimeout) // who reads may take its time between two reads
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

// timedOut returns what really ended a call.
func timedOut(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), errTimeout) {
		return errTimeout
	}
	return err
}

// sleep waits, or returns why not.
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

// passing reports whether a failure may pass, and how long to wait after the n-th.
func passing(err error, n int, once bool) (pause time.Duration, may bool) {
	pause = min(firstPause<<min(n, 10), lastPause)
	pause = pause/2 + rand.N(pause/2+1) //nolint:gosec // spreads, and keeps no secret
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

// retryAfter reads the header Retry-After (RFC 9110, section 10.2.3); 0: there is none.
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
