package api

import (
	"math/rand/v2"
	"net/http"
	"net/netip"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
)

const (
	// maxStreams bounds the calls that wait for news of a batch: event streams, and statuses
	// with wait.
	maxStreams = 10 << 10
	// streamLife is about how long an event stream lasts. Then it ends in order, and the client
	// comes back for the rest: its token is judged again.
	streamLife = 5 * time.Minute
	// streamPause is when a client that has too many streams may come back.
	streamPause = 5 * time.Second
)

// name is what a caller's shares are counted by. It is either an owner or a network.
type name struct {
	owner   batch.Owner
	network netip.Prefix
}

// recognize sets the names of a caller whose owner is known.
func (s *API) recognize(c *call) {
	c.names = append(c.nameRoom[:0], name{owner: c.owner})
	if s.From != nil {
		c.names = append(c.names, name{network: s.From(c.r)})
	}
}

// stay takes a place among the calls that wait for news. An error is the answer to give;
// otherwise the caller must call leave.
func (s *API) stay(c *call) (leave func(), err error) {
	if !s.streams.Try(1, c.names...) {
		return nil, &apiError{code: rateLimited, wait: streamPause, message: "Too many of your calls wait for news of batches at the moment. Let some of them end, or ask without wait and without events."}
	}
	return func() { s.streams.Leave(1, c.names...) }, nil
}

// compute runs work on this many bytes of the caller's data when it is the caller's turn. work must
// not wait for anything but the processor. The error is that of work, or the answer to a caller that
// has gone away.
func (s *API) compute(c *call, bytes int64, work func() error) error {
	names := []string{c.store}
	if s.From != nil {
		names = append(names, s.From(c.r).String())
	}
	leave, err := s.CPU.Enter(c.r.Context(), bytes, names...)
	if err != nil {
		return fail(unavailable, "The call ended before its turn came. Retry.")
	}
	defer leave()
	return work()
}

// lifetime returns how long a stream lasts. Streams that began together don't end together.
func lifetime() time.Duration {
	return streamLife - rand.N(streamLife/4) //nolint:gosec // no secret
}

// A client that holds memory has to read, or send, at least so fast, after a while of grace.
const (
	grace     = 10 * time.Second
	leastRate = 16 << 10 // bytes a second
)

// pace is how much of the grace a client has left that has to keep up.
type pace struct {
	left time.Duration
	last time.Time // the end of the last write; zero: there was none
}

// write sends bytes by a deadline, which is later for a client that was fast enough before. A
// client that reads more slowly than leastRate uses its grace up, over all of an answer. No
// deadline is left behind: over HTTP/2 one that passes while nothing is sent resets the stream.
func (p *pace) write(w http.ResponseWriter, bytes int, send func()) {
	began := time.Now()
	if p.last.IsZero() {
		p.left = grace
	} else {
		p.left = min(grace, p.left+began.Sub(p.last))
	}
	allowed := p.left + time.Duration(bytes)*time.Second/leastRate
	rc := http.NewResponseController(w)
	_ = rc.SetWriteDeadline(began.Add(allowed)) // a writer without deadlines, such as a test's, has none
	send()
	_ = rc.SetWriteDeadline(time.Time{})
	p.last = time.Now()
	p.left = min(grace, max(allowed-p.last.Sub(began), 0))
}

// end bounds the time for the last bytes, which the server sends when the handler has returned.
func (p *pace) end(w http.ResponseWriter) {
	if !p.last.IsZero() {
		_ = http.NewResponseController(w).SetWriteDeadline(p.last.Add(grace))
	}
}
