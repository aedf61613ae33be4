// Package ratelimit reads what an HTTP answer says about rate limits: whether the request was refused
// because there were too many, and how long to send nothing.
//
// It knows Retry-After (RFC 9110, section 10.2.3), RateLimit in all its drafts
// (draft-ietf-httpapi-ratelimit-headers), and the header fields that APIs used before those. A value
// that can't be read, or a time in the past, counts as missing. Of several values, the longest wait
// counts.
package ratelimit

import (
	"net/http"
	"strings"
	"time"
)

// Longest is the longest wait that an answer can name. A longer one counts as this one.
const Longest = 100 * 365 * 24 * time.Hour

// Refusal describes an answer that refused a request because of a rate limit.
type Refusal struct {
	Wait  time.Duration // how long to send nothing
	Named bool          // the answer names the wait; otherwise Wait is 0 and means nothing
}

// Refused reports whether an answer refused the request because of a rate limit. A 429 always did. A
// 403 or 503 did if it also says how long to wait, or that no requests remain.
//
// now is when the answer came. It stands in for a missing Date.
func Refused(code int, header http.Header, now time.Time) (Refusal, bool) {
	if code != http.StatusTooManyRequests && code != http.StatusForbidden && code != http.StatusServiceUnavailable {
		return Refusal{}, false
	}
	r := reading{header: header, now: now}
	for _, name := range afters {
		r.take(name)
	}
	refused := code == http.StatusTooManyRequests || r.named
	r.readQuotas(true)
	return Refusal{r.wait, r.named}, refused || r.exhausted
}

// Exhausted returns how long to send nothing because an answer says that no requests remain. It
// returns 0 if some do, or if the answer doesn't say until when.
//
// now is when the answer came. It stands in for a missing Date.
func Exhausted(header http.Header, now time.Time) time.Duration {
	r := reading{header: header, now: now}
	r.readQuotas(false)
	return r.wait
}

// afters are header fields with a wait that doesn't depend on a count. Names are in canonical form, as
// in http.Header.
var afters = [...]string{
	"Retry-After",
	"Retry-After-Ms",      // OpenAI, Azure
	"X-Ms-Retry-After-Ms", // Azure Cosmos DB
}

// A quota is a header field that counts the remaining requests, with those that say when the count
// starts over. reset2 is empty if there is only one.
type quota struct{ remaining, reset, reset2 string }

var quotas = [...]quota{
	{"X-Ratelimit-Remaining", "X-Ratelimit-Reset", "X-Ratelimit-Reset-After"}, // GitHub and many others; Discord
	{"X-Rate-Limit-Remaining", "X-Rate-Limit-Reset", "X-Rate-Limit-Reset-After"},
	{"Ratelimit-Remaining", "Ratelimit-Reset", ""},                                       // the draft's first versions; GitLab
	{"X-Ratelimit-Remaining-Requests", "X-Ratelimit-Reset-Requests", ""},                 // OpenAI
	{"X-Ratelimit-Remaining-Tokens", "X-Ratelimit-Reset-Tokens", ""},                     // OpenAI
	{"X-Rate-Limit-Requests-Left", "X-Rate-Limit-Time-Reset-Ms", ""},                     // BigCommerce
	{"Anthropic-Ratelimit-Requests-Remaining", "Anthropic-Ratelimit-Requests-Reset", ""}, // RFC 3339
}

// reading is what has been read of one answer.
type reading struct {
	header    http.Header
	now       time.Time
	dated     bool // now has been corrected
	wait      time.Duration
	named     bool // the answer names wait
	exhausted bool // the answer says that no requests remain
}

// readQuotas reads the counts of remaining requests, and the resets of those that are 0. If the
// request was refused, it also reads resets without a count. A reset with a count above 0 says
// nothing about this request, because another limit refused it.
func (r *reading) readQuotas(refused bool) {
	for i := range quotas {
		q := &quotas[i]
		if r.counts(remaining(r.header[q.remaining]), refused) {
			r.take(q.reset)
			r.take(q.reset2)
		}
	}
	for _, value := range r.header["Ratelimit"] {
		r.readField(value, refused)
	}
}

// readField reads a value of RateLimit: either a dictionary, as in "limit=9, remaining=0, reset=30"
// (until version 7 of the draft), or a list of policies, as in `"name";r=0;t=30`.
func (r *reading) readField(value string, refused bool) {
	var all member
	for more := true; more; {
		var text string
		text, value, more = cut(value, ',')
		var one member
		for first, more := true, true; more; first = false {
			var param string
			param, text, more = cut(text, ';')
			name, value, _ := strings.Cut(strings.TrimSpace(param), "=")
			switch {
			case first && name == "remaining":
				all.left = countOf(value)
			case first && name == "reset":
				all.reset = value
			case !first && name == "r":
				one.left = countOf(value)
			case !first && name == "t":
				one.reset = value
			}
		}
		r.readMember(one, refused)
	}
	r.readMember(all, refused)
}

// member is a policy of RateLimit, or the whole dictionary.
type member struct {
	left  count
	reset string
}

func (r *reading) readMember(m member, refused bool) {
	if r.counts(m.left, refused) && m.reset != "" {
		r.takeValue(m.reset, time.Second)
	}
}

// cut splits text at the first separator that isn't in a quoted string. more reports whether there is
// one.
func cut(text string, separator byte) (before, after string, more bool) {
	quoted := false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '"':
			quoted = !quoted
		case c == '\\' && quoted:
			i++
		case c == separator && !quoted:
			return text[:i], text[i+1:], true
		}
	}
	return text, "", false
}

// count says how many requests remain.
type count uint8

const (
	unknown count = iota
	none
	some
)

// counts records a count of remaining requests, and reports whether the reset that belongs to it
// matters.
func (r *reading) counts(left count, refused bool) bool {
	r.exhausted = r.exhausted || left == none
	return left == none || left == unknown && refused
}

// remaining returns the lowest of several counts.
func remaining(values []string) count {
	lowest := unknown
	for _, value := range values {
		for part := range strings.SplitSeq(value, ",") {
			if left := countOf(part); left == none {
				return none
			} else if left == some {
				lowest = some
			}
		}
	}
	return lowest
}

// countOf reads a count of remaining requests. Parameters after a semicolon don't matter. A count below
// 1 doesn't allow a request. A negative one is unknown, because it often means that there is no limit.
func countOf(text string) count {
	text, _, _ = strings.Cut(text, ";")
	n, err := decimal(text)
	switch {
	case err != nil:
		return unknown
	case n < 1:
		return none
	}
	return some
}
