package auth

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
)

// Gate judges tokens and slows down who guesses them. It may be used by many goroutines.
type Gate struct {
	check   *Check
	guesses *Guesses
}

// NewGate returns a gate that asks check, and believes what trusted proxies say of where a
// call came from.
func NewGate(check *Check, trustedProxies []netip.Prefix) *Gate {
	return &Gate{check: check, guesses: NewGuesses(trustedProxies)}
}

// Judge returns nil if a call's token is let in at the store. remote and forwardedFor are
// the call's RemoteAddr and X-Forwarded-For. From an address that has guessed too often
// no token is looked at for a while, good or bad. Errors: *Refusal; the context's.
func (g *Gate) Judge(ctx context.Context, remote string, forwardedFor []string, store, token string) error {
	from := g.guesses.From(remote, forwardedFor)
	if wait := g.guesses.Wait(from); wait > 0 {
		return &Refusal{http.StatusTooManyRequests, "Too many tokens from your address were refused. Come back later.", wait}
	}
	err := g.check.Judge(ctx, store, token)
	var refusal *Refusal
	if errors.As(err, &refusal) && refusal.Status != http.StatusServiceUnavailable {
		g.guesses.Refused(from)
	}
	return err
}
