package auth

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
)

// Gate judges tokens and slows down who guesses them. It may be used by many goroutines.
type Gate struct {
	check   *Check // one of both
	keys    *Keys
	guesses *Guesses
}

// NewGate returns a gate that asks check or, if that is nil, keys, and believes what
// trusted proxies say of where a call came from.
func NewGate(check *Check, keys *Keys, trustedProxies []netip.Prefix) *Gate {
	return &Gate{check: check, keys: keys, guesses: NewGuesses(trustedProxies)}
}

// Reload reads what the gate judges by again. If that can't be used, it stays as it was.
func (g *Gate) Reload() error {
	if g.keys == nil {
		return nil
	}
	return g.keys.Reload()
}

// Call is what the gate has to know of a call.
type Call struct {
	Remote       string   // http.Request's RemoteAddr
	ForwardedFor []string // its X-Forwarded-For
	Store, Token string
	Right        string // what is to be done
}

// LetIn is whom the gate has let in.
type LetIn struct {
	Credential string // what goes to the upstream
	Name       string // of the key; empty: there is none
}

// Judge returns the credential for the upstream if a call's token is let in at the store.
// From an address that has guessed too often no token is looked at for a while, good or
// bad. Errors: *Refusal; the context's.
func (g *Gate) Judge(ctx context.Context, c Call) (in LetIn, err error) {
	from := g.guesses.From(c.Remote, c.ForwardedFor)
	if wait := g.guesses.Wait(from); wait > 0 {
		return in, &Refusal{http.StatusTooManyRequests, "Too many tokens from your address were refused. Come back later.", wait}
	}
	if g.check != nil {
		in.Credential, err = c.Token, g.check.Judge(ctx, c.Store, c.Token)
	} else {
		in, err = g.keys.Judge(c.Store, c.Token, c.Right)
	}
	var refusal *Refusal
	if errors.As(err, &refusal) && refusal.Status != http.StatusServiceUnavailable {
		g.guesses.Refused(from)
	}
	return in, err
}
