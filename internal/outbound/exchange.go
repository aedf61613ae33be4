package outbound

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// exchange is one attempt over the network: a request and its answer.
type exchange struct {
	client   *Client
	call     *Call
	deadline time.Time
	first    []byte // the head and as much of the body as one write takes; never changed
	rest     []byte // the rest of the body; never changed
	buffer   *[]byte
	owner    owner
	sent     bool        // a byte of the request may have been written
	ending   atomic.Bool // the last write of the request has begun
	flaws    flaws       // what is wrong with the answer
}

// buffers holds the buffers that requests are assembled in.
var buffers = sync.Pool{New: func() any {
	b := make([]byte, 0, bufferSize)
	return &b
}}

func (c *Client) newExchange(call *Call, target string) *exchange {
	x := &exchange{client: c, call: call, deadline: time.Now().Add(c.timeout), buffer: buffers.Get().(*[]byte)}
	x.owner = sha256.Sum256(append(append(append((*x.buffer)[:0], call.Store...), 0), call.Token...))
	first := c.appendHead((*x.buffer)[:0], call, target)
	n := min(len(call.Body), max(0, bufferSize-len(first)))
	first = append(first, call.Body[:n]...)
	x.first, x.rest = first, call.Body[n:]
	return x
}

// free returns the exchange's buffer to the pool.
func (x *exchange) free() { buffers.Put(x.buffer) }

// Failures of an exchange that don't come from the network.
var (
	errTimeout     = errors.New("the attempt timed out")
	errInterrupted = errors.New("the attempt was canceled")
	errWithheld    = errors.New("the permission to send was withdrawn")
	errNotIdle     = errors.New("the idle connection was closed, or data came on it")
)

// cause returns why an exchange failed.
func (x *exchange) cause(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil, errors.Is(err, errWithheld):
		return errInterrupted
	case !time.Now().Before(x.deadline): // err may be about the incomplete header instead
		return errTimeout
	}
	return err
}

// over carries out the exchange on a connection. The connection belongs to the exchange until over
// returns.
func (x *exchange) over(ctx context.Context, c *conn) (a Answer, err error) {
	whole := false
	stop := context.AfterFunc(ctx, c.interrupt)
	defer func() {
		failed := a.Code >= http.StatusInternalServerError || x.sent && err != nil
		if stop() && whole && !failed {
			x.client.idle.put(c)
		} else {
			x.client.idle.drop(c)
		}
		if failed {
			x.client.idle.renew(x.owner)
		}
	}()
	if err := x.begin(ctx, c); err != nil {
		return Answer{}, err
	}
	if len(x.rest) == 0 {
		a, whole, err = x.read(ctx, c)
		return a, err
	}
	var upload error
	uploaded := make(chan struct{})
	go func() {
		defer close(uploaded)
		switch upload = x.upload(c); {
		case errors.Is(upload, errWithheld):
			_ = c.Close()
		case upload != nil: // an answer may have come anyway
			_ = c.SetReadDeadline(time.Now().Add(answerGrace))
			if ctx.Err() != nil { // this may have overwritten the deadline that interrupt set
				c.interrupt()
			}
		}
	}()
	if a, whole, err = x.read(ctx, c); whole {
		select {
		case <-uploaded:
		case <-time.After(uploadGrace):
			whole = false
		}
	}
	if !whole {
		_ = c.Close()
	}
	<-uploaded
	if err != nil && (errors.Is(upload, errWithheld) || upload != nil && isTimeout(err)) {
		err = upload
	}
	whole = whole && upload == nil
	return a, err
}

const (
	uploadGrace = 50 * time.Millisecond  // how long the rest of a request may be written after its answer has come
	answerGrace = 250 * time.Millisecond // how long an answer may take after a request could not be written
)

// begin writes the first buffer of the request. If the whole request fits, a process that is stopped
// in the meantime has sent all of it or nothing. A reused connection is checked right before, because
// data that has already come can't be the answer.
func (x *exchange) begin(ctx context.Context, c *conn) error {
	if !x.permitted() {
		return errWithheld
	}
	if c.used && !c.quiet() {
		return errNotIdle
	}
	_ = c.SetDeadline(x.deadline) // fails only on a closed connection
	if ctx.Err() != nil {         // this may have overwritten the deadline that interrupt set
		return ctx.Err()
	}
	x.ending.Store(len(x.rest) == 0)
	n, err := write(c, x.first)
	x.sent = err == nil || !c.nothingWritten(n, err)
	return err
}

// upload writes the rest of a request.
func (x *exchange) upload(c *conn) error {
	for rest := x.rest; len(rest) > 0; {
		piece := rest[:min(len(rest), bufferSize)]
		if !x.permitted() {
			return errWithheld
		}
		x.ending.Store(len(piece) == len(rest))
		if _, err := write(c, piece); err != nil {
			return err // the answer may have come anyway
		}
		rest = rest[len(piece):]
	}
	return nil
}

// write writes p once. Unlike Write, it never returns nil after a partial write.
func write(c *conn, p []byte) (int, error) {
	n, err := c.Write(p)
	if err == nil && n != len(p) {
		err = io.ErrShortWrite
	}
	return n, err
}

// permitted calls the call's Permit. The system call follows at once. If the process is stopped
// between the two and resumes later, it writes at most this one buffer too late.
func (x *exchange) permitted() bool { return x.call.Permit == nil || x.call.Permit() }

// read reads the answer. whole reports whether the connection can carry another exchange. If read returns
// an error, the answer is the part that was read; its code is 0 if nothing was read.
func (x *exchange) read(ctx context.Context, c *conn) (a Answer, whole bool, err error) {
	c.room = maxHeadRead
	resp, f, err := response(c, x.call.Method, &x.ending) //nolint:bodyclose // see Client.read
	x.flaws = f
	if resp == nil {
		return Answer{}, false, err
	}
	head := min(maxHeadRead-c.room, maxAnswerHeader)
	c.room = math.MaxInt64
	if err != nil {
		a = Answer{Outcome: Answered, Code: resp.StatusCode, Line: line(resp), Header: resp.Header}
	} else {
		if len(resp.TransferEncoding) > 0 && resp.Body != http.NoBody {
			resp.Body = newChunkedBody(c, &x.flaws)
		}
		a, err = x.client.read(x.call, resp, func(n int64) error { return x.hold(ctx, c, head+n) })
	}
	if a.Outcome == Answered {
		a.Line += x.flaws.String()
		a.Incomplete = x.flaws.unsure
	}
	whole = !x.flaws.odd && err == nil && a.Outcome == Answered && c.isConsumed() &&
		(len(x.call.Body) == 0 || readsBody(x.call.Method))
	return a, whole, err
}

// hold makes the call's share of memory hold at least n bytes. The time that it waits for memory is added
// to the attempt's deadline, because the upstream isn't the cause.
func (x *exchange) hold(ctx context.Context, c *conn, n int64) error {
	share := x.call.Memory
	if share == nil || n <= share.Held() || share.TryGrow(n-share.Held()) {
		return nil
	}
	_ = c.SetDeadline(time.Time{})
	began := time.Now()
	err := share.Grow(ctx, n-share.Held())
	x.deadline = x.deadline.Add(time.Since(began))
	_ = c.SetDeadline(x.deadline)
	if ctx.Err() != nil { // this may have overwritten the deadline that interrupt set
		return ctx.Err()
	}
	return err
}
