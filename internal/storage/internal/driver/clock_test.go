package driver

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestSteps: a clock that is set forward is noticed for the given span. A clock that is set back or
// corrected slowly is not.
func TestSteps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s Steps
		forward := func(want time.Duration) {
			t.Helper()
			if got := s.Forward(time.Hour); got != want {
				t.Errorf("set forward by %v, want %v", got, want)
			}
		}
		s.Note(5 * time.Hour) // steps before the first Note don't count
		forward(0)
		s.Note(5*time.Hour + 900*time.Millisecond)
		forward(0)
		s.Note(6 * time.Hour)
		forward(time.Hour)
		s.Note(4 * time.Hour)
		forward(time.Hour)
		<-time.After(30 * time.Minute)
		s.Note(4*time.Hour + time.Minute)
		forward(time.Hour + time.Minute)
		<-time.After(30 * time.Minute)
		forward(time.Minute)
		<-time.After(time.Hour)
		forward(0)
	})
}

func TestClock(t *testing.T) {
	var c Clock
	near := func(what string, got, want time.Duration) {
		t.Helper()
		if (got - want).Abs() > 10*time.Second {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	near("skew", c.Skew(), 0)
	c.Set(-time.Hour)
	near("skew after it was set", c.Skew(), -time.Hour)
	near("time after it was set", time.Until(c.Now()), -time.Hour)
}
