// Package governor keeps what all requests with one upstream credential share, whichever
// batch and store they belong to: the moment before which none may be sent, how fast
// they leave, and how many are under way.
//
//   - Hold. After an answer 429, or one 503 that names a time, nothing of the store is sent
//     with the credential before that time, here and, through storage, on every node. When
//     several stores are answered so, the node holds back all that use the credential.
//   - Pace. A configured rate is one schedule for all nodes, of which each takes a piece at
//     a time. Without one, or below it, the pace is learned from what the upstream let
//     through until it answered 429 again and again.
//   - Places. The limit on requests in flight falls to 70% when many are in flight and the
//     upstream answers 429 or 503, or doesn't answer in time. It recovers within a few
//     round trips. Until the first such failure there is no limit.
//
// Queues take turns: each holds at most one slot of the schedule ahead, so that a
// batch with a hundred requests at once gets no more of the pace than any other.
package governor

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// Shared is what nodes have to tell each other: a part of storage.Storage.
type Shared interface {
	Hold(ctx context.Context, h storage.Hold) error
	Holds(ctx context.Context) ([]storage.Hold, error)
	Reserve(ctx context.Context, credential batch.Owner, span time.Duration) (time.Time, error)
}

// Rate is N requests in each span of time. The zero value: no limit.
type Rate struct {
	N   int
	Per time.Duration
}

// Valid reports whether the rate can be kept: from one request a day to a million a second.
func (r Rate) Valid() bool {
	return r.N > 0 && r.Per > 0 && r.interval() >= time.Microsecond && r.interval() <= 24*time.Hour
}

// perSecond is the rate in requests a second; 0: none.
func (r Rate) perSecond() float64 {
	if r.N == 0 {
		return 0
	}
	return float64(r.N) / r.Per.Seconds()
}

// interval is the time between two requests.
func (r Rate) interval() time.Duration { return r.Per / time.Duration(r.N) }

const (
	// pollInterval is how long another node's hold may stay unknown.
	pollInterval = 500 * time.Millisecond
	// sweepInterval is how often credentials that nobody uses are looked for.
	sweepInterval = time.Minute
	// memoryOf is how long something that was learned counts.
	memoryOf = 5 * time.Minute
)

// Governor knows the credentials in use. Make it with New. Its methods may be called from
// many goroutines.
type Governor struct {
	shared Shared
	rate   Rate
	most   int // requests under way at which a limit is none
	log    *slog.Logger

	mu          sync.Mutex
	credentials map[batch.Owner]*Credential
	held        map[batch.Owner][]storage.Hold // of credentials that are not in use here
	failing     bool                           // the last poll has failed
	tell        chan storage.Hold
}

// New returns a governor. most is how many requests the node has under way at once.
func New(shared Shared, rate Rate, most int, log *slog.Logger) *Governor {
	return &Governor{
		shared: shared, rate: rate, most: most, log: log,
		credentials: map[batch.Owner]*Credential{}, held: map[batch.Owner][]storage.Hold{},
		tell: make(chan storage.Hold, 64),
	}
}

// Run tells other nodes of holds, and learns of theirs, until ctx ends. A hold that can't
// be told still holds here.
func (g *Governor) Run(ctx context.Context) {
	poll, sweep := time.NewTicker(pollInterval), time.NewTicker(sweepInterval)
	defer poll.Stop()
	defer sweep.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case h := <-g.tell:
			// The wall clock may have been set since the answer came.
			now := time.Now()
			h.Until = batch.CeilMillis(now.Add(h.Until.Sub(now)))
			if err := g.shared.Hold(ctx, h); err != nil && ctx.Err() == nil {
				g.log.Warn("other nodes can't be told that an upstream credential has to wait", "until", h.Until, "error", err)
			}
		case <-poll.C:
			g.Poll(ctx)
		case <-sweep.C:
			g.sweep(time.Now())
		}
	}
}

// Poll asks storage for holds, as Run does regularly: call it once before the first Attach, for
// those of an earlier process.
func (g *Governor) Poll(ctx context.Context) {
	holds, err := g.shared.Holds(ctx)
	if ctx.Err() != nil {
		return
	}
	if (err != nil) != g.failing {
		if g.failing = err != nil; g.failing {
			g.log.Warn("storage can't be asked which upstream credentials have to wait; asking on", "error", err)
		}
	}
	if err != nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	clear(g.held)
	now := time.Now()
	for _, h := range holds {
		h.Until = steady(h.Until, now)
		if c := g.credentials[h.Credential]; c != nil {
			c.holdUntil(h.Store, h.Until)
		} else {
			g.held[h.Credential] = append(g.held[h.Credential], h)
		}
	}
}

// steady returns a stored moment as one of the monotonic clock, so that it stays as far away
// when the wall clock is set. No moment is further away than a hold may be.
func steady(t, now time.Time) time.Time {
	return now.Add(min(t.Sub(now), storage.HoldLimit))
}

// Held returns how many credentials in use have to wait, and until when the last of them has.
func (g *Governor) Held(now time.Time) (n int, until time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range g.credentials {
		c.mu.Lock()
		hold := c.hold.last()
		c.mu.Unlock()
		if hold.After(now) {
			n++
			if hold.After(until) {
				until = hold
			}
		}
	}
	return n, until
}

// sweep forgets credentials that nobody uses.
func (g *Governor) sweep(now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for key, c := range g.credentials {
		if c.forgettable(now) {
			delete(g.credentials, key)
		}
	}
}

// Attach returns the credential's state for the use of one queue. Detach it when done.
func (g *Governor) Attach(key batch.Owner) *Credential {
	g.mu.Lock()
	defer g.mu.Unlock()
	c := g.credentials[key]
	if c == nil {
		c = &Credential{governor: g, key: key, refilling: make(chan struct{}, 1)}
		for _, h := range g.held[key] {
			c.holdUntil(h.Store, h.Until)
		}
		g.credentials[key] = c
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.users++
	return c
}

// Leftovers describes the credentials that are in use, for tests: after the last Detach
// there is none.
func (g *Governor) Leftovers() (out []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range g.credentials {
		c.mu.Lock()
		if c.users != 0 || c.inflight != 0 || c.line.Len() != 0 {
			out = append(out, fmt.Sprintf("%d users, %d requests under way, %d in line", c.users, c.inflight, c.line.Len()))
		}
		c.mu.Unlock()
	}
	return out
}

// announce tells other nodes of a hold, as soon as storage takes it.
func (g *Governor) announce(h storage.Hold) {
	select {
	case g.tell <- h:
	default: // storage is slow; the next hold of the credential tells
	}
}
