// Package governor limits what is sent upstream with one credential, across all batches and stores
// that use it. Three things decide when a request may be sent:
//
//   - The hold. After an answer that refuses a request because of a rate limit, or says that no requests
//     remain, nothing is sent for that store with that credential until the time that the answer
//     names. The hold is shared with other nodes through storage. When several stores get such
//     answers, the node holds the whole credential.
//   - The pace. A configured rate is one schedule for all nodes; each node reserves a piece of it at
//     a time. Without a rate, or below it, each node learns the pace from how many requests the
//     upstream accepted between repeated answers 429.
//   - The limit on requests in flight. There is none until the upstream answers 429 or 503, or times
//     out, while many requests are in flight. The limit is then set to 70% of that number, and it
//     recovers within a few round trips.
//
// A slot is the time for one request on a schedule. A place is the right to have one request in
// flight. Each queue holds at most one slot in advance, so a batch with a hundred requests in
// parallel gets no more of the pace than any other.
package governor

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/outage"
	"github.com/sheafapi/sheaf/internal/storage"
)

// Shared is the state that nodes share through storage. See storage.Pacing.
type Shared interface {
	Hold(ctx context.Context, h storage.Hold) error
	Holds(ctx context.Context) ([]storage.Hold, error)
	Reserve(ctx context.Context, credential batch.Owner, span time.Duration) (time.Time, error)
	Outages
	Credentials
}

// Outages lets nodes share an open breaker. See storage.Outages.
type Outages interface {
	Outages(ctx context.Context) ([]storage.Outage, error)
	PutOutage(ctx context.Context, o storage.Outage) (bool, error)
	EndOutage(ctx context.Context, upstream string) error
}

// Rate is N requests in each span of time. The zero value means no limit.
type Rate struct {
	N   int
	Per time.Duration
}

// Valid reports whether the rate is between one request a day and a million a second.
func (r Rate) Valid() bool {
	return r.N > 0 && r.Per > 0 && r.interval() >= time.Microsecond && r.interval() <= 24*time.Hour
}

// perSecond returns the rate in requests a second; 0: no limit.
func (r Rate) perSecond() float64 {
	if r.N == 0 {
		return 0
	}
	return float64(r.N) / r.Per.Seconds()
}

// interval returns the time between two requests.
func (r Rate) interval() time.Duration { return r.Per / time.Duration(r.N) }

const (
	// pollInterval is how often a node looks for the holds of other nodes.
	pollInterval = 500 * time.Millisecond
	// sweepInterval is how often a node forgets unused credentials.
	sweepInterval = time.Minute
	// memoryOf is how long a learned pace stays in use.
	memoryOf = 5 * time.Minute
)

// Governor holds the state of the credentials in use. Its methods are safe for concurrent use.
type Governor struct {
	shared      Shared
	rate        Rate
	limits      []RouteLimit
	maxInFlight int // the node's limit; a credential's limit that reaches it is dropped
	log         *slog.Logger
	breaker     breaker

	credentialLimit time.Duration // how long requests wait for a new credential; 0: not at all
	factsMu         sync.Mutex
	facts           map[batch.Owner]fact // what storage must learn about credentials
	newFacts        chan struct{}        // signals that there are any
	expiredRead     time.Time            // when expired credentials were last read; used by Poll only
	expiredReadAll  time.Time            // when all of them were

	mu            sync.Mutex
	credentials   map[batch.Owner]*Credential
	expired       map[batch.Owner]time.Time      // when credentials expired, in use here or not
	routes        map[batch.Owner]*Credential    // see Route
	held          map[batch.Owner][]storage.Hold // holds of credentials that aren't in use here
	polls         outage.Log
	unannounced   outage.Log // holds that other nodes don't know of
	announcements chan storage.Hold
}

// defaultUpstream is the name under which nodes share the outage of the only upstream.
const defaultUpstream = "default"

// New returns a governor. maxInFlight is how many requests the node may have in flight at once.
// outageLimit is the longest outage of the upstream in which requests wait, and credentialLimit is how
// long they wait for a new credential; 0: they don't wait.
func New(shared Shared, rate Rate, limits []RouteLimit, maxInFlight int, outageLimit, credentialLimit time.Duration, log *slog.Logger) *Governor {
	return &Governor{
		breaker: breaker{shared: shared, upstream: defaultUpstream, limit: outageLimit, log: log, changed: make(chan struct{}, 1), wake: make(chan struct{}, 1)},
		shared:  shared, rate: rate, limits: limits, maxInFlight: maxInFlight, log: log,
		credentialLimit: credentialLimit, facts: map[batch.Owner]fact{}, newFacts: make(chan struct{}, 1), expired: map[batch.Owner]time.Time{},
		credentials: map[batch.Owner]*Credential{}, routes: map[batch.Owner]*Credential{}, held: map[batch.Owner][]storage.Hold{},
		announcements: make(chan storage.Hold, 64),
	}
}

// Run exchanges holds with other nodes until ctx ends. A hold that can't be stored still applies on
// this node.
func (g *Governor) Run(ctx context.Context) {
	poll, sweep := time.NewTicker(pollInterval), time.NewTicker(sweepInterval)
	defer poll.Stop()
	defer sweep.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case h := <-g.announcements:
			// Use the remaining time, because the wall clock may have been set since the answer.
			now := time.Now()
			h.Until = storage.CeilMillis(now.Add(h.Until.Sub(now)))
			if err := g.shared.Hold(ctx, h); err == nil {
				g.unannounced.Recovered()
			} else if n, due := g.unannounced.Failed(now); due && ctx.Err() == nil {
				g.log.Warn("could not announce to other nodes that an upstream credential must wait", "until", h.Until, "error", err, "since_last_log", n)
			}
		case <-g.breaker.wake:
			g.breaker.sync(ctx)
		case <-g.newFacts:
			_ = g.storeFacts(ctx) // Poll tries again
		case <-poll.C:
			g.Poll(ctx)
		case <-sweep.C:
			g.sweep(time.Now())
		}
	}
}

// Poll reads the holds from storage, as Run does regularly. Call it once before the first Attach to
// learn of the holds of an earlier process.
func (g *Governor) Poll(ctx context.Context) {
	holds, err := g.shared.Holds(ctx)
	if err == nil {
		err = g.breaker.poll(ctx)
	}
	if err == nil {
		err = g.pollExpired(ctx)
	}
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		if n, due := g.polls.Failed(time.Now()); due {
			g.log.Warn("could not read from storage which upstream credentials must wait; retrying", "error", err, "since_last_log", n)
		}
		return
	}
	g.polls.Recovered()
	g.mu.Lock()
	defer g.mu.Unlock()
	clear(g.held)
	now := time.Now()
	for _, h := range holds {
		h.Until = monotonic(h.Until, now)
		if c := g.credentials[h.Credential]; c != nil {
			c.holdUntil(h.Store, h.Until)
		} else {
			g.held[h.Credential] = append(g.held[h.Credential], h)
		}
	}
}

// monotonic returns a stored time as a reading of the monotonic clock, so that setting the wall clock
// doesn't change the wait. The wait is at most storage.HoldLimit.
func monotonic(t, now time.Time) time.Time {
	return now.Add(min(t.Sub(now), storage.HoldLimit))
}

// Held returns how many credentials in use must wait, and when the last of these waits ends.
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

// Outage returns the outage of the upstream, as far as it makes requests wait. ok is false if there is
// none, or if it has lasted too long.
func (g *Governor) Outage(now time.Time) (o Outage, ok bool) { return g.breaker.current(now) }

// Hurry reports that the upstream, which was unreachable, has accepted a connection. The next probe may
// be sent at once.
func (g *Governor) Hurry() { g.breaker.hurry() }

// Changed returns a channel that signals the beginning and the end of an outage.
func (g *Governor) Changed() <-chan struct{} { return g.breaker.changed }

// sweep forgets unused credentials.
func (g *Governor) sweep(now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, all := range []map[batch.Owner]*Credential{g.credentials, g.routes} {
		for key, c := range all {
			if c.forgettable(now) {
				delete(all, key)
			}
		}
	}
}

// Attach returns the credential's state for one queue to use. The caller must call Detach when done.
func (g *Governor) Attach(key batch.Owner) *Credential {
	g.mu.Lock()
	defer g.mu.Unlock()
	c := g.credentials[key]
	if c == nil {
		c = &Credential{governor: g, key: key, rate: g.rate, refilling: make(chan struct{}, 1)}
		for _, h := range g.held[key] {
			c.holdUntil(h.Store, h.Until)
		}
		c.expiredAt = g.expired[key]
		g.credentials[key] = c
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.users++
	return c
}

// Leftovers describes the credentials that are still in use. It is for tests: after the last Detach,
// there must be none.
func (g *Governor) Leftovers() (out []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, all := range []map[batch.Owner]*Credential{g.credentials, g.routes} {
		for _, c := range all {
			c.mu.Lock()
			if c.users != 0 || c.inflight != 0 || c.line.Len() != 0 {
				out = append(out, fmt.Sprintf("%d users, %d requests in flight, %d in line", c.users, c.inflight, c.line.Len()))
			}
			c.mu.Unlock()
		}
	}
	return out
}

// announce announces a hold to other nodes as soon as storage accepts it.
func (g *Governor) announce(h storage.Hold) {
	select {
	case g.announcements <- h:
	default: // storage is slow; the credential's next hold will be announced
	}
}
