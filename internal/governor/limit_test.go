package governor

import (
	"testing"
	"testing/synctest"
	"time"
)

// inFlight takes n places of a new credential, and returns when that was.
func inFlight(t *testing.T, c *Credential, n int) time.Time {
	t.Helper()
	now := time.Now()
	for range n {
		if _, ok := c.Try(t.Context(), 1, now); !ok {
			t.Fatal("refused without a limit")
		}
	}
	<-time.After(time.Second)
	return now
}

// ended ends n requests that were sent at a moment.
func ended(c *Credential, kind Kind, asked time.Time, n int) {
	for range n {
		c.Done(Answer{Kind: kind, Asked: asked, Began: asked, Ended: time.Now()})
	}
}

// free counts the requests that may be sent now, and sends them.
func free(t *testing.T, c *Credential) (n int, asked time.Time) {
	t.Helper()
	<-time.After(time.Millisecond) // after the answers before
	now := time.Now()
	for ; n < 1000; n++ {
		if _, ok := c.Try(t.Context(), 1, now); !ok {
			break
		}
	}
	<-time.After(time.Second)
	return n, now
}

// TestLimit: what cuts the limit, to what, and how it recovers.
func TestLimit(t *testing.T) {
	for name, f := range map[string]func(t *testing.T, c *Credential){
		"few in flight say nothing": func(t *testing.T, c *Credential) {
			for _, kind := range []Kind{Busy, Throttled, Late} {
				asked := inFlight(t, c, fewest-1)
				ended(c, kind, asked, fewest-1)
			}
			if n, _ := free(t, c); n < 1000 {
				t.Errorf("the limit is %d", n)
			}
		},
		"a broken connection says nothing": func(t *testing.T, c *Credential) {
			ended(c, Silent, inFlight(t, c, 100), 100)
			if n, _ := free(t, c); n < 1000 {
				t.Errorf("the limit is %d", n)
			}
		},
		"once in a round trip, doubled in the next": func(t *testing.T, c *Credential) {
			asked := inFlight(t, c, 100)
			ended(c, Busy, asked, 10)
			ended(c, Fine, asked, 90)
			n, asked := free(t, c)
			if n != 70 {
				t.Errorf("the limit is %d, want 70", n)
			}
			ended(c, Fine, asked, 70)
			_, asked = free(t, c)
			ended(c, Fine, asked, c.inflight)
			if n, _ = free(t, c); n < 99 || n > 100 {
				t.Errorf("after two round trips the limit is %d, want 99 to 100: just below what failed", n)
			}
		},
		"never below eight": func(t *testing.T, c *Credential) {
			asked := inFlight(t, c, 100)
			ended(c, Late, asked, 100)
			n := 0
			for range 20 {
				n, asked = free(t, c)
				ended(c, Busy, asked, n)
			}
			if n != fewest {
				t.Errorf("the limit is %d, want %d", n, fewest)
			}
		},
		"taken back, and not repeated": func(t *testing.T, c *Credential) {
			asked := inFlight(t, c, 100)
			ended(c, Busy, asked, 10)
			ended(c, Fine, asked, 90)
			for i := range 10 {
				n, asked := free(t, c)
				if i > 1 && n < 100 {
					t.Errorf("round %d: the limit is %d", i, n)
				}
				ended(c, Busy, asked, n/10)
				ended(c, Fine, asked, n-n/10)
			}
		},
		"after a cut that was taken back, many failures cut again": func(t *testing.T, c *Credential) {
			asked := inFlight(t, c, 100)
			ended(c, Busy, asked, 10)
			ended(c, Fine, asked, 90)
			n := 0
			for i := range 30 {
				n, asked = free(t, c)
				if failures := n / 10; i < 2 {
					ended(c, Busy, asked, failures)
					ended(c, Fine, asked, n-failures)
				} else {
					ended(c, Busy, asked, n)
				}
			}
			if n != fewest {
				t.Errorf("the limit is %d, want %d", n, fewest)
			}
		},
		"forgotten after a minute": func(t *testing.T, c *Credential) {
			ended(c, Busy, inFlight(t, c, 100), 100)
			<-time.After(memoryOfCut)
			if n, _ := free(t, c); n < 1000 {
				t.Errorf("the limit is %d", n)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newGovernor(&schedule{}, Rate{}).Attach(key)
				f(t, c)
			})
		})
	}
}
