package telemetry

import (
	"math"
	"sync"
	"time"

	"github.com/sheafapi/sheaf/internal/outbound"
)

// Window is the time that Health covers.
const Window = 5 * time.Minute

const (
	slot  = 10 * time.Second
	slots = int(Window / slot)
	// Durations are counted in buckets, each 1.2 times as long as the one before: from 0.1 ms to more
	// than a minute.
	buckets     = 76
	bucketRatio = 1.2
	firstBucket = 100 * time.Microsecond
)

var logRatio = math.Log(bucketRatio)

// The classes of answers.
const (
	noAnswer = iota
	informational
	success
	redirect
	clientError
	throttledAnswer
	serverError
	otherCode
	codes
)

var codeNames = [codes]string{"none", "1xx", "2xx", "3xx", "4xx", "throttled", "5xx", "other"}

// codeOf returns the class of an attempt's answer.
func codeOf(outcome outbound.Outcome, code int) int {
	switch {
	case outcome != outbound.Answered:
		return noAnswer
	case code == 429:
		return throttledAnswer
	case code < 100 || code > 599:
		return otherCode
	}
	return [...]int{0, informational, success, redirect, clientError, serverError}[code/100]
}

// recent counts the attempts of the last Window. The zero value is ready for use.
type recent struct {
	mu   sync.Mutex
	ring [slots]period
}

// period is a slot of the window.
type period struct {
	at    int64 // the slot's number since 1970; a different number means that the period is outdated
	codes [codes]int
	took  [buckets]int
}

// Health describes how the upstream answered this node during the last Window.
type Health struct {
	Requests    int            // attempts
	Codes       map[string]int // answers by class: 2xx …, throttled for 429, none without an answer
	Median, P99 time.Duration  // of the attempts' durations, overestimated by at most a fifth
}

func (h *recent) add(code int, took time.Duration, now time.Time) {
	at := now.UnixNano() / int64(slot)
	h.mu.Lock()
	defer h.mu.Unlock()
	p := &h.ring[at%int64(slots)]
	if p.at != at {
		*p = period{at: at}
	}
	p.codes[code]++
	p.took[bucketOf(took)]++
}

// bucketOf returns the bucket of a duration.
func bucketOf(d time.Duration) int {
	if d <= firstBucket {
		return 0
	}
	return min(int(math.Log(float64(d)/float64(firstBucket))/logRatio)+1, buckets-1)
}

// health adds up the window that ends now.
func (h *recent) health(now time.Time) Health {
	at := now.UnixNano() / int64(slot)
	out := Health{Codes: map[string]int{}}
	var took [buckets]int
	h.mu.Lock()
	for i := range h.ring {
		p := &h.ring[i]
		if p.at <= at-int64(slots) || p.at > at {
			continue
		}
		for c, n := range p.codes {
			if n > 0 {
				out.Codes[codeNames[c]] += n
				out.Requests += n
			}
		}
		for s, n := range p.took {
			took[s] += n
		}
	}
	h.mu.Unlock()
	out.Median, out.P99 = quantile(&took, out.Requests, 0.5), quantile(&took, out.Requests, 0.99)
	return out
}

// quantile returns the upper end of the bucket that contains a quantile of all durations.
func quantile(took *[buckets]int, all int, q float64) time.Duration {
	if all == 0 {
		return 0
	}
	seen := 0
	for s, n := range took {
		if seen += n; float64(seen) >= q*float64(all) && n > 0 {
			return time.Duration(float64(firstBucket) * math.Pow(bucketRatio, float64(s)))
		}
	}
	return 0
}
