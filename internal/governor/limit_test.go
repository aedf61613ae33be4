package governor

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// inFlight starts n requests and returns when they were allowed.
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

// end ends n requests that were allowed at the given time.
func end(c *Credential, kind Kind, asked time.Time, n int) {
	for range n {
		c.Done(context.Background(), Answer{Kind: kind, Asked: asked, Began: asked, Ended: time.Now()})
	}
}

// free starts as many requests as the limit allows and returns their number.
func free(t *testing.T, c *Credential) (n int, asked time.Time) {
	t.Helper()
	<-time.After(time.Millisecond) // allow them after the earlier answers
	now := time.Now()
	for ; n < 1000; n++ {
		if _, ok := c.Try(t.Context(), 1, now); !ok {
			break
		}
	}
	<-time.After(time.Second)
	return n, now
}

// TestLimit checks what cuts the limit, how far, and how it recovers.
func TestLimit(t *testing.T) {
	for name, f := range map[string]func(t *testing.T, c *Credential){
		"few in flight say nothing": func(t *testing.T, c *Credential) {
			for _, kind := range []Kind{Busy, Throttled, Late} {
				asked := inFlight(t, c, minLimit-1)
				end(c, kind, asked, minLimit-1)
			}
			if n, _ := free(t, c); n < 1000 {
				t.Errorf("the limit is %d", n)
			}
		},
		"a broken connection says nothing": func(t *testing.T, c *Credential) {
			end(c, Silent, inFlight(t, c, 100), 100)
			if n, _ := free(t, c); n < 1000 {
				t.Errorf("the limit is %d", n)
			}
		},
		"cut once in a round trip, doubled in the next": func(t *testing.T, c *Credential) {
			asked := inFlight(t, c, 100)
			end(c, Busy, asked, 10)
			end(c, Fine, asked, 90)
			n, asked := free(t, c)
			if n != 70 {
				t.Errorf("the limit is %d, want 70", n)
			}
			end(c, Fine, asked, 70)
			_, asked = free(t, c)
			end(c, Fine, asked, c.inflight)
			if n, _ = free(t, c); n < 99 || n > 100 {
				t.Errorf("after two round trips the limit is %d, want 99 to 100: just below what failed", n)
			}
		},
		"never below eight": func(t *testing.T, c *Credential) {
			asked := inFlight(t, c, 100)
			end(c, Late, asked, 100)
			n := 0
			for range 20 {
				n, asked = free(t, c)
				end(c, Busy, asked, n)
			}
			if n != minLimit {
				t.Errorf("the limit is %d, want %d", n, minLimit)
			}
		},
		"a cut that doesn't help is undone and not repeated": func(t *testing.T, c *Credential) {
			asked := inFlight(t, c, 100)
			end(c, Busy, asked, 10)
			end(c, Fine, asked, 90)
			for i := range 10 {
				n, asked := free(t, c)
				if i > 1 && n < 100 {
					t.Errorf("round %d: the limit is %d", i, n)
				}
				end(c, Busy, asked, n/10)
				end(c, Fine, asked, n-n/10)
			}
		},
		"many failures cut again after an undone cut": func(t *testing.T, c *Credential) {
			asked := inFlight(t, c, 100)
			end(c, Busy, asked, 10)
			end(c, Fine, asked, 90)
			n := 0
			for i := range 30 {
				n, asked = free(t, c)
				if failures := n / 10; i < 2 {
					end(c, Busy, asked, failures)
					end(c, Fine, asked, n-failures)
				} else {
					end(c, Busy, asked, n)
				}
			}
			if n != minLimit {
				t.Errorf("the limit is %d, want %d", n, minLimit)
			}
		},
		"forgotten after a minute": func(t *testing.T, c *Credential) {
			end(c, Busy, inFlight(t, c, 100), 100)
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
