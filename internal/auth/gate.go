package auth

import (
	"context"
	"errors"
	"net/netip"
)

// Gate judges tokens and slows down addresses that guess them. It may be used by many
// goroutines.
//
// The limit on guesses holds for tokens that nobody knows. A key that was issued, or a token
// that the API has let in before, is judged whatever its address has done: neighbours behind
// one address can't lock each other out.
type Gate struct {
	check   *Check // one of both
	keys    *Keys
	proxies Proxies
	guesses *Guesses
}

// NewGate returns a gate that asks check or, if that is nil, keys, and believes what
// trusted proxies say of where a call came from.
func NewGate(check *Check, keys *Keys, trustedProxies []netip.Prefix) *Gate {
	return &Gate{check: check, keys: keys, proxies: trustedProxies, guesses: NewGuesses()}
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
// Errors: *Refusal; the context's.
func (g *Gate) Judge(ctx context.Context, c Call) (in LetIn, err error) {
	from := g.proxies.From(c.Remote, c.ForwardedFor)
	if g.check != nil {
		if err := g.judgeByCheck(ctx, from, c.Store, c.Token); err != nil {
			return LetIn{}, err
		}
		return LetIn{Credential: c.Token}, nil
	}
	in, err = g.keys.Judge(c.Store, c.Token, c.Right)
	if isGuess(err) {
		if slow := g.guesses.Refuse(from); slow != nil {
			return in, slow
		}
	}
	return in, err
}

// judgeByCheck asks the API about a token, unless it did so recently.
func (g *Gate) judgeByCheck(ctx context.Context, from netip.Addr, store, token string) error {
	key := idOf(store, token)
	for {
		v := g.check.remembered(key)
		switch {
		case v.isFresh():
			err := v.err()
			if isGuess(err) {
				if slow := g.guesses.Refuse(from); slow != nil {
					return slow
				}
			}
			return err
		case v.wasLetIn:
			v, err := g.check.ask(ctx, key, store, token, true, func(verdict) {})
			if err != nil {
				return err
			}
			return v.err()
		}
		end, again, err := g.guesses.Begin(ctx, from)
		if err != nil {
			return err
		}
		if again {
			continue
		}
		v, err = g.check.ask(ctx, key, store, token, false, func(v verdict) { end(v.guess) })
		if err != nil {
			return err
		}
		return v.err()
	}
}

// isGuess reports whether a token was refused because nobody knows it.
func isGuess(err error) bool {
	refusal, ok := errors.AsType[*Refusal](err)
	return ok && refusal.guess
}
