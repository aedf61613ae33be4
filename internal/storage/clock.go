package storage

import "time"

// Millis is a moment as it is stored: milliseconds since the Unix epoch, 0 for
// the zero time.
func Millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// CeilMillis returns the first moment that is stored exactly and not before t: for what must
// not happen earlier than t, also after it was stored.
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
