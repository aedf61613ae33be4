package webhook

import (
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// longestPause is the longest pause that a receiver may ask for.
const longestPause = time.Hour

// outcome is what came of one attempt.
type outcome struct {
	code    int           // of the answer; 0: there was none
	problem string        // empty: the receiver has taken it
	pause   time.Duration // for which the receiver wants to be left alone; 0: it did not say
	spared  bool          // the attempt was not made, or was cut off by this node: it does not count
}

// retryAfter reads a receiver's Retry-After: seconds, which may be a decimal, or a date.
func retryAfter(code int, header string, now time.Time) time.Duration {
	if code != http.StatusTooManyRequests && code != http.StatusServiceUnavailable {
		return 0
	}
	header = strings.TrimSpace(header)
	pause := time.Duration(0)
	if seconds, err := strconv.ParseFloat(header, 64); err == nil && !math.IsNaN(seconds) {
		pause = time.Duration(min(max(seconds, 0), longestPause.Seconds()) * float64(time.Second))
	} else if date, err := http.ParseTime(header); err == nil {
		pause = date.Sub(now)
	}
	return min(max(pause, 0), longestPause)
}
