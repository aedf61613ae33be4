package batch

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
)

// maxValues limits the total size, in bytes, of the values that the references of one batch take from
// answers. A value counts once for each reference that takes it.
const maxValues = 8 << 20

// Values holds the values that a batch's references take from answers. It keeps no other parts of the
// answers, and keeps a value only once even if several references take it.
type Values struct {
	requests []Request
	found    [][]Value // by request and reference; nil: the request has no references or has ended
	needed   [][]need  // by request: the references to its answer; nil: none, or their values were taken
	bytes    int
	read     int // bytes of answers that were searched; for tests
}

// need identifies a reference by its request and its position in the request's Refs.
type need struct{ index, ref int }

// NewValues returns Values for these requests, without any values.
func NewValues(requests []Request) *Values {
	v := &Values{requests: requests, found: make([][]Value, len(requests)), needed: make([][]need, len(requests))}
	for i := range requests {
		l := requests[i].Links
		if l == nil || len(l.Refs) == 0 {
			continue
		}
		v.found[i] = make([]Value, len(l.Refs))
		for j := range l.Refs {
			from := l.Refs[j].From
			v.needed[from] = append(v.needed[from], need{i, j})
		}
	}
	return v
}

// Reasons why a reference finds nothing.
var (
	whyNotExecuted = "finds no answer: that request was not executed"
	whyNoHeader    = "finds no such header in the answer"
	whyNoSegment   = "finds no such segment of a URL in that header"
	whyNoJSON      = "finds no JSON in the answer"
	whyNothing     = "finds nothing there in the answer"
	whyLong        = fmt.Sprintf("finds a value of more than %d bytes", MaxRefValue)
	whyTooMany     = fmt.Sprintf("finds a value that makes the values of the batch's references larger than %d MiB in total", maxValues>>20)
)

// Take takes the values that later requests need from the result of request i, in one pass. Only the
// first call for a request counts.
func (v *Values) Take(i int, result *Result) {
	if !v.Lacks(i) {
		return
	}
	needs := v.needed[i]
	v.needed[i] = nil
	var pointers []string
	var into []need // the needs with a pointer into the body
	headers := map[string][]byte{}
	for _, n := range needs {
		switch ref := v.ref(n); {
		case v.found[n.index] == nil:
		case result.Status == NotExecuted:
			v.put(n, nil, whyNotExecuted)
		case ref.Field != "":
			value, why := header(headers, result.Headers, ref.Field)
			v.put(n, value, why)
		case result.Kind != JSONBody:
			v.put(n, nil, whyNoJSON)
		default:
			pointers, into = append(pointers, ref.Path), append(into, n)
		}
	}
	places, read := locate(result.Body, pointers)
	v.read += read
	texts := map[span][]byte{}
	for k, n := range into {
		at := places[k]
		if at.end-at.begin > MaxRefValue {
			v.put(n, nil, whyLong)
			continue
		}
		if texts[at] == nil && at.exists() {
			texts[at] = bytes.Clone(result.Body[at.begin:at.end])
		}
		v.put(n, texts[at], whyNothing)
	}
}

// header returns a header's value, or the segment of it that field names, as JSON. If there is none, it
// returns nil and the reason. known caches the values that it returns.
func header(known map[string][]byte, headers []Header, field string) (value []byte, why string) {
	field = strings.ToLower(field)
	if value := known[field]; value != nil {
		return value, ""
	}
	name, segment, whole, _ := cutSegment(field)
	i := slices.IndexFunc(headers, func(h Header) bool { return strings.EqualFold(h.Name, name) })
	if i < 0 {
		return nil, whyNoHeader
	}
	text := headers[i].Value
	if !whole {
		var found bool
		if text, found = segmentOf(text, segment); !found {
			return nil, whyNoSegment
		}
	}
	known[field] = AppendString(nil, text)
	return known[field], ""
}

// ref returns the reference that a need identifies.
func (v *Values) ref(n need) *Ref { return &v.requests[n.index].Links.Refs[n.ref] }

// put stores a value for a need. A nil value means that the need has no value; reason then explains it.
func (v *Values) put(n need, value []byte, reason string) {
	f := &v.found[n.index][n.ref]
	switch {
	case value == nil:
		*f = Value{Why: reason}
	case v.bytes+len(value) > maxValues:
		*f = Value{Why: whyTooMany}
	default:
		v.bytes += len(value)
		*f = Value{JSON: value}
	}
}

// Of returns the values of request i, in the order of its references.
func (v *Values) Of(i int) []Value { return v.found[i] }

// Drop drops the values of request i, which has ended and no longer needs them.
func (v *Values) Drop(i int) { v.found[i] = nil }

// Lacks reports whether a later request that has not ended needs values from the answer to request i,
// and these have not been taken yet.
func (v *Values) Lacks(i int) bool {
	return slices.ContainsFunc(v.needed[i], func(n need) bool { return v.found[n.index] != nil })
}

// End is how a request of a batch ended.
type End struct {
	Status    ResultStatus
	MaybeDone bool // it may have been carried out, although it isn't COMPLETED
	InDoubt   bool // it is FAILED, and it is unknown whether it was carried out
}

// Repeat says which requests of an ended batch Retry repeats.
type Repeat uint8

// The kinds of retries. No request belongs to both RepeatCertain and RepeatInDoubt, so a retry of each
// kind repeats no request twice.
const (
	RepeatCertain Repeat = iota // requests that certainly were not carried out
	RepeatInDoubt               // requests in doubt, and those that depend on them
	RepeatAll                   // everything that isn't COMPLETED
)

// Retry returns new requests that repeat requests of an ended batch, chosen by which. Their order and
// dependencies stay the same. References to COMPLETED requests are filled from their answers. A request
// that may have been carried out keeps its Idempotency-Key. Retry returns an error if a reference can't be
// filled, because that request would fail again.
func Retry(ticket Ticket, ends []End, v *Values, which Repeat) ([]Request, error) {
	c := choose(v.requests, ends, which)
	place := make([]int, len(ends)) // index in the new batch; -1: not repeated
	var out []Request
	for i := range ends {
		place[i] = -1
		if !c.chosen[i] {
			continue
		}
		r := v.requests[i]
		if r.Links != nil {
			again, err := relink(&r, place, v.Of(i))
			if err != nil {
				return nil, fmt.Errorf("of request %d, %w", i, err)
			}
			if again.Links != nil && r.Links.RunIf == IfFailure && c.lacks(r.Links) {
				again.Links.RunIf = Always // the failure that it depends on isn't repeated
			}
			r = *again
		}
		if ends[i].MaybeDone || ends[i].InDoubt {
			keepKey(&r, IdempotencyKey(ticket, i))
		}
		place[i] = len(out)
		out = append(out, r)
	}
	return out, nil
}

// choice says which requests of a batch are repeated.
type choice struct {
	ends   []End
	chosen []bool
}

// choose decides which requests are repeated.
func choose(requests []Request, ends []End, which Repeat) *choice {
	c := &choice{ends: ends, chosen: make([]bool, len(ends))}
	var others []bool // by request: RepeatCertain repeats it
	if which == RepeatInDoubt {
		others = choose(requests, ends, RepeatCertain).chosen
	}
	for i := range ends {
		l := requests[i].Links
		wanted := true
		switch which {
		case RepeatCertain:
			wanted = !ends[i].InDoubt
		case RepeatInDoubt:
			wanted = ends[i].InDoubt || c.waits(l) && !others[i]
		case RepeatAll:
		}
		c.chosen[i] = wanted && ends[i].Status != Succeeded && c.canRun(l)
	}
	return c
}

// canRun reports whether a request could be sent if it were repeated. Its dependencies must already be
// decided.
func (c *choice) canRun(l *Links) bool {
	switch {
	case l == nil:
		return true
	case l.RunIf == IfSuccess && c.lacks(l):
		return false
	case l.RunIf == IfFailure && !c.waits(l) && !c.lacks(l):
		return false // no dependency can fail
	}
	return !slices.ContainsFunc(l.Refs, func(r Ref) bool { return c.isMissing(r.From) })
}

// waits reports whether a request depends on a request that is repeated.
func (c *choice) waits(l *Links) bool {
	return l != nil && slices.ContainsFunc(l.DependsOn, func(i int) bool { return c.chosen[i] })
}

// lacks reports whether a request depends on a request that is neither COMPLETED nor repeated.
func (c *choice) lacks(l *Links) bool { return slices.ContainsFunc(l.DependsOn, c.isMissing) }

func (c *choice) isMissing(i int) bool { return !c.chosen[i] && c.ends[i].Status != Succeeded }

// relink returns a copy of a request in which dependencies have their new indexes. References to requests
// that aren't repeated are filled.
func relink(r *Request, place []int, values []Value) (*Request, error) {
	links := Links{Headers: slices.Clone(r.Links.Headers), RunIf: r.Links.RunIf}
	for _, j := range r.Links.DependsOn {
		if place[j] >= 0 {
			links.DependsOn = append(links.DependsOn, place[j])
		}
	}
	var later []Ref
	var now []Value
	for j, ref := range r.Links.Refs {
		if to := place[ref.From]; to >= 0 {
			ref.From = to
			later = append(later, ref)
			continue
		}
		links.Refs, now = append(links.Refs, ref), append(now, values[j])
	}
	out := *r
	out.Links = &links
	filled, err := out.Fill(now)
	if err != nil {
		return nil, err
	}
	filled.Links.Refs = later
	if l := filled.Links; len(l.Headers)+len(l.DependsOn)+len(l.Refs) == 0 {
		filled.Links = nil
	}
	return filled, nil
}

// keepKey sets a request's Idempotency-Key, unless its creator has set one.
func keepKey(r *Request, key string) {
	const name = "Idempotency-Key"
	l := Links{}
	if r.Links != nil {
		l = *r.Links
	}
	if slices.ContainsFunc(l.Headers, func(h Header) bool { return strings.EqualFold(h.Name, name) }) ||
		slices.ContainsFunc(l.Refs, func(f Ref) bool { return f.Where == InHeader && strings.EqualFold(f.Name, name) }) {
		return
	}
	l.Headers = append(slices.Clone(l.Headers), Header{name, key})
	r.Links = &l
}
