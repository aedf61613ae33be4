package auth

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/sheafapi/sheaf/internal/outage"
	"github.com/sheafapi/sheaf/internal/outbound"
	"golang.org/x/sync/singleflight"
)

const (
	admittedFor = time.Minute      // how long a token is admitted before it is checked again
	refusedFor  = 10 * time.Second // how long a token is refused before it is checked again
	unclearFor  = time.Second      // how long a token isn't checked again after an inconclusive answer
	maxAdmitted = 100_000          // admitted tokens in memory, about 200 bytes each
	maxRefused  = 100_000          // other tokens in memory; they never displace admitted ones
	maxUnknown  = 256              // unknown tokens that are checked at the same time
)

// upstream makes one attempt; see outbound.Client.
type upstream interface {
	Do(ctx context.Context, c *outbound.Call) outbound.Answer
}

// check asks the API about tokens. It is safe for concurrent use.
type check struct {
	upstream upstream
	timeout  time.Duration
	log      *slog.Logger
	close    func() // closes the upstream's connections
	guesses  *guesses
	flight   singleflight.Group
	unknown  chan struct{} // has an element for each unknown token that is being checked

	mu       sync.Mutex
	admitted *simplelru.LRU[id, time.Time] // the time of the next check
	refused  *simplelru.LRU[id, verdict]
	failures outage.Log // checks that failed
}

// id identifies a token at a store in memory. The token itself is not kept.
type id [sha256.Size]byte

func idOf(store, token string) id { return sha256.Sum256([]byte(store + "\x00" + token)) }

// verdict is what the API said about a token.
type verdict struct {
	status      int // of the Refusal; 200: admitted
	guess       bool
	until       time.Time // when the verdict expires
	wasAdmitted bool      // the last conclusive answer admitted the token
}

func (v *verdict) isFresh() bool { return time.Now().Before(v.until) }

// err returns nil if the token is admitted, and otherwise a *Refusal.
func (v *verdict) err() error {
	switch v.status {
	case http.StatusOK:
		return nil
	case http.StatusUnauthorized, http.StatusForbidden:
		return &Refusal{Status: v.status, Reason: "The API does not admit this token to this store.", guess: v.guess}
	}
	return &Refusal{Status: http.StatusServiceUnavailable, Reason: "Could not verify this token with the API. Retry in a second.", guess: v.guess}
}

// newCheck returns a check. u sends each call to the URL that checks tokens.
func newCheck(u upstream, timeout time.Duration, log *slog.Logger) *check {
	admitted, err := simplelru.NewLRU[id, time.Time](maxAdmitted, nil)
	if err != nil {
		panic(err) //nolint:forbidigo // only for a size of 0
	}
	refused, err := simplelru.NewLRU[id, verdict](maxRefused, nil)
	if err != nil {
		panic(err) //nolint:forbidigo // only for a size of 0
	}
	return &check{
		upstream: u, timeout: timeout, log: log, close: func() {}, guesses: newGuesses(),
		unknown: make(chan struct{}, maxUnknown), admitted: admitted, refused: refused,
	}
}

// judge asks the API about a token unless a recent answer is known. Errors: *Refusal, ctx.Err().
func (c *check) judge(ctx context.Context, from netip.Addr, store, token string) error {
	key := idOf(store, token)
	for {
		v := c.recall(key)
		switch {
		case v.isFresh():
			return c.guesses.limit(from, v.err())
		case v.wasAdmitted:
			v, err := c.ask(ctx, key, store, token, true, func(verdict) {})
			if err != nil {
				return err
			}
			return v.err()
		}
		end, again, err := c.guesses.begin(ctx, from)
		if err != nil {
			return err
		}
		if again {
			continue
		}
		v, err = c.ask(ctx, key, store, token, false, func(v verdict) { end(v.guess) })
		if err != nil {
			return err
		}
		return v.err()
	}
}

// recall returns the last verdict on a token. If it is not fresh, the API must be asked.
func (c *check) recall(key id) verdict {
	c.mu.Lock()
	defer c.mu.Unlock()
	until, wasAdmitted := c.admitted.Get(key)
	if v := (verdict{status: http.StatusOK, until: until, wasAdmitted: true}); wasAdmitted && v.isFresh() {
		return v
	}
	v, _ := c.refused.Get(key)
	v.wasAdmitted = wasAdmitted
	return v
}

// ask asks the API about a token. Concurrent calls with the same token share one call to the API.
// ask calls judged once with the verdict, even if ctx ends first. Errors: ctx.Err().
func (c *check) ask(ctx context.Context, key id, store, token string, known bool, judged func(verdict)) (verdict, error) {
	answer := c.flight.DoChan(string(key[:]), func() (any, error) { return c.askAPI(key, store, token, known), nil })
	select {
	case a := <-answer:
		v := a.Val.(verdict)
		judged(v)
		return v, nil
	case <-ctx.Done():
		go func() { judged((<-answer).Val.(verdict)) }()
		return verdict{}, ctx.Err()
	}
}

// askAPI makes one call to the API and remembers the verdict. The call continues even if the caller
// is gone.
func (c *check) askAPI(key id, store, token string, known bool) verdict {
	ctx, cancel := context.WithTimeout(context.Background(), c.timeout)
	defer cancel()
	if !known {
		select {
		case c.unknown <- struct{}{}:
			defer func() { <-c.unknown }()
		case <-ctx.Done():
			return verdict{status: http.StatusServiceUnavailable}
		}
	}
	a := c.upstream.Do(ctx, &outbound.Call{Store: store, Method: http.MethodGet, Token: token})
	v := meaning(&a, time.Now())
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case v.status == http.StatusOK:
		c.admitted.Add(key, v.until)
		c.refused.Remove(key)
	case v.guess:
		c.admitted.Remove(key)
		c.refused.Add(key, v)
	default: // the answer says nothing about the token
		c.refused.Add(key, v)
	}
	if v.status == http.StatusServiceUnavailable {
		c.logFailure(store, &a)
	}
	return v
}

// meaning returns the verdict that follows from an answer.
func meaning(a *outbound.Answer, now time.Time) verdict {
	answered := a.Outcome == outbound.Answered
	switch {
	case answered && a.Code/100 == 2:
		return verdict{status: http.StatusOK, until: now.Add(admittedFor)}
	case answered && (a.Code == http.StatusUnauthorized || a.Code == http.StatusForbidden):
		return verdict{status: a.Code, guess: true, until: now.Add(refusedFor)}
	case answered && a.Code < 500 && a.Code != http.StatusRequestTimeout && a.Code != http.StatusTooManyRequests:
		// Some APIs answer unknown tokens with 404, or redirect them to a sign-in page.
		return verdict{status: http.StatusServiceUnavailable, guess: true, until: now.Add(refusedFor)}
	}
	return verdict{status: http.StatusServiceUnavailable, until: now.Add(unclearFor)}
}

// logFailure logs that a token could not be checked. Callers can cause such failures as often as
// they like, so it logs the first one, and then their number once a minute. The caller holds mu.
func (c *check) logFailure(store string, a *outbound.Answer) {
	if n, due := c.failures.Failed(time.Now()); due {
		c.log.Warn("could not check a token; its caller must retry", "store", store, "answer", fmt.Sprintf("%d %s", a.Code, a.Line), "since_last_log", n)
	}
}
