package storage

import "time"

// Millis returns the stored form of a time: milliseconds since the Unix epoch, 0 for the zero time.
func Millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// CeilMillis rounds t up to a time that is stored exactly. Use it for what must not happen before
// t, so that storing the time doesn't move it earlier.
func CeilMillis(t time.Time) time.Time {
	if over := time.Duration(t.UnixNano()) % time.Millisecond; over > 0 {
		return t.Add(time.Millisecond - over)
	}
	return t
}

// FromMillis is the inverse of Millis.
func FromMillis(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}
