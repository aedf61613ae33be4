package reply

import (
	"encoding/base64"
	"errors"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

const (
	// eventPause is the minimum time between two reads of a batch, so that the events of a fast
	// batch are sent together.
	eventPause = 100 * time.Millisecond
	// heartbeat is how often something is sent even if nothing happens, so that proxies don't close
	// the connection.
	heartbeat = 15 * time.Second
	// StreamLife is about how long a stream lasts. Then it ends cleanly, and the client reconnects
	// for the rest, so that its token is checked again.
	StreamLife = 5 * time.Minute
	// endEvent is the id of the last event.
	endEvent = "end"
	// keptHeads is how many bytes of requests' ids and paths a stream may keep between two rounds.
	keptHeads = 64 << 10
)

// lifetime returns how long a stream lasts. It is random, so that streams that began together don't
// all reconnect together.
func lifetime() time.Duration {
	return StreamLife - rand.N(StreamLife/4) //nolint:gosec // not a secret
}

// encodeSet encodes a set of indexes as an event's id: the responses that the client has after the
// event.
func encodeSet(s *batch.Set) string {
	raw := make([]byte, (batch.MaxRequests+7)/8)
	for i := range batch.MaxRequests {
		if s.Has(i) {
			raw[i/8] |= 1 << (i % 8)
		}
	}
	for len(raw) > 0 && raw[len(raw)-1] == 0 {
		raw = raw[:len(raw)-1]
	}
	return "r" + base64.RawURLEncoding.EncodeToString(raw)
}

// decodeSet reads the id of an earlier event. An id that can't be read stands for the empty set.
func decodeSet(id string) (s batch.Set) {
	text, ok := strings.CutPrefix(id, "r")
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if !ok || err != nil || len(raw) > (batch.MaxRequests+7)/8 {
		return s
	}
	for i := range min(8*len(raw), batch.MaxRequests) {
		if raw[i/8]&(1<<(i%8)) != 0 {
			s.Add(i)
		}
	}
	return s
}

// stream sends a batch's events (HTML, section 9.2).
type stream struct {
	s    *Source
	c    *Call
	view View
	key  storage.Key
	id   storage.BatchID
	sent batch.Set
	wait storage.Wait // what the client knows that the batch waits for
}

// Events sends an event for each request that has already ended, one for each as it ends, and
// finally one for the end of the batch. In between, it sends an event when the batch begins to wait
// for the upstream or a credential, and when that wait ends. It returns an error only if nothing was
// sent.
func (s *Source) Events(c *Call, key storage.Key, v *View) error {
	x := &stream{s: s, c: c, view: *v, key: key}
	x.view.Indexed, x.view.mediaType = true, linesType // each response is one line of an event
	last := c.R.Header.Get("Last-Event-ID")
	st, err := s.Storage.Status(c.R.Context(), key, 0)
	switch {
	case err != nil:
		return err
	case last == endEvent:
		c.begin(http.StatusNoContent) // a browser then doesn't reconnect
		return nil
	}
	x.id, x.sent = st.ID, decodeSet(last)
	news, stop := s.Hub.Watch(st.ID)
	defer stop()
	x.begin()
	x.run(news)
	return nil
}

// run sends events until the batch has ended, the service shuts down, or the lifetime is over. In the
// last two cases the client reconnects for the rest.
func (x *stream) run(news <-chan struct{}) {
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	over := time.NewTimer(lifetime())
	defer over.Stop()
	done := x.c.R.Context().Done()
	for !x.round() {
		select {
		case <-time.After(eventPause):
		case <-done:
			Abort()
		}
		select {
		case _, open := <-news:
			if !open {
				x.comment()
				return
			}
		case <-beat.C:
			x.comment()
		case <-over.C:
			x.comment()
			return
		case <-done:
			Abort()
		}
	}
}

// begin sends the head of the answer. It removes the read deadline, because a stream lasts longer
// than any other call.
func (x *stream) begin() {
	_ = http.NewResponseController(x.c.W).SetReadDeadline(time.Time{}) // a test's writer has no deadlines
	h := x.c.W.Header()
	h.Set("Content-Type", eventsType)
	h.Set("X-Accel-Buffering", "no")
	x.c.begin(http.StatusOK)
	x.write([]byte("retry: 1000\n\n"))
}

// comment sends a line that clients ignore. It serves as a heartbeat. Before the connection ends,
// it also gives the last events more time to be sent: see pace.end.
func (x *stream) comment() { x.write([]byte(":\n\n")) }

// write sends text within the time that a reader at the minimum rate needs.
func (x *stream) write(text []byte) {
	x.c.paced(len(text), func() {
		if _, err := x.c.W.Write(text); err != nil {
			Abort()
		}
		if err := http.NewResponseController(x.c.W).Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
			Abort()
		}
	})
}

// round sends what has happened since the last round, and reports whether the batch has ended. If
// something can't be read, it breaks the connection: the client reconnects and gets the error.
func (x *stream) round() (over bool) {
	a := x.s.Answer(x.c)
	defer a.Free()
	if x.view.Details && x.view.requests == nil {
		var err error
		if x.view.requests, _, err = a.Requests(x.id, 0, -1); err != nil {
			Abort()
		}
	}
	if a.Reserve() != nil {
		Abort()
	}
	st, err := x.s.Storage.Status(x.c.R.Context(), x.key, PageBytes)
	if err != nil {
		Abort()
	}
	a.Open()
	over = st.Status == batch.Completed
	fresh := a.results(st, 0, over, &x.sent)
	for r := fresh.next(a); r != nil; r = fresh.next(a) {
		x.sent.Add(r.Index)
		a.Buf = append(a.Buf, "event: response\nid: "...)
		a.Buf = append(append(a.Buf, encodeSet(&x.sent)...), "\ndata: "...)
		a.Buf = x.piece(append(x.view.append(a.Buf, st.IDs, r, x.piece), "\n\n"...))
	}
	if fresh.err != nil {
		Abort()
	}
	x.forget()
	if !over && st.Wait.For != x.wait.For {
		x.wait = st.Wait
		a.Buf = append(a.Buf, "event: waiting\ndata: {"...)
		a.Buf = append(appendWait(a.Buf, st.Wait), "}\n\n"...)
	}
	if over {
		a.Buf = append(a.Buf, "event: end\nid: "+endEvent+"\ndata: "...)
		a.Buf = appendFailures(batch.AppendHead(a.Buf, st.Status, st.Total, st.Completed), st.Failed, st.InDoubt)
		a.Buf = append(a.Buf, "}\n\n"...)
	}
	if len(a.Buf) > 0 {
		x.write(a.Buf)
	}
	return over
}

// piece sends what buf holds, if that is at least flushBytes: see batch.Form.
func (x *stream) piece(buf []byte) []byte {
	if len(buf) < flushBytes {
		return buf
	}
	x.write(buf)
	return buf[:0]
}

// forget drops the requests if they take much memory, because a stream lasts a long time.
func (x *stream) forget() {
	bytes := 0
	for i := range x.view.requests {
		bytes += len(x.view.requests[i].ID) + len(x.view.requests[i].Path)
	}
	if bytes > keptHeads {
		x.view.requests = nil
	}
}
