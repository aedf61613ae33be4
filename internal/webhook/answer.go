package webhook

import (
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// longestPause is the longest wait that a receiver may ask for.
const longestPause = time.Hour

// outcome is the result of one attempt.
type outcome struct {
	code      int           // the answer's status code; 0: no answer
	problem   string        // why the attempt failed; "": it succeeded
	pause     time.Duration // how long the receiver asked to wait; 0: it named no time
	uncounted bool          // this node didn't make the attempt or canceled it, so it doesn't count
}

// retryAfter parses a receiver's Retry-After, which is a number of seconds, possibly with decimals,
// or a date. It applies to answers 429 and 503 only.
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
