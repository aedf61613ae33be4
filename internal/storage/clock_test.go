package storage

import (
	"testing"
	"time"
)

func TestCeilMillis(t *testing.T) {
	whole := time.UnixMilli(1_700_000_000_123)
	for add, want := range map[time.Duration]time.Time{
		0: whole, 1: whole.Add(time.Millisecond), time.Millisecond - 1: whole.Add(time.Millisecond), time.Millisecond: whole.Add(time.Millisecond),
	} {
		if got := CeilMillis(whole.Add(add)); !got.Equal(want) {
			t.Errorf("%v later: %v, want %v", add, got, want)
		}
	}
}

func TestMillis(t *testing.T) {
	if Millis(time.Time{}) != 0 || !FromMillis(0).IsZero() {
		t.Error("the zero time is not 0")
	}
	now := time.UnixMilli(1_700_000_000_123)
	if got := FromMillis(Millis(now)); !got.Equal(now) {
		t.Errorf("got %v, want %v", got, now)
	}
}
