// Package auth judges callers' tokens, before anything else is done for them.
//
// Without it a token is the caller's own business and its batches' owner: nobody checks
// it before the upstream does (passthrough). Check asks an address of the API with the
// caller's token first; whom it lets in, it makes one owner of the store's batches. Keys
// are the operator's own, in a file, with the upstream's credential in their place, so that
// callers never hold that.
package auth

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/outbound"
	"golang.org/x/sync/singleflight"
)

const (
	letInFor   = time.Minute      // how long a token is let in without being checked again
	refusedFor = 10 * time.Second // how long it is refused without that
	unclearFor = time.Second      // how long it isn't asked about again after an answer that says nothing about it
	maxLetIn   = 100_000          // tokens that are remembered as let in, each in about 200 bytes
	maxRefused = 100_000          // others that are remembered; they never displace those
	maxAsked   = 256              // unknown tokens that the API is asked about at once
	tellEvery  = time.Minute      // how often checks that failed are logged
)

// A Refusal is the error for a token that is not let in.
type Refusal struct {
	Status int           // 401 or 403; 429: too many guesses; 503: the API gave no answer that decides
	Reason string        // a sentence for the caller
	Wait   time.Duration // 429: until another unknown token is looked at

	guess bool // nobody knows the token
}

func (r *Refusal) Error() string { return r.Reason }

// Upstream makes one attempt; see outbound.Client.
type Upstream interface {
	Do(ctx context.Context, c *outbound.Call) outbound.Answer
}

// Check asks an address of the API about tokens. It may be used by many goroutines.
type Check struct {
	upstream Upstream
	timeout  time.Duration
	log      *slog.Logger
	asking   singleflight.Group
	unknown  chan struct{} // has an element for each unknown token that the API is asked about

	mu      sync.Mutex
	letIn   *simplelru.LRU[id, time.Time] // until when; later it is checked again
	refused *simplelru.LRU[id, verdict]
	told    time.Time // when a check that failed was logged
	untold  int       // how many failed since
}

// id is what a token at a store is remembered by. The token itself is not kept.
type id [sha256.Size]byte

func idOf(store, token string) id { return sha256.Sum256([]byte(store + "\x00" + token)) }

// verdict is what the API said about a token.
type verdict struct {
	status   int // of the Refusal; 200: let in
	guess    bool
	until    time.Time // it is remembered
	wasLetIn bool      // the last answer that decided let the token in
}

func (v *verdict) isFresh() bool { return time.Now().Before(v.until) }

// err returns nil if the token is let in, and else a *Refusal.
func (v *verdict) err() error {
	switch v.status {
	case http.StatusOK:
		return nil
	case http.StatusUnauthorized, http.StatusForbidden:
		return &Refusal{Status: v.status, Reason: "The API does not let this token in at this store.", guess: v.guess}
	}
	return &Refusal{Status: http.StatusServiceUnavailable, Reason: "Could not verify this token with the API. Retry in a second.", guess: v.guess}
}

// NewCheck returns a Check that asks an upstream whose address is that of the check.
func NewCheck(upstream Upstream, timeout time.Duration, log *slog.Logger) *Check {
	letIn, err := simplelru.NewLRU[id, time.Time](maxLetIn, nil)
	if err != nil {
		panic(err) //nolint:forbidigo // only for a size of 0
	}
	refused, err := simplelru.NewLRU[id, verdict](maxRefused, nil)
	if err != nil {
		panic(err) //nolint:forbidigo // only for a size of 0
	}
	return &Check{
		upstream: upstream, timeout: timeout, log: log, unknown: make(chan struct{}, maxAsked), letIn: letIn, refused: refused,
	}
}

// StoreOwner is the owner of all batches of a store whose callers are checked. No token
// stands for it: tokens have no NUL.
func StoreOwner(store string) batch.Owner { return batch.OwnerOf("\x00store\x00" + store) }

// remembered returns what is known about a token. It is not fresh if the API has to be asked.
func (c *Check) remembered(key id) verdict {
	c.mu.Lock()
	defer c.mu.Unlock()
	until, wasLetIn := c.letIn.Get(key)
	if let := (verdict{status: http.StatusOK, until: until, wasLetIn: true}); wasLetIn && let.isFresh() {
		return let
	}
	v, _ := c.refused.Get(key)
	v.wasLetIn = wasLetIn
	return v
}

// ask asks the API about a token. Of many calls with one token at once, one asks. judged is
// called with the answer once, also when ctx has ended before. Errors: the context's.
func (c *Check) ask(ctx context.Context, key id, store, token string, known bool, judged func(verdict)) (verdict, error) {
	answer := c.asking.DoChan(string(key[:]), func() (any, error) { return c.askAPI(key, store, token, known), nil })
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

// askAPI makes one call to the API and remembers what it means. No caller's context ends it.
func (c *Check) askAPI(key id, store, token string, known bool) verdict {
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
		c.letIn.Add(key, v.until)
		c.refused.Remove(key)
	case v.guess:
		c.letIn.Remove(key)
		c.refused.Add(key, v)
	default: // the answer says nothing about the token
		c.refused.Add(key, v)
	}
	if v.status == http.StatusServiceUnavailable {
		c.tell(store, &a)
	}
	return v
}

// meaning returns what an answer says about a token.
func meaning(a *outbound.Answer, now time.Time) verdict {
	answered := a.Outcome == outbound.Answered
	switch {
	case answered && a.Code/100 == 2:
		return verdict{status: http.StatusOK, until: now.Add(letInFor)}
	case answered && (a.Code == http.StatusUnauthorized || a.Code == http.StatusForbidden):
		return verdict{status: a.Code, guess: true, until: now.Add(refusedFor)}
	case answered && a.Code < 500 && a.Code != http.StatusRequestTimeout && a.Code != http.StatusTooManyRequests:
		// A 404, or a redirect to a page where people sign in: some APIs answer unknown tokens so.
		return verdict{status: http.StatusServiceUnavailable, guess: true, until: now.Add(refusedFor)}
	}
	return verdict{status: http.StatusServiceUnavailable, until: now.Add(unclearFor)}
}

// tell logs that a token could not be checked: the first time, and then once a minute with the
// number of times. Callers can make that happen as often as they like.
func (c *Check) tell(store string, a *outbound.Answer) {
	c.untold++
	now := time.Now()
	if now.Sub(c.told) < tellEvery {
		return
	}
	c.log.Warn("a token could not be checked; its caller was told to come back", "store", store, "answer", fmt.Sprintf("%d %s", a.Code, a.Line), "since_last_told", c.untold)
	c.told, c.untold = now, 0
}
