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
	"github.com/sheafapi/sheaf/batch"
	"github.com/sheafapi/sheaf/internal/outbound"
	"golang.org/x/sync/singleflight"
)

const (
	letInFor   = time.Minute      // how long a token is let in without being checked again
	refusedFor = 10 * time.Second // how long it is refused without that
	maxChecked = 100_000          // tokens that are remembered, each in some 200 bytes
)

// A Refusal is the error for a token that is not let in.
type Refusal struct {
	Status int           // 401 or 403; 429: too many guesses; 503: the API could not be asked
	Reason string        // a sentence for the caller
	Wait   time.Duration // 429: until another token is looked at
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

	mu      sync.Mutex
	checked *simplelru.LRU[id, verdict]
}

// id is what a token at a store is remembered by. The token itself is not kept.
type id [sha256.Size]byte

// verdict is what the API said of a token.
type verdict struct {
	status int // 200: let in
	until  time.Time
}

// NewCheck returns a Check that asks an upstream whose address is that of the check.
func NewCheck(upstream Upstream, timeout time.Duration, log *slog.Logger) *Check {
	checked, err := simplelru.NewLRU[id, verdict](maxChecked, nil)
	if err != nil {
		panic(err) //nolint:forbidigo // only for a size of 0
	}
	return &Check{upstream: upstream, timeout: timeout, log: log, checked: checked}
}

// StoreOwner is the owner of all batches of a store whose callers are checked. No token
// stands for it: tokens have no NUL.
func StoreOwner(store string) batch.Owner { return batch.OwnerOf("\x00store\x00" + store) }

// Judge returns nil if the token is let in at the store. Of many that ask about one token
// at once, one asks the API. Errors: *Refusal; the context's, when it ends first.
func (c *Check) Judge(ctx context.Context, store, token string) error {
	key := id(sha256.Sum256([]byte(store + "\x00" + token)))
	v, known := c.remembered(key)
	if !known {
		answer := c.asking.DoChan(string(key[:]), func() (any, error) { return c.ask(key, store, token), nil })
		select {
		case a := <-answer:
			v = a.Val.(verdict)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	switch v.status {
	case http.StatusOK:
		return nil
	case http.StatusUnauthorized, http.StatusForbidden:
		return &Refusal{Status: v.status, Reason: "The API does not let this token in at this store."}
	}
	return &Refusal{Status: http.StatusServiceUnavailable, Reason: "The API could not be asked whether this token is let in. Ask again in a second."}
}

func (c *Check) remembered(key id) (verdict, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	v, ok := c.checked.Get(key)
	return v, ok && time.Now().Before(v.until)
}

// ask asks the API, whoever of those that wait goes away meanwhile.
func (c *Check) ask(key id, store, token string) verdict {
	ctx, cancel := context.WithTimeout(context.Background(), c.timeout)
	defer cancel()
	a := c.upstream.Do(ctx, &outbound.Call{Store: store, Method: http.MethodGet, Token: token})
	v := verdict{status: a.Code}
	switch {
	case a.Outcome == outbound.Answered && a.Code/100 == 2:
		v = verdict{http.StatusOK, time.Now().Add(letInFor)}
	case a.Outcome == outbound.Answered && (a.Code == http.StatusUnauthorized || a.Code == http.StatusForbidden):
		v.until = time.Now().Add(refusedFor)
	default:
		c.log.Warn("a token could not be checked; its caller was told to come back", "store", store, "answer", fmt.Sprintf("%d %s", a.Code, a.Line))
		return verdict{status: http.StatusServiceUnavailable} // asked again next time
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.checked.Add(key, v)
	return v
}
