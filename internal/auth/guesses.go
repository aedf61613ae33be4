package auth

import (
	"context"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// The limit on guessing tokens.
const (
	maxGuesses   = 20          // refused tokens from one address
	guessWindow  = time.Minute // within this time
	maxAddresses = 100_000     // that are remembered, each in about 200 bytes; those that guessed longest ago are forgotten
)

// Guesses counts refused tokens by the address that they came from. It may be used by
// many goroutines.
type Guesses struct {
	mu        sync.Mutex
	addresses *simplelru.LRU[netip.Prefix, *guesser]
}

// guesser is an address that guesses, or may turn out to.
type guesser struct {
	count    int           // refused tokens in the window
	until    time.Time     // the end of the window
	open     int           // attempts that aren't judged yet
	answered chan struct{} // closed when one of these is judged; nil: nobody waits for that
}

// NewGuesses returns a Guesses that has seen nothing.
func NewGuesses() *Guesses {
	addresses, err := simplelru.NewLRU[netip.Prefix, *guesser](maxAddresses, nil)
	if err != nil {
		panic(err) //nolint:forbidigo // only for a size of 0
	}
	return &Guesses{addresses: addresses}
}

// Refuse counts a refused token. It returns nil while the address stays within the limit, and
// the *Refusal for an address beyond it.
func (g *Guesses) Refuse(from netip.Addr) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	a := g.at(network(from))
	if err := a.spent(); err != nil {
		return err
	}
	a.refuse()
	return nil
}

// Begin counts an attempt with an unknown token before it is judged, so that attempts at the
// same time can't pass the limit together. The caller must call end once, and say whether the
// token was refused. Where the address has as many attempts open as it may still get wrong,
// Begin waits until one of them is judged, and then returns again: the caller looks whether
// its token is known by now. Errors: *Refusal; the context's.
func (g *Guesses) Begin(ctx context.Context, from netip.Addr) (end func(refused bool), again bool, err error) {
	key := network(from)
	g.mu.Lock()
	a := g.at(key)
	if err := a.spent(); err != nil {
		g.mu.Unlock()
		return nil, false, err
	}
	if a.count+a.open < maxGuesses {
		a.open++
		g.mu.Unlock()
		return func(refused bool) { g.end(key, a, refused) }, false, nil
	}
	if a.answered == nil {
		a.answered = make(chan struct{})
	}
	answered := a.answered
	g.mu.Unlock()
	select {
	case <-answered:
		return nil, true, nil
	case <-ctx.Done():
		return nil, false, ctx.Err()
	}
}

// end takes note of what came of an attempt.
func (g *Guesses) end(key netip.Prefix, a *guesser, refused bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if a.open--; refused {
		a.refuse()
	}
	if a.answered != nil {
		close(a.answered)
		a.answered = nil
	}
	if known, ok := g.addresses.Peek(key); ok && known == a && a.open == 0 && a.count == 0 {
		g.addresses.Remove(key)
	}
}

// at returns what is known of an address. Once its window is over, it has guessed nothing.
func (g *Guesses) at(key netip.Prefix) *guesser {
	a, known := g.addresses.Get(key)
	if !known {
		a = &guesser{}
		g.addresses.Add(key, a)
	}
	if !time.Now().Before(a.until) {
		a.count = 0
	}
	return a
}

// refuse counts a refused token. The first one begins the window.
func (a *guesser) refuse() {
	if now := time.Now(); a.count == 0 || !now.Before(a.until) {
		a.count, a.until = 0, now.Add(guessWindow)
	}
	a.count++
}

// spent returns the *Refusal for an address that has guessed as often as it may; nil: it hasn't.
func (a *guesser) spent() error {
	if a.count < maxGuesses {
		return nil
	}
	return &Refusal{Status: http.StatusTooManyRequests, Reason: "Too many tokens from your address were refused. Retry later.", Wait: max(time.Until(a.until), 0)}
}

// network is what is counted as one address: an IPv4 address, or the 64 bits of an IPv6
// address that belong to one subscriber.
func network(a netip.Addr) netip.Prefix {
	bits := 32
	if a = a.Unmap().WithZone(""); a.Is6() {
		bits = 64
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return netip.Prefix{} // of the zero address: all that are unknown are one
	}
	return p
}
