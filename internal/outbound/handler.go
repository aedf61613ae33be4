package outbound

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	"github.com/sheafapi/sheaf/internal/budget"
)

// serve makes an attempt with the handler in this process. The handler runs in its own goroutine. If
// it ignores its context, it is abandoned when the attempt times out, and its later writes are
// discarded. An attempt without an answer is in doubt, because the handler may have acted.
func (c *Client) serve(parent context.Context, call *Call, target string) Answer {
	ctx, cancel := context.WithCancel(parent)
	defer cancel()
	req, err := c.served(ctx, call, target)
	if err != nil {
		// An HTTP server refuses such a request before any handler sees it.
		return Answer{Outcome: Answered, Code: http.StatusBadRequest, Line: http.StatusText(http.StatusBadRequest)}
	}
	w := &writer{header: http.Header{}, head: call.Method == http.MethodHead, limit: c.maxAnswer}
	w.watch = watch{ctx: ctx, memory: call.Memory, deadline: time.Now().Add(c.timeout), timer: time.AfterFunc(c.timeout, cancel)}
	defer w.end(cancel)
	done := make(chan error, 1)
	go c.run(w, req, call.Permit, done)
	ended := false
	select {
	case err = <-done:
		ended = err == nil || ctx.Err() == nil || errors.Is(err, errWithheld)
	case <-ctx.Done():
	}
	switch {
	case !ended && parent.Err() != nil:
		return c.failure(call, true, errInterrupted)
	case !ended:
		return c.failure(call, true, errTimeout)
	case errors.Is(err, errWithheld):
		return withheld()
	case w.tooLarge: // even if the handler panicked because of that
		return c.tooLarge(w.code)
	case err != nil:
		return c.failure(call, true, err)
	case w.code > maxStatus:
		return c.failure(call, true, errMalformed)
	}
	return w.answer()
}

// run calls the handler, if the call's Permit allows it, and sends its error to done. A handler that
// panics or calls runtime.Goexit fails with errPanicked.
func (c *Client) run(w *writer, r *http.Request, permit func() bool, done chan<- error) {
	err := errPanicked
	defer func() {
		if v := recover(); v != nil && v != http.ErrAbortHandler { //nolint:errorlint // as net/http does
			c.log.Error("the upstream's handler panicked", "method", r.Method, "panic", describe(v), "stack", string(debug.Stack()))
		}
		done <- err
	}()
	if permit != nil && !permit() {
		err = errWithheld
		return
	}
	c.handler.ServeHTTP(w, r)
	err = nil
}

// served returns the request as an HTTP server would pass it to a handler.
func (c *Client) served(ctx context.Context, call *Call, target string) (*http.Request, error) {
	u, err := url.ParseRequestURI(target)
	if err != nil {
		return nil, err
	}
	r := new(http.Request).WithContext(ctx)
	r.Method, r.URL, r.RequestURI, r.Host = call.Method, u, target, c.to.host
	r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/1.1", 1, 1
	r.RemoteAddr = "127.0.0.1:0" // handlers expect an address and a port
	r.Header = http.Header{
		"Authorization":   {"Bearer " + call.Token},
		"Idempotency-Key": {call.Key},
	}
	if c.userAgent != "" {
		r.Header.Set("User-Agent", c.userAgent)
	}
	r.Body = http.NoBody
	switch {
	case len(call.Body) > 0:
		r.Header.Set("Content-Type", contentType)
		r.Header.Set("Content-Length", strconv.Itoa(len(call.Body)))
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(call.Body)), int64(len(call.Body))
		if !readsBody(call.Method) {
			r.Header.Set("Connection", "close")
			r.Close = true
		}
	case call.Method == http.MethodPost, call.Method == http.MethodPut, call.Method == http.MethodPatch:
		r.Header.Set("Content-Length", "0")
	}
	for _, h := range call.Headers {
		r.Header.Set(h.Name, h.Value)
	}
	return r, nil
}

// errTooLarge is what Write returns to a handler that writes more than the limit.
var errTooLarge = errors.New("the answer is larger than the service's limit")

// writer records a handler's answer. It belongs to the handler's goroutine until that ends.
type writer struct {
	watch
	header   http.Header // the header that the handler changes
	sent     http.Header // a copy of header at the time of WriteHeader
	code     int         // 0: WriteHeader was not called
	body     []byte
	head     bool
	limit    int64
	tooLarge bool
}

// describe describes a panic's value without any data of callers.
func describe(v any) string {
	err, _ := v.(error)
	if fault, ok := errors.AsType[runtime.Error](err); ok {
		return fault.Error()
	}
	return fmt.Sprintf("%T", v)
}

// Header implements http.ResponseWriter.
func (w *writer) Header() http.Header { return w.header }

// WriteHeader records the header and the status code. As in net/http, only the first call counts,
// and informational codes are ignored.
func (w *writer) WriteHeader(code int) {
	if code < 100 || code > 999 {
		panic(fmt.Sprintf("invalid status code %d", code)) //nolint:forbidigo // as net/http does; the handler panics
	}
	if w.code != 0 || code <= 199 && code != http.StatusSwitchingProtocols {
		return
	}
	w.code, w.sent = code, w.header.Clone()
}

// Write appends to the body, up to the limit. It discards the body of an answer to HEAD.
func (w *writer) Write(p []byte) (int, error) {
	if w.code == 0 {
		w.WriteHeader(http.StatusOK)
	}
	switch {
	case w.code <= 199 || w.code == http.StatusNoContent || w.code == http.StatusNotModified:
		return 0, http.ErrBodyNotAllowed
	case w.head:
		return len(p), nil
	case int64(len(w.body))+int64(len(p)) > w.limit:
		w.tooLarge, w.body = true, nil
		w.limit = -1 // refuses all further writes
		return 0, errTooLarge
	}
	if size := len(w.body) + len(p); size > cap(w.body) {
		size = int(min(max(int64(size), 2*int64(cap(w.body))), w.limit))
		if err := w.hold(int64(size)); err != nil {
			return 0, err
		}
		w.body = append(make([]byte, 0, size), w.body...)
	}
	w.body = append(w.body, p...)
	return len(p), nil
}

// watch limits the time and memory of an attempt with a handler.
type watch struct {
	ctx      context.Context
	mu       sync.Mutex // guards the fields below; held while memory is used
	memory   *budget.Share
	ended    bool // the attempt has ended, and memory belongs to the caller again
	deadline time.Time
	timer    *time.Timer
}

// hold makes the call's share of memory hold at least n bytes. As in exchange.hold, the time that it waits
// for memory doesn't count.
func (w *watch) hold(n int64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.ended:
		return context.Canceled
	case w.memory == nil || n <= w.memory.Held() || w.memory.TryGrow(n-w.memory.Held()):
		return nil
	case !w.timer.Stop():
		return context.Canceled
	}
	rest := time.Until(w.deadline)
	err := w.memory.Grow(w.ctx, n-w.memory.Held())
	w.deadline = time.Now().Add(rest)
	w.timer.Reset(rest)
	return err
}

// end ends the attempt. The handler may still run, but gets no more memory.
func (w *watch) end(cancel func()) {
	cancel()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	w.timer.Stop()
}

// Flush implements http.Flusher, which some handlers require.
func (w *writer) Flush() {
	if w.code == 0 {
		w.WriteHeader(http.StatusOK)
	}
}

// answer returns the recorded answer. The handler must have ended.
func (w *writer) answer() Answer {
	w.Flush()
	return Answer{
		Outcome: Answered, Code: w.code, Line: http.StatusText(w.code), Body: w.body, Header: w.sent,
	}
}
