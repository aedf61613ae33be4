package api

import (
	"encoding/base64"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

const (
	// mostWait is how long a status waits for news at most, in seconds.
	mostWait = 60
	// eventPause is the least time between two looks at a batch whose events are sent, so
	// that a batch that runs fast is read in pieces.
	eventPause = 100 * time.Millisecond
	// heartbeat is when something is sent although nothing happens, so that proxies don't
	// take the connection for a dead one.
	heartbeat = 15 * time.Second
	// endEvent is the id of the last event.
	endEvent = "end"
)

// waits returns how long a status is to wait for news: the parameter wait, or the
// preference (RFC 7240, section 4.3), in seconds.
func (c *call) waits() (time.Duration, error) {
	n, err := c.query.integer("wait", -1, 0, mostWait)
	if err != nil || n >= 0 {
		return time.Duration(max(n, 0)) * time.Second, err
	}
	for _, field := range c.r.Header.Values("Prefer") {
		for part := range strings.SplitSeq(field, ",") {
			value, ok := strings.CutPrefix(strings.ReplaceAll(strings.ToLower(part), " ", ""), "wait=")
			if !ok {
				continue
			}
			value, _, _ = strings.Cut(value, ";")
			n, err := strconv.ParseUint(strings.Trim(value, `"`), 10, 32)
			if err != nil {
				continue // a preference that can't be understood is none
			}
			n = min(n, mostWait)
			c.w.Header().Set("Preference-Applied", "wait="+strconv.FormatUint(n, 10))
			return time.Duration(n) * time.Second, nil
		}
	}
	return 0, nil
}

// await returns when the batch is COMPLETED, its status or its number of completed
// requests is another one than when the call came, or than in the status that the client has
// (If-None-Match), or the time is up.
func (s *API) await(c *call, key storage.Key, wait time.Duration, v *view) error {
	first, err := s.Storage.Status(c.r.Context(), key, 0)
	if err != nil || first.Status == batch.Completed {
		return err
	}
	if c.r.Header["If-None-Match"] != nil && !unchanged(c.r.Header, v.tag(first, c.r.URL.RawQuery)) {
		return nil // what the client has is older
	}
	news, stop := s.hub.Watch(first.ID)
	defer stop()
	over := time.NewTimer(wait)
	defer over.Stop()
	for {
		// Asked at first, too: something may have happened before the watch began.
		st, err := s.Storage.Status(c.r.Context(), key, 0)
		if err != nil || st.Status != first.Status || st.Completed != first.Completed {
			return err
		}
		select {
		case _, open := <-news:
			if !open {
				return nil
			}
		case <-over.C:
			return nil
		case <-c.r.Context().Done():
			abort()
		}
	}
}

// encodeSet returns a set of indexes as an event's id: what a client has got by then.
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

// decodeSet reads the id of an event that was sent earlier. One that can't be read is none.
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

// stream is a batch whose events are being sent (HTML, section 9.2).
type stream struct {
	s    *API
	c    *call
	view view
	key  storage.Key
	id   storage.BatchID
	sent batch.Set
}

// events sends an event for each request that has ended, and for each that will, and one
// for the batch's end.
func (s *API) events(c *call, ticket batch.Ticket, v view) error {
	leave, err := s.stay(c)
	if err != nil {
		return err
	}
	defer leave()
	x := &stream{s: s, c: c, view: v, key: c.key(ticket)}
	x.view.indexed, x.view.lines = true, true
	last := c.r.Header.Get("Last-Event-ID")
	st, err := s.Storage.Status(c.r.Context(), x.key, 0)
	switch {
	case err != nil:
		return s.storageFailed(c, "status", ticket, err)
	case last == endEvent:
		c.status = http.StatusNoContent
		c.w.WriteHeader(http.StatusNoContent) // a browser does not come back
		return nil
	}
	x.id, x.sent = st.ID, decodeSet(last)
	news, stop := s.hub.Watch(st.ID)
	defer stop()
	x.begin()
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	over := time.NewTimer(lifetime())
	defer over.Stop()
	for {
		if x.round() {
			return nil
		}
		select {
		case <-time.After(eventPause):
		case <-c.r.Context().Done():
			abort()
		}
		select {
		case _, open := <-news:
			if !open {
				return x.part() // the client comes back, to another node
			}
		case <-beat.C:
			x.write([]byte(":\n\n"))
		case <-over.C:
			return x.part() // the client comes back for the rest
		case <-c.r.Context().Done():
			abort()
		}
	}
}

// begin sends the head. The connection may last longer than any other.
func (x *stream) begin() {
	rc := http.NewResponseController(x.c.w)
	_ = rc.SetReadDeadline(time.Time{}) // writers that know no deadlines go without
	h := x.c.w.Header()
	h.Set("Content-Type", eventsType)
	h.Set("X-Accel-Buffering", "no")
	x.c.started, x.c.status = true, http.StatusOK
	x.c.w.WriteHeader(http.StatusOK)
	x.write([]byte("retry: 1000\n\n"))
}

// part ends the stream in order before the batch has ended: its last bytes get time to leave.
func (x *stream) part() error {
	x.write([]byte(":\n\n"))
	return nil
}

// write sends what there is, in the time that a reader that is not too slow needs.
func (x *stream) write(text []byte) {
	x.c.pace.write(x.c.w, len(text), func() {
		if _, err := x.c.w.Write(text); err != nil {
			abort()
		}
		if err := http.NewResponseController(x.c.w).Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
			abort()
		}
	})
}

// round sends what has happened since the last one, and reports whether that was all.
func (x *stream) round() (over bool) {
	a := x.s.newAnswer(x.c)
	defer a.free()
	x.know(a)
	if a.reserve() != nil {
		abort() // the client comes back when there is memory
	}
	st, err := x.s.Storage.Status(x.c.r.Context(), x.key, pageBytes)
	if err != nil {
		abort() // and learns why
	}
	a.open()
	a.settle(st.Results)
	page := st.Results
	st.Results = nil
	for i := range st.Total {
		if x.sent.Has(i) || !st.Ended.Has(i) && st.Status != batch.Completed {
			continue
		}
		r := &storage.IndexedResult{Index: i, Result: batch.Result{Status: batch.NotExecuted, Line: st.Reason}}
		if st.Ended.Has(i) {
			if page, err = a.seek(st, page, i); err != nil {
				abort()
			}
			r = &page[0]
		}
		id := ""
		if st.IDs != nil {
			id = st.IDs[i]
		}
		x.sent.Add(i)
		a.buf = append(a.buf, "event: response\nid: "...)
		a.buf = append(append(a.buf, encodeSet(&x.sent)...), "\ndata: "...)
		a.buf = x.piece(append(x.view.append(a.buf, id, r, x.piece), "\n\n"...))
	}
	x.forget()
	if over = st.Status == batch.Completed; over {
		a.buf = append(a.buf, "event: end\nid: "+endEvent+"\ndata: "...)
		a.buf = appendFailures(batch.AppendHead(a.buf, st.Status, st.Total, st.Completed), st.Failed, st.InDoubt)
		a.buf = append(a.buf, "}\n\n"...)
	}
	if len(a.buf) > 0 {
		x.write(a.buf)
	}
	return over
}

// piece sends what has come together, if that is a lot: see batch.Form.
func (x *stream) piece(buf []byte) []byte {
	if len(buf) < flushBytes {
		return buf
	}
	x.write(buf)
	return buf[:0]
}

// keptHeads is how many bytes of requests' ids and paths a stream keeps from one round to
// the next.
const keptHeads = 64 << 10

// know reads the requests that details tell of, unless they are known.
func (x *stream) know(a *answer) {
	if !x.view.details || x.view.requests != nil {
		return
	}
	var err error
	if x.view.requests, _, err = a.requestsOf(x.id, 0, -1); err != nil {
		abort()
	}
}

// forget lets go of requests that take much memory: a stream lasts long.
func (x *stream) forget() {
	bytes := 0
	for i := range x.view.requests {
		bytes += len(x.view.requests[i].ID) + len(x.view.requests[i].Path)
	}
	if bytes > keptHeads {
		x.view.requests = nil
	}
}
