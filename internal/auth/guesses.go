package auth

import (
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// The bound on guessing tokens.
const (
	maxGuesses   = 20          // refused tokens from one address
	guessWindow  = time.Minute // within this time
	maxAddresses = 100_000     // that are remembered, each in some 150 bytes; those that guessed longest ago are forgotten
)

// Guesses counts refused tokens by the address that they came from. It may be used by
// many goroutines.
type Guesses struct {
	trusted []netip.Prefix // of proxies whose word on where a call came from counts

	mu        sync.Mutex
	addresses *simplelru.LRU[netip.Prefix, *guesser]
}

// guesser is an address that has guessed.
type guesser struct {
	count int
	until time.Time // the end of its window
}

// NewGuesses returns a Guesses that has seen nothing.
func NewGuesses(trustedProxies []netip.Prefix) *Guesses {
	addresses, err := simplelru.NewLRU[netip.Prefix, *guesser](maxAddresses, nil)
	if err != nil {
		panic(err) //nolint:forbidigo // only for a size of 0
	}
	return &Guesses{trusted: trustedProxies, addresses: addresses}
}

// Wait returns how long an address has to wait before another of its tokens is looked at;
// 0: not at all.
func (g *Guesses) Wait(from netip.Addr) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	a, known := g.addresses.Peek(network(from))
	if !known || a.count < maxGuesses {
		return 0
	}
	return max(time.Until(a.until), 0)
}

// Refused counts a token that was refused.
func (g *Guesses) Refused(from netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	a, known := g.addresses.Get(network(from))
	if !known || !time.Now().Before(a.until) {
		a = &guesser{until: time.Now().Add(guessWindow)}
		g.addresses.Add(network(from), a)
	}
	a.count++
}

// network is what is counted as one address: an IPv4 address, or the 64 bits of an IPv6
// one that are one subscriber's.
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

// From returns where a call came from: the connection's address (as http.Request's
// RemoteAddr has it), or, where that is a trusted proxy's, the last address in
// X-Forwarded-For that is not one. What stands before that anybody can have written.
func (g *Guesses) From(remote string, forwardedFor []string) netip.Addr {
	at, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Addr{}
	}
	from := at.Addr().Unmap()
	hops := strings.Split(strings.Join(forwardedFor, ","), ",")
	for i := len(hops) - 1; i >= 0 && g.isTrusted(from); i-- {
		hop, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil {
			break
		}
		from = hop.Unmap()
	}
	return from
}

func (g *Guesses) isTrusted(a netip.Addr) bool {
	for _, p := range g.trusted {
		if p.Contains(a.WithZone("")) {
			return true
		}
	}
	return false
}
