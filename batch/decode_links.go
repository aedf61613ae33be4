package batch

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// linked is an element with fields that name other elements, which are judged when all
// elements are known.
type linked struct {
	index     int
	dependsOn []string
	refs      []refText
}

// refText is a reference as it came.
type refText struct{ place, from string }

// links returns the request's links, made at their first use.
func (r *Request) links() *Links {
	if r.Links == nil {
		r.Links = &Links{}
	}
	return r.Links
}

// link returns what is noted of the current element for later.
func (d *decoding) link() *linked {
	if n := len(d.linked); n == 0 || d.linked[n-1].index != d.index {
		d.linked = append(d.linked, linked{index: d.index})
	}
	return &d.linked[len(d.linked)-1]
}

// strings reads an object whose values are strings, and calls each for them. Anything
// else is a problem.
func (d *decoding) strings(field string, each func(name, value string)) error {
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
	for d.json.PeekKind() == '"' {
		token, err := d.json.ReadToken()
		if err != nil {
			return err
		}
		name := token.String()
		value, ok, err := d.text(field + member(name))
		if err != nil {
			return err
		}
		if ok {
			each(name, value)
		}
	}
	_, err := d.json.ReadToken()
	return err
}

// member is a name as a step of a JSON path, cut where it is long.
func member(name string) string {
	if len(name) > maxPlace {
		name = name[:maxPlace]
	}
	return "[" + string(AppendString(nil, name)) + "]"
}

func (d *decoding) headers(r *Request) error {
	const field = ".headers"
	size := 0
	return d.strings(field, func(name, value string) {
		l := r.links()
		size += len(name) + len(value)
		place := field + member(name)
		switch err := checkHeaderName(name); {
		case err != nil:
			d.noteAt(place, "%v", err)
		case slices.ContainsFunc(l.Headers, func(h Header) bool { return strings.EqualFold(h.Name, name) }):
			d.noteAt(place, "is given twice")
		case len(l.Headers) == MaxHeaders:
			d.noteAt(place, "is one more than the %d headers that a request may have", MaxHeaders)
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

func (d *decoding) dependsOn(r *Request) error {
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
		id, ok, err := d.text(fmt.Sprintf("%s[%d]", field, i))
		if err != nil {
			return err
		}
		if ok && i < MaxRequests { // more would repeat themselves
			r.links()
			l := d.link()
			l.dependsOn = append(l.dependsOn, id)
		}
	}
	_, err := d.json.ReadToken()
	return err
}

func (d *decoding) runIf(r *Request) error {
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

func (d *decoding) refs(r *Request) error {
	const field = ".refs"
	n := 0
	return d.strings(field, func(place, from string) {
		if n++; n > MaxRefs {
			if n == MaxRefs+1 {
				d.noteAt(field, "must be at most %d", MaxRefs)
			}
			return
		}
		r.links()
		l := d.link()
		l.refs = append(l.refs, refText{place, from})
	})
}

// resolve judges what elements say of other elements.
func (d *decoding) resolve() {
	if len(d.linked) == 0 {
		return
	}
	ids := map[string]int{} // -1: of several
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
		d.index = l.index
		r := &d.requests[l.index]
		for i, id := range l.dependsOn {
			if from, ok := d.parent(ids, id, fmt.Sprintf(".dependsOn[%d]", i)); ok {
				r.Links.DependsOn = append(r.Links.DependsOn, from)
			}
		}
		for _, t := range l.refs {
			d.ref(ids, r, t)
		}
		d.places(r, l)
		slices.Sort(r.Links.DependsOn)
		r.Links.DependsOn = slices.Compact(r.Links.DependsOn)
		if r.Links.RunIf == IfFailure && len(l.dependsOn)+len(l.refs) == 0 {
			d.noteAt(".runIf", "can't be failure without dependsOn: there is no request whose failure it waits for")
		}
	}
}

// parent returns the index of the earlier request with an id.
func (d *decoding) parent(ids map[string]int, id, place string) (from int, ok bool) {
	from, ok = ids[id]
	switch {
	case !ok:
		d.noteAt(place, "names the id %s, which no request of the batch has", quoted(id))
	case from < 0:
		d.noteAt(place, "names the id %s, which several requests have", quoted(id))
	case from >= d.index:
		d.noteAt(place, "names the id %s, which is not an earlier request's", quoted(id))
	case strings.ContainsAny(id, "#@"):
		d.noteAt(place, "names the id %s: an id that is referred to can't have # or @", quoted(id))
	default:
		return from, true
	}
	return 0, false
}

func quoted(s string) string {
	if len(s) > MaxID {
		s = s[:MaxID] + "…"
	}
	return string(AppendString(nil, s))
}

// ref judges one reference and adds it to its request.
func (d *decoding) ref(ids map[string]int, r *Request, t refText) {
	place := ".refs" + member(t.place)
	kind, name, ok := strings.Cut(t.place, ":")
	ref := Ref{Where: Where(max(slices.Index(wheres, kind), 0)), Name: name}
	if !ok || kind == "" || ref.Where == 0 {
		d.noteAt(place, "must be named path:NAME, query:NAME, body:POINTER or header:NAME")
		return
	}
	at := strings.IndexAny(t.from, "#@")
	if at < 0 {
		d.noteAt(place, "must be ID#POINTER, into the body of the answer of the request with that id, or ID@HEADER")
		return
	}
	if ref.From, ok = d.parent(ids, t.from[:at], place); !ok {
		return
	}
	if t.from[at] == '@' {
		if ref.Field = t.from[at+1:]; ref.Field == "" || checkToken(ref.Field) != nil {
			d.noteAt(place, "must name a header behind the @")
			return
		}
	} else {
		ref.Path = t.from[at+1:]
		if err := checkPointer(ref.Path); err != nil {
			d.noteAt(place, "%v, behind the #", err)
			return
		}
	}
	if err := d.place(r, &ref); err != nil {
		d.noteAt(place, "%v", err)
		return
	}
	r.Links.Refs = append(r.Links.Refs, ref)
	r.Links.DependsOn = append(r.Links.DependsOn, ref.From)
}

// place reports whether the request has the place that a reference fills. An error
// completes a sentence.
func (d *decoding) place(r *Request, ref *Ref) error {
	path, query, _ := strings.Cut(r.Path, "?")
	switch ref.Where {
	case InPath, InQuery:
		in := path
		if ref.Where == InQuery {
			in = query
		}
		if !validRefName(ref.Name) {
			return fmt.Errorf("must have a name of 1 to %d of A-Z a-z 0-9 _ -", MaxRefName)
		}
		if !strings.Contains(in, "{"+ref.Name+"}") {
			return fmt.Errorf("has no place: there is no {%s} in the %s", ref.Name, ref.Where)
		}
	case InHeader:
		if err := checkHeaderName(ref.Name); err != nil {
			return err
		}
		same := func(name string) bool { return strings.EqualFold(name, ref.Name) }
		if slices.ContainsFunc(r.Links.Headers, func(h Header) bool { return same(h.Name) }) ||
			slices.ContainsFunc(r.Links.Refs, func(o Ref) bool { return o.Where == InHeader && same(o.Name) }) {
			return errors.New("fills a header that is given already")
		}
	case InBody:
		return d.bodyPlace(r, ref)
	}
	return nil
}

// bodyPlace is place for one in the body.
func (d *decoding) bodyPlace(r *Request, ref *Ref) error {
	if err := checkPointer(ref.Name); err != nil {
		return err
	}
	if !d.values.Has(d.index) {
		return errors.New("has no place: the body is no JSON (a string is text)")
	}
	at, err := locate(r.Body, ref.Name)
	if err != nil {
		return fmt.Errorf("has no place: there is nothing at %s in the body", quoted(ref.Name))
	}
	for i := range r.Links.Refs {
		o := &r.Links.Refs[i]
		if o.Where != InBody {
			continue
		}
		if other, err := locate(r.Body, o.Name); err == nil && at.begin < other.end && other.begin < at.end {
			return errors.New("fills a place that another reference fills too, or that lies within its")
		}
	}
	return nil
}

// places notes every {NAME} that no reference fills, in a request that has references.
func (d *decoding) places(r *Request, l *linked) {
	if len(l.refs) == 0 {
		return
	}
	path, query, _ := strings.Cut(r.Path, "?")
	for _, part := range []struct {
		where Where
		text  string
	}{{InPath, path}, {InQuery, query}} {
		for rest := part.text; ; {
			_, after, ok := strings.Cut(rest, "{")
			if !ok {
				break
			}
			name, behind, closed := strings.Cut(after, "}")
			rest = after
			if !closed || !validRefName(name) {
				continue // plain text
			}
			rest = behind
			if !slices.ContainsFunc(l.refs, func(t refText) bool { return t.place == part.where.String()+":"+name }) {
				d.noteAt(".path", "has {%s} in its %s, which no reference fills: add refs[\"%s:%s\"]", name, part.where, part.where, name)
			}
		}
	}
}

func validRefName(s string) bool {
	if s == "" || len(s) > MaxRefName {
		return false
	}
	return ValidStoreID(s) // the same characters, and as many
}
