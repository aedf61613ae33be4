package auth

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sheafapi/sheaf/internal/outbound"
)

// upstream answers checks with the code that the token names.
type upstream struct {
	asked atomic.Int64
	gate  chan struct{} // nil: answers at once
}

func (u *upstream) Do(ctx context.Context, c *outbound.Call) outbound.Answer {
	u.asked.Add(1)
	if u.gate != nil {
		<-u.gate
	}
	var code int
	if _, err := fmt.Sscan(c.Token, &code); err != nil {
		return outbound.Answer{Outcome: outbound.NotSent, Code: 502, Line: "connection refused"}
	}
	return outbound.Answer{Outcome: outbound.Answered, Code: code}
}

func newCheck(u *upstream) *Check { return NewCheck(u, time.Second, slog.New(slog.DiscardHandler)) }

func status(err error) int {
	var r *Refusal
	switch {
	case err == nil:
		return 200
	case errors.As(err, &r):
		return r.Status
	}
	return 0
}

func TestCheck(t *testing.T) {
	for token, want := range map[string]int{
		"200": 200, "204": 200, "299": 200, "401": 401, "403": 403, "404": 503, "301": 503, "429": 503, "500": 503, "none": 503,
	} {
		if got := status(newCheck(&upstream{}).Judge(t.Context(), "s", token)); got != want {
			t.Errorf("%s: %d, want %d", token, got, want)
		}
	}
}

// What the API said is remembered for a while: that a token is let in longer than that it
// is not; that it could not be asked, not at all.
func TestCheckRemembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			token string
			after time.Duration
			asked int64 // then, of two more calls
		}{
			{"200", letInFor - time.Millisecond, 0},
			{"200", letInFor, 1},
			{"403", refusedFor - time.Millisecond, 0},
			{"403", refusedFor, 1},
			{"500", 0, 2},
		} {
			u := &upstream{}
			check := newCheck(u)
			first := status(check.Judge(t.Context(), "s", c.token))
			<-time.After(c.after)
			u.asked.Store(0)
			for range 2 {
				if got := status(check.Judge(t.Context(), "s", c.token)); got != first {
					t.Errorf("%s: %d, then %d", c.token, first, got)
				}
			}
			if n := u.asked.Load(); n != c.asked {
				t.Errorf("%s after %v: asked %d times, want %d", c.token, c.after, n, c.asked)
			}
		}
	})
}

// A token is let in at the store that it was checked for.
func TestCheckIsOfOneStore(t *testing.T) {
	u := &upstream{}
	check := newCheck(u)
	for _, store := range []string{"a", "b", "a"} {
		if err := check.Judge(t.Context(), store, "200"); err != nil {
			t.Error(err)
		}
	}
	if n := u.asked.Load(); n != 2 {
		t.Errorf("asked %d times for two stores", n)
	}
	if StoreOwner("a") == StoreOwner("b") {
		t.Error("two stores have one owner")
	}
}

// Of many at once one asks; one that goes away does not take the answer from the others.
func TestCheckAsksOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := &upstream{gate: make(chan struct{})}
		check := newCheck(u)
		gone, leave := context.WithCancel(t.Context())
		left := make(chan error, 1)
		go func() { left <- check.Judge(gone, "s", "200") }()
		synctest.Wait()
		others := make(chan error, 10)
		for range cap(others) {
			go func() { others <- check.Judge(t.Context(), "s", "200") }()
		}
		synctest.Wait()
		leave()
		if err := <-left; !errors.Is(err, context.Canceled) {
			t.Errorf("who went away got %v", err)
		}
		close(u.gate)
		for range cap(others) {
			if err := <-others; err != nil {
				t.Error(err)
			}
		}
		if n := u.asked.Load(); n != 1 {
			t.Errorf("asked %d times", n)
		}
	})
}

func TestGuesses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGuesses(nil)
		from, other := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
		for i := range maxGuesses {
			if w := g.Wait(from); w != 0 {
				t.Fatalf("it has to wait after %d", i)
			}
			g.Refused(from)
			<-time.After(time.Second)
		}
		if w, want := g.Wait(from), guessWindow-maxGuesses*time.Second; w != want {
			t.Errorf("it has to wait %v, want %v", w, want)
		}
		if w := g.Wait(other); w != 0 {
			t.Errorf("another address has to wait %v", w)
		}
		<-time.After(g.Wait(from))
		if w := g.Wait(from); w != 0 {
			t.Errorf("afterwards it has to wait %v", w)
		}
		g.Refused(from)
		if w := g.Wait(from); w != 0 {
			t.Errorf("one more in the next minute, and it has to wait %v", w)
		}
	})
}

// One subscriber's IPv6 addresses are one, and a mapped IPv4 address is the IPv4 one.
func TestGuessesByNetwork(t *testing.T) {
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{"2001:db8:1:2::1", "2001:db8:1:2:ffff::9", true},
		{"2001:db8:1:2::1", "2001:db8:1:3::1", false},
		{"192.0.2.1", "::ffff:192.0.2.1", true},
		{"192.0.2.1", "192.0.2.2", false},
		{"fe80::1%eth0", "fe80::1%eth1", true},
	} {
		g := NewGuesses(nil)
		for range maxGuesses {
			g.Refused(netip.MustParseAddr(c.a))
		}
		if got := g.Wait(netip.MustParseAddr(c.b)) > 0; got != c.same {
			t.Errorf("%s and %s are one: %v", c.a, c.b, got)
		}
	}
}

func TestGuessesAreBounded(t *testing.T) {
	g := NewGuesses(nil)
	for i := range maxAddresses + 1000 {
		g.Refused(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}))
	}
	if n := g.addresses.Len(); n != maxAddresses {
		t.Errorf("%d addresses are remembered", n)
	}
}

func TestFrom(t *testing.T) {
	g := NewGuesses([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")})
	for _, c := range []struct{ remote, forwarded, want string }{
		{"192.0.2.1:5", "", "192.0.2.1"},
		{"192.0.2.1:5", "198.51.100.7", "192.0.2.1"}, // not a proxy of ours: anybody can write that
		{"10.0.0.1:5", "198.51.100.7", "198.51.100.7"},
		{"10.0.0.1:5", "1.1.1.1, 198.51.100.7", "198.51.100.7"},
		{"10.0.0.1:5", "1.1.1.1, 198.51.100.7, 10.0.0.2", "198.51.100.7"},
		{"10.0.0.1:5", "1.1.1.1|198.51.100.7", "198.51.100.7"}, // two lines
		{"10.0.0.1:5", "", "10.0.0.1"},
		{"10.0.0.1:5", "nonsense", "10.0.0.1"},
		{"10.0.0.1:5", "198.51.100.7, nonsense", "10.0.0.1"},
		{"10.0.0.1:5", "10.0.0.2, 10.0.0.3", "10.0.0.2"},
		{"[fd00::1]:5", "2001:db8::7", "2001:db8::7"},
		{"[::ffff:10.0.0.1]:5", "::ffff:198.51.100.7", "198.51.100.7"},
		{"@", "198.51.100.7", "invalid IP"},
	} {
		if got := g.From(c.remote, strings.Split(c.forwarded, "|")).String(); got != c.want {
			t.Errorf("%s, %q: %s, want %s", c.remote, c.forwarded, got, c.want)
		}
	}
}
