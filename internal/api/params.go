package api

import (
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/sheafapi/sheaf/internal/batch"
)

// params are a call's parameters: its query, and the form in its body. Parameters that no call has
// are ignored. The first invalid value sets err to an answer that names its parameter, so a call
// can read all of its parameters and then check err once.
type params struct {
	values url.Values
	err    error
}

func parseParams(query string) (params, error) {
	values, err := url.ParseQuery(query)
	if err != nil {
		return params{}, fail(wrongParameter, "The query is malformed: %v.", err)
	}
	return params{values: values}, nil
}

// wrong sets err, unless an earlier parameter was wrong.
func (p *params) wrong(format string, args ...any) {
	if p.err == nil {
		p.err = fail(wrongParameter, format, args...)
	}
}

// get returns a parameter's value and whether it was given. If it was given several times, the values
// must be equal.
func (p *params) get(name string) (value string, given bool) {
	values := p.values[name]
	if len(values) == 0 {
		return "", false
	}
	for _, v := range values[1:] {
		if v != values[0] {
			p.wrong("Parameter %s is given more than once, with different values.", name)
		}
	}
	return values[0], true
}

// boolean reads a parameter that is true or false, in the spellings of the wire contract
// (docs/contract.md#create-a-batch).
func (p *params) boolean(name string, byDefault bool) bool {
	value, given := p.get(name)
	if !given {
		return byDefault
	}
	switch strings.ToLower(value) {
	case "true", "1", "yes", "on":
		return true
	case "false", "0", "no", "off":
		return false
	}
	p.wrong("Parameter %s must be true or false (also 1 or 0, yes or no, on or off).", name)
	return byDefault
}

// integer reads a parameter that is a number from least to most.
func (p *params) integer(name string, byDefault, least, most int) int {
	value, given := p.get(name)
	if !given {
		return byDefault
	}
	n, err := strconv.Atoi(value)
	if err != nil || n < least || n > most {
		p.wrong("Parameter %s must be a number from %d to %d.", name, least, most)
		return byDefault
	}
	return n
}

// parsed reads a parameter with a parser whose errors complete a sentence that begins with its name. It
// returns the zero value if the parameter isn't given.
func parsed[T any](p *params, name string, parse func(string) (T, error)) T {
	var none T
	value, given := p.get(name)
	if !given {
		return none
	}
	v, err := parse(value)
	if err != nil {
		p.wrong("Parameter %s %v.", name, err)
		return none
	}
	return v
}

// maxOffset is how many batches a search may skip. It is limited because the database reads all of
// them.
const maxOffset = 10_000

// offset reads the parameter offset. instead says how to read on beyond maxOffset.
func (p *params) offset(instead string) int {
	const name = "offset"
	value, given := p.get(name)
	if !given {
		return 0
	}
	n, err := strconv.ParseInt(value, 10, 32)
	switch {
	case err != nil || n < 0:
		p.wrong("Parameter offset must be a number from 0 to %d.", maxOffset)
	case n > maxOffset:
		p.wrong("Parameter offset must be at most %d. To read on, %s.", maxOffset, instead)
	}
	return int(n)
}

// dedupKey reads the parameter deduplicationKey; the zero UUID stands for none.
func (p *params) dedupKey() uuid.UUID {
	const name = "deduplicationKey"
	value, given := p.get(name)
	if !given {
		return uuid.Nil
	}
	key, ok := parseUUID(value)
	if !ok {
		p.wrong("Parameter %s must be a UUID such as 123e4567-e89b-42d3-a456-426614174000, and not all zeros.", name)
	}
	return key
}

// group reads the parameter groupId; empty: none.
func (p *params) group() string {
	const name = "groupId"
	value, _ := p.get(name)
	if len(value) > batch.MaxGroupID || !utf8.ValidString(value) {
		p.wrong("Parameter %s must be UTF-8 text of at most %d bytes.", name, batch.MaxGroupID)
		return ""
	}
	return value
}

// ticket reads the parameter ticket or its other name, ticketId. It returns the zero ticket, which
// no batch has, for a value that can't be a ticket. It refuses an empty value: if that counted as
// absent, a call that should stop one batch would stop its whole group.
func (p *params) ticket() (ticket batch.Ticket, given bool) {
	for _, name := range ticketParams {
		value, given := p.get(name)
		if !given {
			continue
		}
		if value == "" {
			p.wrong("Parameter %s is empty.", name)
		}
		ticket, _ := parseUUID(value)
		return ticket, true
	}
	return batch.Ticket{}, false
}

// requiredTicket reads a ticket that the call requires. advice completes the error if it is
// missing.
func (p *params) requiredTicket(advice string) batch.Ticket {
	ticket, given := p.ticket()
	switch {
	case !given:
		p.wrong("Parameter ticket is missing: %s", advice)
	case ticket == batch.Ticket{} && p.err == nil:
		p.err = noBatch()
	}
	return ticket
}

// moment reads a parameter that is a time (RFC 3339). It returns the zero time if there is none.
func (p *params) moment(name string) time.Time {
	value, given := p.get(name)
	if !given {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339, value)
	if err != nil {
		p.wrong("Parameter %s must be a time such as 2026-01-31T18:00:00Z.", name)
	}
	return t
}

// bodyBytes reads how many bytes of each body the caller wants; 0: all.
func (p *params) bodyBytes() int {
	const name = "bodyBytes"
	return p.integer(name, 0, 1, 1<<30)
}

// refuse returns an error if the call has a known parameter that isn't in own. If such a parameter
// were ignored, the call would not do what the caller wants.
func (p *params) refuse(known, own []string, which string) error {
	for _, name := range known {
		if _, given := p.values[name]; given && !slices.Contains(own, name) {
			takes := "no parameters"
			if len(own) > 0 {
				takes = strings.Join(own, ", ")
			}
			return fail(wrongParameter, "Parameter %s doesn't belong to %s, which takes %s.", name, which, takes)
		}
	}
	return nil
}

// parseUUID reads a UUID in its 36-character form. It refuses the zero UUID.
func parseUUID(s string) (uuid.UUID, bool) {
	if len(s) != 36 {
		return uuid.Nil, false
	}
	u, err := uuid.Parse(s)
	return u, err == nil && u != uuid.Nil
}

// The parameters of several calls.
var (
	ticketParams = []string{"ticket", "ticketId"}
	createParams = []string{
		"allowParallelMode", "stopOnFirstFailure", "concurrency", "retries", "retryBackoff", "successStatus", "failWhen",
		"deduplicationKey", "groupId", "callbackUrl", "dryRun",
	}
	statusParams = []string{"ticket", "ticketId", "escapedJson", "bodyBytes", "responses", "details", "after", "limit", "only", "wait"}
	searchParams = []string{"status", "limit", "offset"}
)
