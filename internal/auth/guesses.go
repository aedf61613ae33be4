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
	maxAddresses = 100_000     // in memory, about 200 bytes each; the least recently used are dropped first
)

// guesses counts refused tokens by the address that they came from. It is safe for concurrent use.
type guesses struct {
	mu        sync.Mutex
	addresses *simplelru.LRU[netip.Prefix, *guesser]
}

// guesser is an address from which tokens were refused or aren't judged yet.
type guesser struct {
	count  int           // refused tokens in the window
	until  time.Time     // the end of the window
	open   int           // attempts that aren't judged yet
	judged chan struct{} // closed when one of them is judged; nil if nobody waits
}

func newGuesses() *guesses {
	addresses, err := simplelru.NewLRU[netip.Prefix, *guesser](maxAddresses, nil)
	if err != nil {
		panic(err) //nolint:forbidigo // only for a size of 0
	}
	return &guesses{addresses: addresses}
}

// limit counts a verdict that refuses an unknown token. It returns the error for the caller: the
// verdict itself or, if the address has used up its guesses, a *Refusal that says so.
func (g *guesses) limit(from netip.Addr, verdict error) error {
	if !isGuess(verdict) {
		return verdict
	}
	if tooMany := g.refuse(from); tooMany != nil {
		return tooMany
	}
	return verdict
}

// refuse counts a refused token. It returns nil while the address stays within the limit, and
// otherwise a *Refusal.
func (g *guesses) refuse(from netip.Addr) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	a := g.at(NetworkOf(from))
	if err := a.tooMany(); err != nil {
		return err
	}
	a.refuse()
	return nil
}

// begin counts an attempt with an unknown token before it is judged, so that concurrent attempts
// can't exceed the limit together. The caller must call end once, and say whether the token was
// refused. If open attempts already take all the guesses that the address has left, begin waits
// until one of them is judged and returns again = true. The caller then checks whether its token is
// known by now. Errors: *Refusal, ctx.Err().
func (g *guesses) begin(ctx context.Context, from netip.Addr) (end func(refused bool), again bool, err error) {
	key := NetworkOf(from)
	g.mu.Lock()
	a := g.at(key)
	if err := a.tooMany(); err != nil {
		g.mu.Unlock()
		return nil, false, err
	}
	if a.count+a.open < maxGuesses {
		a.open++
		g.mu.Unlock()
		return func(refused bool) { g.end(key, a, refused) }, false, nil
	}
	if a.judged == nil {
		a.judged = make(chan struct{})
	}
	judged := a.judged
	g.mu.Unlock()
	select {
	case <-judged:
		return nil, true, nil
	case <-ctx.Done():
		return nil, false, ctx.Err()
	}
}

// end records the verdict on an attempt.
func (g *guesses) end(key netip.Prefix, a *guesser, refused bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if a.open--; refused {
		a.refuse()
	}
	if a.judged != nil {
		close(a.judged)
		a.judged = nil
	}
	if known, ok := g.addresses.Peek(key); ok && known == a && a.open == 0 && a.count == 0 {
		g.addresses.Remove(key)
	}
}

// at returns the record of an address. Once its window is over, its count starts again at zero.
func (g *guesses) at(key netip.Prefix) *guesser {
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

// refuse counts a refused token. The first one starts the window.
func (a *guesser) refuse() {
	if now := time.Now(); a.count == 0 || !now.Before(a.until) {
		a.count, a.until = 0, now.Add(guessWindow)
	}
	a.count++
}

// tooMany returns a *Refusal if the address has used up its guesses, and otherwise nil.
func (a *guesser) tooMany() error {
	if a.count < maxGuesses {
		return nil
	}
	return &Refusal{Status: http.StatusTooManyRequests, Reason: "Too many tokens from your address were refused. Retry later.", Wait: max(time.Until(a.until), 0)}
}
