package governor

import (
	"context"
	"log/slog"
	"maps"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

const (
	// tripAfter is how many unavailable attempts in a row open the breaker, if no other answer comes
	// in between.
	tripAfter = 5
	// firstProbe is the time from opening the breaker to the first probe. The pause doubles with each
	// probe, up to lastProbe. It varies by probeJitter, as a fraction of the pause.
	firstProbe, lastProbe = time.Second, 30 * time.Second
	probeJitter           = 0.1
	// A stored outage is ignored once its next probe is overdue by staleAfter: no node has had
	// anything to send since then.
	staleAfter = 5 * time.Minute
	// degraded is the share of failing attempts above which a failure is not the request's fault. The
	// latest attempt has weight newest; earlier ones weigh less and less.
	degraded, newest = 0.3, 1.0 / 24
	// fewFailing is how many other requests must also have failed within recent, so that a few
	// requests that always fail don't excuse each other.
	fewFailing = 2
	recent     = 10 * time.Second
	// mostFailing limits the failing requests that a breaker remembers.
	mostFailing = 256
)

// RequestID identifies a request of a batch.
type RequestID struct {
	Ticket batch.Ticket
	Index  int
}

// breaker stops the requests to an upstream that is unavailable, for all credentials. It opens after
// a few unavailable attempts in a row. While it is open, nothing is sent except one probe at a time.
// Any answer that doesn't say "unavailable" closes it. Nodes share an open breaker through storage.
//
// After limit, an outage no longer excuses failures: everything is sent again, and attempts count.
//
// A breaker is safe for concurrent use.
type breaker struct {
	shared   Outages
	upstream string
	limit    time.Duration // the longest outage; 0: the breaker never opens
	log      *slog.Logger
	changed  chan struct{} // signals the engine that the breaker has opened or closed
	wake     chan struct{} // signals Run to store that
	open     atomic.Bool   // since is set

	mu        sync.Mutex
	failures  int       // unavailable attempts since the last other answer
	failedAt  time.Time // when the first of these began
	since     time.Time // when the outage began; zero: the breaker is closed
	probes    int       // how many probes have been sent
	probeAt   time.Time // when the next one may be sent
	probing   bool      // this node's probe is in flight
	stored    bool      // storage has the outage
	ending    bool      // storage may still have an outage that is over
	trippedAt time.Time // when the breaker last opened
	reachable bool      // the last unavailable attempt got a connection
	closedAt  time.Time // when the last outage ended

	failing map[RequestID]failure // requests that found the upstream unavailable, even if they have succeeded since
	fineAt  time.Time             // the latest time at which a request was allowed that has since been answered
	share   float64               // of failing attempts, except those of suspects
}

// failure is the last attempt of a request that found the upstream unavailable.
type failure struct {
	at      time.Time
	strikes int // how many times in a row it failed while others succeeded
}

const (
	// countsFrom is the strike from which failures count. The first one may be the beginning of an outage.
	countsFrom = 2
	// suspectAfter is how many strikes make a request the probable cause of its failures, even when no
	// other request is sent.
	suspectAfter = 3
)

func (f *failure) isSuspect() bool { return f.strikes >= suspectAfter }

// Outage is an outage of the upstream.
type Outage struct {
	Since   time.Time
	ProbeAt time.Time // when the next probe may be sent
	EndsBy  time.Time // when requests no longer wait for the outage's end

	Unreachable bool // the last attempt on this node got no connection
}

// current returns the outage in which nothing but probes may be sent, if there is one.
func (b *breaker) current(now time.Time) (o Outage, ok bool) {
	if !b.open.Load() {
		return o, false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return Outage{Since: b.since, ProbeAt: b.probeAt, EndsBy: b.since.Add(b.limit), Unreachable: !b.reachable}, b.isOut(now)
}

// isOut reports whether nothing but probes may be sent. mu is held.
func (b *breaker) isOut(now time.Time) bool {
	return !b.since.IsZero() && now.Sub(b.since) < b.limit
}

// refuses reports whether a request must wait, and until when. A request that needn't wait may
// have to be the probe; permit decides that.
func (b *breaker) refuses(now time.Time) (until time.Time, refused bool) {
	if !b.open.Load() {
		return time.Time{}, false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.isOut(now) || !b.probing && !now.Before(b.probeAt) {
		return time.Time{}, false
	}
	return b.nextTry(now), true
}

// retryAt returns when a request that permit has refused may be tried again.
func (b *breaker) retryAt(now time.Time) time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.nextTry(now)
}

// nextTry is retryAt. mu is held.
func (b *breaker) nextTry(now time.Time) time.Time { return later(b.probeAt, now.Add(firstProbe/4)) }

func later(t, u time.Time) time.Time {
	if u.After(t) {
		return u
	}
	return t
}

// permit reports whether a request may be sent right now. During an outage, it may if this node gets
// the next probe. permit then calls storage.
func (b *breaker) permit(ctx context.Context) bool {
	if !b.open.Load() {
		return true
	}
	now := time.Now()
	b.mu.Lock()
	if !b.isOut(now) {
		b.mu.Unlock()
		return true
	}
	if b.probing || now.Before(b.probeAt) {
		b.mu.Unlock()
		return false
	}
	b.probing = true
	next := b.outage()
	next.Probes++
	next.ProbeAt = storage.CeilMillis(now.Add(probePauseAfter(next.Probes)))
	b.mu.Unlock()

	b.sync(ctx)
	mine, err := b.shared.PutOutage(ctx, next)
	b.mu.Lock()
	defer b.mu.Unlock()
	if !mine || err != nil {
		b.probing = false
		b.probeAt = later(b.probeAt, time.Now().Add(firstProbe))
		return !b.isOut(time.Now())
	}
	b.probes, b.probeAt = max(b.probes, next.Probes), later(b.probeAt, next.ProbeAt)
	return true
}

// probePauseAfter returns the pause after the given number of probes.
func probePauseAfter(n int) time.Duration {
	pause := lastProbe
	if n < 5 {
		pause = min(firstProbe<<n, lastProbe)
	}
	return time.Duration(float64(pause) * (1 - probeJitter + 2*probeJitter*rand.Float64())) //nolint:gosec // needn't be secret
}

// outage returns the state for storage. mu is held.
func (b *breaker) outage() storage.Outage {
	return storage.Outage{Upstream: b.upstream, Since: b.since, Probes: b.probes, ProbeAt: b.probeAt}
}

// hurry allows the next probe now, because the upstream has accepted a connection again.
func (b *breaker) hurry() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.since.IsZero() && !b.reachable {
		b.reachable, b.probeAt = true, time.Now()
		b.signal()
	}
}

// withdraw records that a request that permit has allowed was not sent.
func (b *breaker) withdraw() {
	if !b.open.Load() {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.probing = false
}

// record learns from an attempt. excused means that the attempt failed because of an outage, and not
// because of the request.
func (b *breaker) record(a *Answer) (excused bool) {
	if b.limit == 0 {
		return false
	}
	now := time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.probing = false
	switch {
	case a.Unavailable:
		return b.fail(a, now)
	case a.Kind != Silent && a.Kind != Late:
		b.succeed(a, now)
	}
	return false
}

// succeed records an answer. mu is held.
func (b *breaker) succeed(a *Answer, now time.Time) {
	b.failures, b.fineAt = 0, later(b.fineAt, a.Asked)
	b.share -= newest * b.share
	if b.since.IsZero() {
		return
	}
	b.log.Info("the upstream answers again", "outage", now.Sub(b.since).Round(time.Millisecond).String(), "probes", b.probes)
	b.ending = true
	if a.Asked.After(b.trippedAt) { // otherwise the upstream was available all the time, and a few requests are the cause
		b.closedAt = now
	}
	b.close()
}

// close ends the outage on this node. mu is held.
func (b *breaker) close() {
	b.since, b.probes, b.probeAt, b.stored, b.reachable = time.Time{}, 0, time.Time{}, false, true
	b.failures = 0
	b.open.Store(false)
	b.signal()
}

// signal reports that the breaker has opened or closed.
func (b *breaker) signal() {
	for _, c := range []chan struct{}{b.changed, b.wake} {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// fail records an unavailable attempt. mu is held.
func (b *breaker) fail(a *Answer, now time.Time) (excused bool) {
	b.reachable = !a.Unreachable
	before := b.failing[a.Request]
	f := failure{at: now}
	switch {
	case !b.since.IsZero():
		excused, f.strikes = b.isOut(now), before.strikes
	case a.Asked.Before(b.closedAt): // the outage in which it began is over
		excused = true
	case b.isDegraded(a.Request, now):
		excused = true
	case !before.at.After(b.closedAt): // its first failure since the last outage
		excused = true
	case b.fineAt.After(before.at):
		f.strikes = before.strikes + 1
		excused = f.strikes < countsFrom
	default: // no request that was sent since the last failure has been answered
		f.strikes = before.strikes
		excused = !f.isSuspect()
	}
	b.remember(a.Request, f)
	if !f.isSuspect() {
		b.share += newest * (1 - b.share)
	}
	if !excused || !b.since.IsZero() || a.Asked.Before(b.closedAt) {
		return excused
	}
	if b.failures++; b.failures == 1 {
		b.failedAt = a.Began
	}
	if b.failures >= tripAfter {
		b.trip(storage.Outage{Since: b.failedAt, ProbeAt: now.Add(probePauseAfter(0))})
	}
	return excused
}

// trip opens the breaker. mu is held.
func (b *breaker) trip(o storage.Outage) {
	b.log.Warn("the upstream is unavailable; batches wait for it, and only probes are sent", "since", o.Since)
	b.since, b.probes, b.probeAt, b.trippedAt = o.Since, o.Probes, o.ProbeAt, time.Now()
	b.open.Store(true)
	b.signal()
}

// remember records a failure of a request. mu is held.
func (b *breaker) remember(r RequestID, f failure) {
	if b.failing == nil {
		b.failing = map[RequestID]failure{}
	}
	if len(b.failing) >= mostFailing {
		maps.DeleteFunc(b.failing, func(_ RequestID, old failure) bool { return f.at.Sub(old.at) > recent })
	}
	if _, found := b.failing[r]; found || len(b.failing) < mostFailing {
		b.failing[r] = f
	}
}

// isDegraded reports whether so many other requests fail that the upstream must be the cause. mu is
// held.
func (b *breaker) isDegraded(r RequestID, now time.Time) bool {
	if b.share < degraded {
		return false
	}
	others := 0
	for other, f := range b.failing {
		if other != r && !f.isSuspect() && now.Sub(f.at) <= recent {
			others++
		}
	}
	return others >= fewFailing
}

// sync stores what other nodes must know.
func (b *breaker) sync(ctx context.Context) {
	b.mu.Lock()
	ending, begin := b.ending, !b.since.IsZero() && !b.stored
	o := b.outage()
	b.mu.Unlock()
	if ending {
		if b.shared.EndOutage(ctx, b.upstream) != nil {
			return // the next poll tries again
		}
		b.mu.Lock()
		b.ending = false
		b.mu.Unlock()
	}
	if !begin {
		return
	}
	o.Probes = 0
	if _, err := b.shared.PutOutage(ctx, o); err == nil { // if false, another node has stored it
		b.mu.Lock()
		b.stored = b.since.Equal(o.Since)
		b.mu.Unlock()
	}
}

// poll stores what other nodes must know, and learns what they have stored.
func (b *breaker) poll(ctx context.Context) error {
	if b.limit == 0 {
		return nil
	}
	b.sync(ctx)
	b.mu.Lock()
	stored := b.stored
	b.mu.Unlock()
	all, err := b.shared.Outages(ctx)
	if err == nil {
		b.learn(all, stored, time.Now())
	}
	return err
}

// learn applies what other nodes, or an earlier process, have stored. known means that storage had this
// node's outage before all was read.
func (b *breaker) learn(all []storage.Outage, known bool, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, o := range all {
		if o.Upstream != b.upstream {
			continue
		}
		// The clock may have been wrong when these were stored.
		o.ProbeAt = now.Add(min(o.ProbeAt.Sub(now), 2*lastProbe))
		o.Since = now.Add(min(o.Since.Sub(now), 0))
		switch {
		case !b.since.IsZero():
			if o.Probes > b.probes {
				b.probes, b.probeAt = o.Probes, o.ProbeAt
			}
			b.stored = true
		case b.ending:
		case now.Sub(o.ProbeAt) > staleAfter:
			b.ending = true
		default:
			b.trip(o)
			b.stored = true
		}
		return
	}
	if known && b.stored { // another node got an answer
		b.log.Info("the upstream answers again, according to another node", "outage", now.Sub(b.since).Round(time.Millisecond).String())
		b.closedAt = now
		b.close()
	}
}
