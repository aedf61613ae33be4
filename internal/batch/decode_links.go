package batch

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
)

// linkFields are the fields of an element that name other elements. They are checked once all elements
// are known.
type linkFields struct {
	index     int
	dependsOn []string
	refs      []refText
}

// refText is an unparsed reference.
type refText struct{ place, from string }

// links returns the request's links. It allocates them when they are first used.
func (r *Request) links() *Links {
	if r.Links == nil {
		r.Links = &Links{}
	}
	return r.Links
}

// link returns the link fields of the current element.
func (d *decoder) link() *linkFields {
	if n := len(d.linked); n == 0 || d.linked[n-1].index != d.index {
		d.linked = append(d.linked, linkFields{index: d.index})
	}
	return &d.linked[len(d.linked)-1]
}

// strings reads an object whose values are strings, and calls add for every member. It records a
// problem if a value isn't a string or if the object has more members than limit.
func (d *decoder) strings(field string, limit int, add func(name, value string)) error {
	switch d.json.PeekKind() {
	case 'n':
		return d.json.SkipValue()
	case '{':
	default:
		return d.skipInstead(fmt.Sprintf("$[%d]%s", d.index, field), "must be an object of strings")
	}
	if _, err := d.json.ReadToken(); err != nil {
		return err
	}
	n := 0
	for ; d.json.PeekKind() == '"'; n++ {
		token, err := d.json.ReadToken()
		if err != nil {
			return err
		}
		if n >= limit {
			if err := d.json.SkipValue(); err != nil {
				return err
			}
			continue
		}
		name := token.String()
		value, ok, err := d.textAt(func() string { return field + member(name) })
		if err != nil {
			return err
		}
		if ok {
			add(name, value)
		}
	}
	if n > limit {
		d.noteAt(field, "must be at most %d; there are %d", limit, n)
	}
	_, err := d.json.ReadToken()
	return err
}

// member returns a name as a step of a JSON path. It shortens long names.
func member(name string) string {
	if len(name) > maxPlace {
		name = name[:maxPlace]
	}
	return "[" + string(AppendString(nil, name)) + "]"
}

func (d *decoder) headers(r *Request) error {
	const field = ".headers"
	size := 0
	return d.strings(field, MaxHeaders, func(name, value string) {
		l := r.links()
		size += len(name) + len(value)
		place := field + member(name)
		switch err := d.admitted.Check(name); {
		case err != nil:
			d.noteAt(place, "%v", err)
		case slices.ContainsFunc(l.Headers, func(h Header) bool { return strings.EqualFold(h.Name, name) }):
			d.noteAt(place, "is given twice")
		case size > MaxHeaderBytes:
			d.noteAt(place, "makes the headers longer than %d bytes", MaxHeaderBytes)
		default:
			if err := checkHeaderValue(value); err != nil {
				d.noteAt(place, "%v", err)
				return
			}
			l.Headers = append(l.Headers, Header{name, value})
		}
	})
}

func (d *decoder) dependsOn(r *Request) error {
	const field = ".dependsOn"
	switch d.json.PeekKind() {
	case 'n':
		return d.json.SkipValue()
	case '[':
	default:
		return d.skipInstead(fmt.Sprintf("$[%d]%s", d.index, field), "must be an array of ids of earlier requests")
	}
	if _, err := d.json.ReadToken(); err != nil {
		return err
	}
	for i := 0; d.json.PeekKind() != ']'; i++ {
		if i >= MaxRequests { // further elements can only be repetitions
			if err := d.json.SkipValue(); err != nil {
				return err
			}
			continue
		}
		id, ok, err := d.textAt(func() string { return fmt.Sprintf("%s[%d]", field, i) })
		if err != nil {
			return err
		}
		if ok {
			r.links()
			l := d.link()
			l.dependsOn = append(l.dependsOn, id)
		}
	}
	_, err := d.json.ReadToken()
	return err
}

func (d *decoder) runIf(r *Request) error {
	if d.json.PeekKind() == 'n' {
		return d.json.SkipValue()
	}
	s, ok, err := d.text(".runIf")
	if !ok {
		return err
	}
	i := slices.Index(runIfs, s)
	switch {
	case i < 0:
		d.noteAt(".runIf", "must be one of %s", strings.Join(runIfs, ", "))
	case RunIf(i) != IfSuccess && d.options.StopOnFailure:
		d.noteAt(".runIf", "can be %s only with stopOnFirstFailure=false: else nothing runs after a failure", s)
	default:
		r.links().RunIf = RunIf(i)
		d.link()
	}
	return err
}

func (d *decoder) refs(r *Request) error {
	return d.strings(".refs", MaxRefs, func(place, from string) {
		r.links()
		l := d.link()
		l.refs = append(l.refs, refText{place, from})
	})
}

// resolve checks the fields that name other elements.
func (d *decoder) resolve() {
	if len(d.linked) == 0 {
		return
	}
	ids := map[string]int{} // -1: several elements have the id
	for i := range d.requests {
		id := d.requests[i].ID
		if _, twice := ids[id]; twice {
			ids[id] = -1
		} else if id != "" {
			ids[id] = i
		}
	}
	for i := range d.linked {
		l := &d.linked[i]
		if l.index >= len(d.requests) {
			continue
		}
		runtime.Gosched() // as in array
		d.index = l.index
		r := &d.requests[l.index]
		for i, id := range l.dependsOn {
			if from, ok := d.parent(ids, id, func() string { return fmt.Sprintf(".dependsOn[%d]", i) }); ok {
				r.Links.DependsOn = append(r.Links.DependsOn, from)
			}
		}
		if len(l.refs) > 0 {
			d.resolveRefs(ids, r, l.refs)
		}
		slices.Sort(r.Links.DependsOn)
		r.Links.DependsOn = slices.Compact(r.Links.DependsOn)
		if r.Links.RunIf == IfFailure && len(l.dependsOn)+len(l.refs) == 0 {
			d.noteAt(".runIf", "can't be failure without dependsOn: there is no request whose failure it waits for")
		}
	}
}

// parent returns the index of the earlier request with the given id. place returns where the id is used.
func (d *decoder) parent(ids map[string]int, id string, place func() string) (from int, ok bool) {
	from, ok = ids[id]
	var why string
	switch {
	case !ok:
		why = "which no request of the batch has"
	case from < 0:
		why = "which several requests have"
	case from >= d.index:
		why = "which is not an earlier request's"
	case strings.ContainsAny(id, "#@"):
		d.noteAt(place(), "names the id %s: an id that is referred to can't have # or @", quoted(id))
		return 0, false
	default:
		return from, true
	}
	d.noteAt(place(), "names the id %s, %s", quoted(id), why)
	return 0, false
}

func quoted(s string) string {
	if len(s) > MaxID {
		s = s[:MaxID] + "…"
	}
	return string(AppendString(nil, s))
}
