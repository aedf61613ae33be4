package ratelimit

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Numbers of seconds of at least firstEpoch are Unix times, because no limit lasts 30 years. Those of
// at least firstEpochMs are in milliseconds.
const (
	firstEpoch   = 1e9
	firstEpochMs = 1e11
)

// take reads the waits of a header field. A field whose name ends in -Ms has milliseconds.
func (r *reading) take(name string) {
	values := r.header[name]
	if len(values) == 0 {
		return
	}
	unit := time.Second
	if strings.HasSuffix(name, "-Ms") {
		unit = time.Millisecond
	}
	for _, value := range values {
		if r.takeValue(value, unit) {
			continue
		}
		for part := range strings.SplitSeq(value, ",") { // a proxy may have joined several lines
			r.takeValue(part, unit)
		}
	}
}

// takeValue reads one wait and reports whether it is usable.
func (r *reading) takeValue(text string, unit time.Duration) bool {
	text, _, _ = strings.Cut(text, ";")
	wait, ok := r.parse(strings.TrimSpace(text), unit)
	if ok {
		r.wait, r.named = max(r.wait, wait), true
	}
	return ok
}

// parse reads a number of units from now, a Unix time, a date, or a duration such as 6m0s.
func (r *reading) parse(text string, unit time.Duration) (time.Duration, bool) {
	n, err := decimal(text)
	switch {
	case err != nil:
		if date, err := parseDate(text); err == nil {
			wait := date.Sub(r.clock())
			return min(wait, Longest), wait > 0
		}
		wait, err := time.ParseDuration(text)
		return min(wait, Longest), err == nil && wait >= 0
	case unit < time.Second || n < firstEpoch:
		return times(n, unit), true
	case n >= firstEpochMs:
		n /= 1000
	}
	wait := n - float64(r.clock().UnixMilli())/1000
	return times(wait, time.Second), wait > 0
}

// times returns n units, at most Longest.
func times(n float64, unit time.Duration) time.Duration {
	return time.Duration(min(n*float64(unit), float64(Longest)))
}

// clock returns the time of the answer by the upstream's clock, if the answer has a Date. Otherwise it
// returns the time by this node's clock. So the clocks may differ.
func (r *reading) clock() time.Time {
	if !r.dated {
		r.dated = true
		if date, err := parseDate(r.header.Get("Date")); err == nil {
			r.now = date
		}
	}
	return r.now
}

// parseDate reads a date in one of HTTP's three formats (RFC 9110, section 5.6.7) or as in RFC 3339. It
// also accepts UTC or an offset instead of GMT, because some servers send these.
func parseDate(text string) (time.Time, error) {
	text = strings.TrimSpace(text)
	if date, err := time.Parse(time.RFC1123Z, text); err == nil {
		return date, nil
	}
	if date, err := time.Parse(time.RFC3339, text); err == nil {
		return date, nil
	}
	if rest, found := strings.CutSuffix(text, " UTC"); found {
		text = rest + " GMT"
	}
	return http.ParseTime(text)
}

// decimal reads a number with or without a decimal point.
func decimal(text string) (float64, error) {
	text = strings.TrimSpace(text)
	if strings.Trim(text, "0123456789.") != "" {
		return 0, strconv.ErrSyntax
	}
	n, err := strconv.ParseFloat(text, 64)
	if errors.Is(err, strconv.ErrRange) {
		err = nil // n is infinite, and the caller limits it
	}
	return n, err
}
