package telemetry

import (
	"math"
	"sync"
	"time"

	"github.com/sheafapi/sheaf/internal/outbound"
)

// Window is what Health remembers.
const Window = 5 * time.Minute

const (
	slot  = 10 * time.Second
	slots = int(Window / slot)
	// Latencies are counted in steps of a fifth, from a tenth of a millisecond to more than a minute.
	steps     = 76
	stepRatio = 1.2
	firstStep = 100 * time.Microsecond
)

// logRatio is the logarithm of stepRatio.
var logRatio = math.Log(stepRatio)

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

// Health is what the upstream did in the last minutes. The zero value has seen nothing.
type Health struct {
	mu   sync.Mutex
	ring [slots]period
}

// period is a slot of the window.
type period struct {
	at    int64 // the number of the slot since 1970; another one's: it is to be begun anew
	codes [codes]int
	took  [steps]int
}

// Seen is what Health tells.
type Seen struct {
	Requests    int
	Codes       map[string]int // those that came
	Median, P99 time.Duration  // within a fifth
}

func (h *Health) add(code int, took time.Duration, now time.Time) {
	at := now.UnixNano() / int64(slot)
	h.mu.Lock()
	defer h.mu.Unlock()
	p := &h.ring[at%int64(slots)]
	if p.at != at {
		*p = period{at: at}
	}
	p.codes[code]++
	p.took[stepOf(took)]++
}

// stepOf returns the step that a duration belongs to.
func stepOf(d time.Duration) int {
	if d <= firstStep {
		return 0
	}
	return min(int(math.Log(float64(d)/float64(firstStep))/logRatio)+1, steps-1)
}

// Seen adds up the window that ends now.
func (h *Health) Seen(now time.Time) Seen {
	at := now.UnixNano() / int64(slot)
	out := Seen{Codes: map[string]int{}}
	var took [steps]int
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

// quantile returns the upper end of the step in which the share of all lies.
func quantile(took *[steps]int, all int, share float64) time.Duration {
	if all == 0 {
		return 0
	}
	seen := 0
	for s, n := range took {
		if seen += n; float64(seen) >= share*float64(all) && n > 0 {
			return time.Duration(float64(firstStep) * math.Pow(stepRatio, float64(s)))
		}
	}
	return 0
}
