package auth

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sheafapi/sheaf/internal/outbound"
)

// fakeAPI answers checks with the status code at the beginning of the token.
type fakeAPI struct {
	asked atomic.Int64
	gate  chan struct{}                  // nil: answers at once
	means func(token string) (int, bool) // overrides the token's code
}

func (u *fakeAPI) Do(_ context.Context, c *outbound.Call) outbound.Answer {
	u.asked.Add(1)
	if u.gate != nil {
		<-u.gate
	}
	if u.means != nil {
		if code, ok := u.means(c.Token); ok {
			return outbound.Answer{Outcome: outbound.Answered, Code: code}
		}
	}
	var code int
	if _, err := fmt.Sscan(strings.ReplaceAll(c.Token, "-", " "), &code); err != nil {
		return outbound.Answer{Outcome: outbound.NotSent, Code: 502, Line: "connection refused"}
	}
	return outbound.Answer{Outcome: outbound.Answered, Code: code}
}

func newCheckGate(u *fakeAPI) *Gate {
	return &Gate{check: newCheck(u, time.Second, slog.New(slog.DiscardHandler))}
}

// requestFrom returns a request from an address.
func requestFrom(ctx context.Context, from string) *http.Request {
	return (&http.Request{RemoteAddr: from + ":1"}).WithContext(ctx)
}

// judge returns the status of the gate's answer to a token.
func judge(ctx context.Context, g *Gate, from, store, token string) int {
	_, err := g.Authorize(requestFrom(ctx, from), store, token, Read)
	return status(err)
}

const here, there = "192.0.2.1", "192.0.2.2"

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
		if got := judge(t.Context(), newCheckGate(&fakeAPI{}), here, "s", token); got != want {
			t.Errorf("%s: %d, want %d", token, got, want)
		}
	}
}

// TestCheckRemembers: every answer is remembered for a while: an admission for the longest time,
// and a failed check only as long as a caller waits before it retries.
func TestCheckRemembers(t *testing.T) {
	for token, remembered := range map[string]time.Duration{
		"200": admittedFor, "401": refusedFor, "403": refusedFor, "404": refusedFor, "302": refusedFor, "429": unclearFor, "500": unclearFor, "none": unclearFor,
	} {
		for _, after := range []time.Duration{0, remembered - time.Millisecond, remembered} {
			synctest.Test(t, func(t *testing.T) {
				u := &fakeAPI{}
				g := newCheckGate(u)
				first := judge(t.Context(), g, here, "s", token)
				<-time.After(after)
				u.asked.Store(0)
				for range 2 {
					if got := judge(t.Context(), g, here, "s", token); got != first {
						t.Errorf("%s: %d, then %d", token, first, got)
					}
				}
				want := int64(0)
				if after == remembered {
					want = 1
				}
				if n := u.asked.Load(); n != want {
					t.Errorf("%s after %v: asked %d times, want %d", token, after, n, want)
				}
			})
		}
	}
}

// A token is admitted only to the store that it was checked for.
func TestCheckOfOneStore(t *testing.T) {
	u := &fakeAPI{}
	g := newCheckGate(u)
	for _, store := range []string{"a", "b", "a"} {
		if got := judge(t.Context(), g, here, store, "200"); got != 200 {
			t.Error(got)
		}
	}
	if n := u.asked.Load(); n != 2 {
		t.Errorf("asked %d times for two stores", n)
	}
	if storeOwner("a") == storeOwner("b") {
		t.Error("two stores have one owner")
	}
}

// Concurrent calls with one token share one check. If one caller disconnects, the others still get
// their answer.
func TestCheckAsksOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := &fakeAPI{gate: make(chan struct{})}
		g := newCheckGate(u)
		gone, leave := context.WithCancel(t.Context())
		left := make(chan int, 1)
		go func() { left <- judge(gone, g, here, "s", "200") }()
		synctest.Wait()
		others := make(chan int, 100)
		for range cap(others) {
			go func() { others <- judge(t.Context(), g, here, "s", "200") }()
		}
		synctest.Wait()
		leave()
		if got := <-left; got != 0 {
			t.Errorf("the caller that disconnected got %d", got)
		}
		close(u.gate)
		for range cap(others) {
			if got := <-others; got != 200 {
				t.Error(got)
			}
		}
		if n := u.asked.Load(); n != 1 {
			t.Errorf("asked %d times", n)
		}
	})
}

// TestSlowedAddress: an address that has guessed too often gets no answer about unknown tokens.
// Tokens that were admitted before are still admitted, even when they must be checked again. Other
// addresses aren't affected.
func TestSlowedAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		revoked := false
		u := &fakeAPI{means: func(token string) (int, bool) { return 401, revoked && token == "200-good" }}
		g := newCheckGate(u)
		ask := func(from, token string, want int) {
			t.Helper()
			if got := judge(t.Context(), g, from, "s", token); got != want {
				t.Errorf("%s from %s: %d, want %d", token, from, got, want)
			}
		}
		ask(here, "200-good", 200)
		<-time.After(admittedFor - 2*time.Second)
		for i := range maxGuesses {
			ask(here, fmt.Sprintf("%d-%d", []int{401, 403, 404, 302}[i%4], i), []int{401, 403, 503, 503}[i%4])
		}
		asked := u.asked.Load()
		for i := range 100 {
			ask(here, fmt.Sprintf("401-more%d", i), 429)
			ask(here, fmt.Sprintf("200-unknown%d", i), 429)
		}
		ask(here, "401-0", 429)
		ask(here, "200-good", 200)
		if n := u.asked.Load(); n != asked {
			t.Errorf("a slowed address made %d calls to the API", n-asked)
		}
		ask(there, "200-unknown", 200)
		ask(here, "200-unknown", 200) // the API has admitted it for another address
		<-time.After(3 * time.Second)
		ask(here, "200-good", 200) // checked again
		revoked = true
		<-time.After(admittedFor)
		ask(here, "200-good", 401)
		ask(here, "200-unknown1", 200) // because the minute is over
	})
}

// TestParallelGuesses: concurrent guesses can't exceed the limit together, and callers that
// disconnect don't get more guesses.
func TestParallelGuesses(t *testing.T) {
	for name, hangUp := range map[string]bool{"they wait": false, "they hang up": true} {
		synctest.Test(t, func(t *testing.T) {
			u := &fakeAPI{gate: make(chan struct{})}
			g := newCheckGate(u)
			ctx, leave := context.WithCancel(t.Context())
			answers := make(chan int, 500)
			for i := range cap(answers) {
				go func() { answers <- judge(ctx, g, here, "s", fmt.Sprintf("401-%d", i)) }()
			}
			synctest.Wait()
			if n := u.asked.Load(); n != maxGuesses {
				t.Errorf("%s: the API was asked %d times at once", name, n)
			}
			if hangUp {
				leave()
				for range cap(answers) {
					<-answers
				}
				for i := range 50 {
					go func() { answers <- judge(t.Context(), g, here, "s", fmt.Sprintf("401-again%d", i)) }()
				}
				synctest.Wait()
			}
			close(u.gate)
			synctest.Wait()
			leave()
			got := map[int]int{}
			for len(answers) > 0 {
				got[<-answers]++
			}
			if n := u.asked.Load(); n != maxGuesses {
				t.Errorf("%s: the API was asked about %d tokens: %v", name, n, got)
			}
			if !hangUp && (got[401] != maxGuesses || got[429] != cap(answers)-maxGuesses) {
				t.Errorf("%s: %v", name, got)
			}
		})
	}
}

// TestManyNewTokens: valid tokens don't use up the guesses of an address, however many arrive at the
// same time.
func TestManyNewTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := &fakeAPI{gate: make(chan struct{})}
		g := newCheckGate(u)
		answers := make(chan int, 500)
		for i := range cap(answers) {
			go func() { answers <- judge(t.Context(), g, here, "s", fmt.Sprintf("200-%d", i)) }()
		}
		synctest.Wait()
		close(u.gate)
		for range cap(answers) {
			if got := <-answers; got != 200 {
				t.Errorf("a valid token got %d", got)
			}
		}
		if n := g.check.guesses.addresses.Len(); n != 0 {
			t.Errorf("%d addresses are remembered without a reason", n)
		}
	})
}

// TestAPIDown: a check that fails is not a guess, and doesn't affect tokens that were admitted
// before.
func TestAPIDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down := false
		u := &fakeAPI{means: func(string) (int, bool) { return 500, down }}
		g := newCheckGate(u)
		judge(t.Context(), g, here, "s", "200-good")
		<-time.After(admittedFor)
		down = true
		for i := range 3 * maxGuesses {
			if got := judge(t.Context(), g, here, "s", fmt.Sprintf("200-%d", i)); got != 503 {
				t.Errorf("call %d: %d", i, got)
			}
		}
		if got := judge(t.Context(), g, here, "s", "200-good"); got != 503 {
			t.Errorf("a token whose check is due: %d", got)
		}
		down = false
		<-time.After(unclearFor)
		for i := range maxGuesses {
			judge(t.Context(), g, here, "s", fmt.Sprintf("401-%d", i))
		}
		if got := judge(t.Context(), g, here, "s", "200-good"); got != 200 {
			t.Errorf("from a slowed address, once the API is back: %d", got)
		}
	})
}

// TestCheckLimits: made-up tokens from many addresses cause a limited number of concurrent calls,
// displace no admitted token, and are forgotten.
func TestCheckLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := &fakeAPI{gate: make(chan struct{})}
		g := newCheckGate(u)
		answers := make(chan int, 1000)
		for i := range cap(answers) {
			go func() {
				answers <- judge(t.Context(), g, fmt.Sprintf("198.51.%d.%d", i>>8, i&255), "s", fmt.Sprintf("401-%d", i))
			}()
		}
		synctest.Wait()
		if n := u.asked.Load(); n != maxUnknown {
			t.Errorf("the API was asked %d times at once", n)
		}
		close(u.gate)
		for range cap(answers) {
			<-answers
		}
	})
	c := newCheck(&fakeAPI{}, time.Second, slog.New(slog.DiscardHandler))
	good := idOf("s", "200")
	c.askAPI(good, "s", "200", false)
	for i := range maxRefused + 10 {
		token := fmt.Sprintf("401-%d", i)
		c.askAPI(idOf("s", token), "s", token, false)
	}
	if n := c.refused.Len(); n != maxRefused {
		t.Errorf("%d refused tokens are remembered", n)
	}
	if v := c.recall(good); v.status != http.StatusOK {
		t.Errorf("an admitted token is forgotten: %+v", v)
	}
}

func TestGuesses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuesses()
		from, other := netip.MustParseAddr(here), netip.MustParseAddr(there)
		for i := range maxGuesses {
			if err := g.refuse(from); err != nil {
				t.Fatalf("after %d: %v", i, err)
			}
			<-time.After(time.Second)
		}
		var r *Refusal
		if err := g.refuse(from); !errors.As(err, &r) || r.Status != 429 || r.Wait != guessWindow-maxGuesses*time.Second {
			t.Errorf("one too many: %+v", err)
		}
		if err := g.refuse(other); err != nil {
			t.Errorf("another address: %v", err)
		}
		<-time.After(r.Wait)
		if err := g.refuse(from); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	})
}

// One subscriber's IPv6 addresses count as one, and a mapped IPv4 address counts as the IPv4 address.
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
		g := newGuesses()
		for range maxGuesses {
			_ = g.refuse(netip.MustParseAddr(c.a))
		}
		if got := g.refuse(netip.MustParseAddr(c.b)) != nil; got != c.same {
			t.Errorf("%s and %s count as one: %v", c.a, c.b, got)
		}
	}
}

func TestGuessesLimit(t *testing.T) {
	g := newGuesses()
	for i := range maxAddresses + 1000 {
		_ = g.refuse(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}))
	}
	if n := g.addresses.Len(); n != maxAddresses {
		t.Errorf("%d addresses are remembered", n)
	}
}

func TestFrom(t *testing.T) {
	p := Proxies{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8"), netip.MustParsePrefix("fe80::/64")}
	for _, c := range []struct{ remote, forwarded, want string }{
		{"192.0.2.1:5", "", "192.0.2.1"},
		{"192.0.2.1:5", "198.51.100.7", "192.0.2.1"}, // not a trusted proxy: anybody can forge this header
		{"10.0.0.1:5", "198.51.100.7", "198.51.100.7"},
		{"10.0.0.1:5", "1.1.1.1, 198.51.100.7", "198.51.100.7"},
		{"10.0.0.1:5", "1.1.1.1, 198.51.100.7, 10.0.0.2", "198.51.100.7"},
		{"10.0.0.1:5", "1.1.1.1|198.51.100.7", "198.51.100.7"}, // two lines
		{"10.0.0.1:5", "", "10.0.0.1"},
		{"10.0.0.1:5", "nonsense", "10.0.0.1"},
		{"10.0.0.1:5", "198.51.100.7, nonsense", "10.0.0.1"},
		{"10.0.0.1:5", "10.0.0.2, 10.0.0.3", "10.0.0.2"},
		{"10.0.0.1:5", "198.51.100.7, , 10.0.0.2,", "198.51.100.7"},
		{"10.0.0.1:5", "198.51.100.7:5678", "198.51.100.7"},
		{"10.0.0.1:5", "1.1.1.1:1, 198.51.100.7:5678, 10.0.0.2:443", "198.51.100.7"},
		{"10.0.0.1:5", "198.51.100.7:99999", "10.0.0.1"},
		{"10.0.0.1:5", "198.51.100.7:", "10.0.0.1"},
		{"10.0.0.1:5", "[198.51.100.7]", "10.0.0.1"},
		{"10.0.0.1:5", "[198.51.100.7]:80", "10.0.0.1"},
		{"10.0.0.1:5", "unknown", "10.0.0.1"},
		{"10.0.0.1:5", "2001:db8::7", "2001:db8::7"},
		{"10.0.0.1:5", "[2001:db8::7]", "2001:db8::7"},
		{"10.0.0.1:5", "[2001:db8::7]:443", "2001:db8::7"},
		{"10.0.0.1:5", "[2001:db8::7", "10.0.0.1"},
		{"10.0.0.1:5", "fe80::7%made\"up", "fe80::7"},
		{"10.0.0.1:5", "198.51.100.7, [fe80::7%eth0]:443", "198.51.100.7"},
		{"[fe80::1%eth0]:5", "198.51.100.7", "198.51.100.7"},
		{"[fd00::1]:5", "2001:db8::7", "2001:db8::7"},
		{"[::ffff:10.0.0.1]:5", "::ffff:198.51.100.7", "198.51.100.7"},
		{"10.0.0.1:5", "[::ffff:198.51.100.7]:1", "198.51.100.7"},
		{"@", "198.51.100.7", "invalid IP"},
	} {
		if got := p.From(c.remote, strings.Split(c.forwarded, "|")).String(); got != c.want {
			t.Errorf("%s, %q: %s, want %s", c.remote, c.forwarded, got, c.want)
		}
	}
	for remote, want := range map[string]bool{"10.0.0.1:5": true, "[::ffff:10.0.0.1]:5": true, "192.0.2.1:5": false, "@": false} {
		if got := p.Trusts(remote); got != want {
			t.Errorf("%s is trusted: %v", remote, got)
		}
	}
}
