package api

import (
	"math/rand/v2"
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
