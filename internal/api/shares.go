package api

import (
	"net/http"
	"net/netip"
	"time"

	"github.com/sheafapi/sheaf/internal/gate"
)

// streamPause is how long a client with too many streams should wait before it retries.
const streamPause = 5 * time.Second

// network returns the network that a call came from, or the zero Prefix if it isn't known.
func (s *API) network(r *http.Request) netip.Prefix {
	if s.From == nil {
		return netip.Prefix{}
	}
	return s.From(r)
}

// enter takes a place for the named client. If none is free, the error asks the client to retry
// after a while. Otherwise, leave gives the place back and must be called.
func enter[K comparable](places *gate.Gate[K], names []K, retryAfter time.Duration, message string) (leave func(), err error) {
	if !places.Try(1, names...) {
		return nil, &apiError{code: rateLimited, wait: retryAfter, message: message}
	}
	return func() { places.Leave(1, names...) }, nil
}

// stay takes a place among the calls that wait for changes.
func (s *API) stay(c *call) (leave func(), err error) {
	return enter(s.streams, c.Names, streamPause, "Too many of your calls are waiting for changes of batches. Let some of them end, or call without wait and without events.")
}

// compute runs work, which processes this many bytes, when it is the caller's turn. work must not
// wait for anything but the CPU. The error is that of work, or the answer to a caller that is gone.
func (s *API) compute(c *call, bytes int64, work func() error) error {
	names := []string{c.Store}
	if network := s.network(c.R); network.IsValid() {
		names = append(names, network.String())
	}
	leave, err := s.CPU.Enter(c.R.Context(), bytes, names...)
	if err != nil {
		return fail(unavailable, "The call ended before its turn came. Retry.")
	}
	defer leave()
	return work()
}
