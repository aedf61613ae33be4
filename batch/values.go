package batch

import (
	"fmt"
	"slices"
	"strings"
)

// maxValues bounds the values that the references of one batch keep in memory, in bytes.
const maxValues = 8 << 20

// Values are what the references of a batch's requests have found in answers so far. Of an
// answer only these are kept.
type Values struct {
	requests []Request
	found    [][]Value // by request and reference; nil: the request has none
	needed   [][]need  // by request: who needs its answer
	bytes    int
}

// need is a reference of a later request.
type need struct{ index, ref int }

// NewValues returns the values of these requests, of which none is found yet.
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

// Take keeps what later requests need of the result of request i. A later result of the
// same request takes the place of an earlier one.
func (v *Values) Take(i int, result *Result) {
	for _, n := range v.needed[i] {
		f := &v.found[n.index][n.ref]
		v.bytes -= len(f.JSON)
		*f = v.requests[n.index].Links.Refs[n.ref].Extract(result)
		if v.bytes += len(f.JSON); v.bytes > maxValues {
			v.bytes -= len(f.JSON)
			*f = Value{Why: fmt.Sprintf("finds a value with which the values of the batch's references are longer than %d MiB", maxValues>>20)}
		}
	}
}

// Of returns the values of request i, by the order of its references.
func (v *Values) Of(i int) []Value { return v.found[i] }

// Needs reports whether one of the requests that ok selects needs the answer to request i.
func (v *Values) Needs(i int, ok func(index int) bool) bool {
	return slices.ContainsFunc(v.needed[i], func(n need) bool { return ok(n.index) })
}

// Retry returns the requests that repeat what has failed, or was not executed, of those of a
// batch that has ended: in the same order, building on each other as before. References to
// requests that were COMPLETED are filled from their answers. One that may have been carried
// out keeps its Idempotency-Key. ends are the requests' results, of which the body is not
// looked at. It fails where a reference can't be filled: that request fails again whatever
// is tried.
func Retry(ticket Ticket, ends []Result, v *Values) ([]Request, error) {
	place := make([]int, len(ends)) // in the new batch; -1: not repeated
	var out []Request
	for i := range ends {
		place[i] = -1
		r := v.requests[i]
		if ends[i].Status == Succeeded || idle(r.Links, place) {
			continue
		}
		if r.Links != nil {
			again, err := relink(&r, place, v.Of(i))
			if err != nil {
				return nil, fmt.Errorf("of request %d, %w", i, err)
			}
			r = *again
		}
		// An answer 4XX says that nothing was done; anything else may have been.
		if ends[i].Status == Failed && ends[i].Code >= 500 {
			keepKey(&r, IdempotencyKey(ticket, i))
		}
		place[i] = len(out)
		out = append(out, r)
	}
	return out, nil
}

// idle reports whether a request only runs after a failure, and there can be none.
func idle(l *Links, place []int) bool {
	return l != nil && l.RunIf == IfFailure && !slices.ContainsFunc(l.DependsOn, func(j int) bool { return place[j] >= 0 })
}

// relink returns a request with what it builds on in its new places, and with the references
// filled to what is not repeated.
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

// keepKey lets a request carry this Idempotency-Key, unless its creator has given one.
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
