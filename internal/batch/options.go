package batch

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Limits of Options (docs/contract.md#options-of-a-batch).
const (
	MaxRetries  = 50                     // retries of one request
	MinPause    = 100 * time.Millisecond // the shortest pause of a Backoff
	MaxPause    = 5 * time.Minute        // the longest pause of a Backoff
	MaxCodes    = 50                     // elements of Codes
	MaxFailWhen = 10                     // pointers of Success.FailWhen
	MaxPointer  = 256                    // bytes of one of these pointers
)

// Options are the creator's choices for a whole batch. The zero value of a field below
// StopOnFailure means the service's default.
type Options struct {
	Parallel      bool // several requests at the same time
	StopOnFailure bool // start no request after the first failure

	Concurrency int     // maximum number of requests in flight, if Parallel is set; 0: MaxParallel
	Retries     *int    // retries of one request, 0 to MaxRetries; nil: none if StopOnFailure is set
	Backoff     Backoff // pauses before the retries
	Success     Success
}

// Width returns how many requests of the batch may be in flight at the same time.
func (o *Options) Width() int {
	switch {
	case !o.Parallel:
		return 1
	case o.Concurrency == 0:
		return MaxParallel
	}
	return o.Concurrency
}

// Backoff is the pauses before the retries of a request. The first pause is First, and each of the
// others is twice as long as the one before, up to Most. The zero value means that no Backoff is set.
type Backoff struct{ First, Most time.Duration }

// Pause returns the pause before the nth retry, counted from 1.
func (b Backoff) Pause(n int) time.Duration {
	pause := b.First
	for ; n > 1 && pause < b.Most; n-- {
		pause *= 2
	}
	return min(pause, b.Most)
}

const fixed, exponential = "fixed", "exponential"

// String returns the form that ParseBackoff reads.
func (b Backoff) String() string {
	text := func(d time.Duration) string {
		if minutes, ok := strings.CutSuffix(d.String(), "m0s"); ok {
			return minutes + "m"
		}
		return d.String()
	}
	if b.First == b.Most {
		return fixed + ":" + text(b.First)
	}
	return exponential + ":" + text(b.First) + ".." + text(b.Most)
}

// ParseBackoff reads fixed:3s or exponential:1s..5m. The error completes a sentence that begins with
// the text's name.
func ParseBackoff(text string) (Backoff, error) {
	kind, pauses, _ := strings.Cut(text, ":")
	first, most, isRange := strings.Cut(pauses, "..")
	if !isRange {
		most = first
	}
	var b Backoff
	var err1, err2 error
	b.First, err1 = time.ParseDuration(first)
	b.Most, err2 = time.ParseDuration(most)
	wanted := fixed
	if isRange {
		wanted = exponential
	}
	if kind != wanted || err1 != nil || err2 != nil || b.First < MinPause || b.Most > MaxPause || b.First > b.Most {
		return Backoff{}, errors.New("must be fixed:PAUSE or exponential:FIRST..LONGEST, such as fixed:3s or exponential:1s..5m, with pauses from 100ms to 5m")
	}
	return b, nil
}

// Success says which answers of the upstream count as success.
type Success struct {
	Codes Codes
	// FailWhen holds JSON pointers (RFC 6901). An answer in whose body one of them finds a value
	// isn't a success, whatever its status code, unless the value is null, false or empty.
	FailWhen []string
}

// Or returns the rule with its empty fields replaced by those of another rule.
func (s Success) Or(other Success) Success {
	if s.Codes == "" {
		s.Codes = other.Codes
	}
	if len(s.FailWhen) == 0 {
		s.FailWhen = other.FailWhen
	}
	return s
}

// Match returns the first pointer of FailWhen that finds a value in the given JSON text. found reports
// whether any does. Match reads the text at most once, and an incomplete text as far as it goes.
func (s Success) Match(text []byte) (pointer string, found bool) {
	places, _ := locate(text, s.FailWhen)
	for i, at := range places {
		if at.exists() && !isBlank(text[at.begin:at.end]) {
			return s.FailWhen[i], true
		}
	}
	return "", false
}

// isBlank reports whether a JSON value is null, false, or an empty string, array or object.
func isBlank(value []byte) bool {
	switch string(value[:min(len(value), len("false"))]) {
	case "null", "false", `""`:
		return true
	}
	return (value[0] == '[' || value[0] == '{') && len(bytes.TrimSpace(value[1:len(value)-1])) == 0
}

// Codes is a set of status codes, separated by commas. 2xx stands for all of 200 to 299. The empty
// set means 2xx.
type Codes string

const every2xx = "2xx"

// Has reports whether a status code is in the set.
func (c Codes) Has(code int) bool {
	success := code >= 200 && code <= 299
	if c == "" {
		return success
	}
	for part := range strings.SplitSeq(string(c), ",") {
		if part == every2xx {
			if success {
				return true
			}
		} else if n, err := strconv.Atoi(part); err == nil && n == code {
			return true
		}
	}
	return false
}

// notSuccess are status codes that can't count as success: a 401 and a 429 make requests wait, and the
// others come from a gateway that doesn't know the outcome.
var notSuccess = []int{401, 429, 502, 503, 504}

// ParseCodes reads a list such as 200,201,404 or 2xx,404. The error completes a sentence that begins
// with the text's name.
func ParseCodes(text string) (Codes, error) {
	parts := strings.Split(text, ",")
	if len(parts) > MaxCodes {
		return "", fmt.Errorf("must have at most %d status codes", MaxCodes)
	}
	for i, part := range parts {
		code, err := strconv.Atoi(part)
		switch {
		case part == every2xx:
		case err != nil || len(part) != 3 || code < 200 || code > 599:
			return "", errors.New("must be status codes from 200 to 599, separated by commas, such as 200,201,404; 2xx stands for all from 200 to 299")
		case slices.Contains(notSuccess, code):
			return "", fmt.Errorf("can't have %d, which never counts as success", code)
		}
		if slices.Contains(parts[:i], part) {
			return "", fmt.Errorf("has %s twice", part)
		}
	}
	return Codes(text), nil
}

// ParseFailWhen reads pointers that are separated by commas. A comma separates only if a slash
// follows. The error completes a sentence that begins with the text's name.
func ParseFailWhen(text string) ([]string, error) {
	pointers := strings.Split(text, ",/")
	for i := range pointers[1:] {
		pointers[i+1] = "/" + pointers[i+1]
	}
	return pointers, CheckFailWhen(pointers)
}

// CheckFailWhen returns an error if the pointers are invalid as Success.FailWhen. The error completes a
// sentence that begins with their name.
func CheckFailWhen(pointers []string) error {
	if len(pointers) > MaxFailWhen {
		return fmt.Errorf("must have at most %d JSON pointers", MaxFailWhen)
	}
	for i, pointer := range pointers {
		switch {
		case len(pointer) > MaxPointer:
			return fmt.Errorf("has a JSON pointer of more than %d bytes", MaxPointer)
		case pointer == "" || checkPointer(pointer) != nil || !utf8.ValidString(pointer) || CheckName(pointer) != nil:
			return errors.New("must be JSON pointers (RFC 6901), separated by commas, such as /errors,/data/error, without control characters")
		case slices.Contains(pointers[:i], pointer):
			return fmt.Errorf("has %s twice", pointer)
		}
	}
	return nil
}
