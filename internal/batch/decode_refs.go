package batch

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// resolveRefs checks a request's references and adds them to the request.
func (d *decoder) resolveRefs(ids map[string]int, r *Request, texts []refText) {
	p := d.places(r, texts)
	for _, t := range texts {
		place := func() string { return ".refs" + member(t.place) }
		ref, ok := d.ref(ids, t, place)
		if !ok {
			continue
		}
		if err := p.take(&ref); err != nil {
			d.noteAt(place(), "%v", err)
			continue
		}
		r.Links.Refs = append(r.Links.Refs, ref)
		r.Links.DependsOn = append(r.Links.DependsOn, ref.From)
	}
	d.unfilled(r, texts)
}

// ref parses a reference. place returns its JSON path.
func (d *decoder) ref(ids map[string]int, t refText, place func() string) (ref Ref, ok bool) {
	ref.Where, ref.Name = t.where()
	if ref.Where == 0 {
		d.noteAt(place(), "must be named path:NAME, query:NAME, body:POINTER or header:NAME")
		return ref, false
	}
	at := strings.IndexAny(t.from, "#@")
	if at < 0 {
		d.noteAt(place(), "must be ID#POINTER, into the body of the answer of the request with that id, or ID@HEADER")
		return ref, false
	}
	if ref.From, ok = d.parent(ids, t.from[:at], place); !ok {
		return ref, false
	}
	if t.from[at] == '@' {
		ref.Field = t.from[at+1:]
		if _, _, _, ok := cutSegment(ref.Field); !ok {
			d.noteAt(place(), "must name a header behind the @, such as ETag, or a segment of the URL in a header, such as Location/-1")
			return ref, false
		}
		return ref, true
	}
	ref.Path = t.from[at+1:]
	if err := checkPointer(ref.Path); err != nil {
		d.noteAt(place(), "%v, behind the #", err)
		return ref, false
	}
	return ref, true
}

// where returns the kind and the name of the place that a reference fills; zero if there is no such kind.
func (t refText) where() (Where, string) {
	kind, name, ok := strings.Cut(t.place, ":")
	if !ok || kind == "" {
		return 0, ""
	}
	return Where(max(slices.Index(wheres, kind), 0)), name
}

// places holds the places of a request that references can fill.
type places struct {
	path, query map[string]bool // the names in braces
	headers     map[string]bool // the request's own headers, in lower case
	admitted    HeaderPolicy
	isJSON      bool            // the body is JSON and not a string
	body        map[string]span // by pointer: where its value is in the body
	taken       []span          // the places in the body that references fill
}

// places finds the places of a request. The time is proportional to the size of the request and its
// references.
func (d *decoder) places(r *Request, texts []refText) *places {
	path, query, _ := strings.Cut(r.Path, "?")
	p := &places{
		path: names(path), query: names(query), headers: map[string]bool{}, admitted: d.admitted, isJSON: d.values.Has(d.index), body: map[string]span{},
	}
	for _, h := range r.Links.Headers {
		p.headers[strings.ToLower(h.Name)] = true
	}
	if !p.isJSON {
		return p
	}
	var pointers []string
	for _, t := range texts {
		if where, name := t.where(); where == InBody && checkPointer(name) == nil {
			pointers = append(pointers, name)
		}
	}
	found, read := locate(r.Body, pointers)
	d.read += read
	for i, at := range found {
		p.body[pointers[i]] = at
	}
	return p
}

// names returns the set of names in braces in text.
func names(text string) map[string]bool {
	out := map[string]bool{}
	for at := range placeholders(text) {
		out[text[at.begin+1:at.end-1]] = true
	}
	return out
}

// take reserves the place of a reference, so that no other reference can fill it. The error completes a
// sentence that begins with the place.
func (p *places) take(ref *Ref) error {
	switch ref.Where {
	case InPath, InQuery:
		in := p.path
		if ref.Where == InQuery {
			in = p.query
		}
		if !validRefName(ref.Name) {
			return fmt.Errorf("must have a name of 1 to %d of A-Z a-z 0-9 _ -", MaxRefName)
		}
		if !in[ref.Name] {
			return fmt.Errorf("has no place: there is no {%s} in the %s", ref.Name, ref.Where)
		}
	case InHeader:
		if err := p.admitted.Check(ref.Name); err != nil {
			return err
		}
		name := strings.ToLower(ref.Name)
		if p.headers[name] {
			return errors.New("fills a header that is already given")
		}
		p.headers[name] = true
	case InBody:
		return p.takeBody(ref.Name)
	}
	return nil
}

// takeBody reserves a place in the body. See take.
func (p *places) takeBody(pointer string) error {
	if err := checkPointer(pointer); err != nil {
		return err
	}
	if !p.isJSON {
		return errors.New("has no place: the body isn't JSON (a string is text)")
	}
	at := p.body[pointer]
	if !at.exists() {
		return fmt.Errorf("has no place: there is nothing at %s in the body", quoted(pointer))
	}
	if slices.ContainsFunc(p.taken, func(o span) bool { return at.begin < o.end && o.begin < at.end }) {
		return errors.New("fills a place that another reference fills too, or that lies within its")
	}
	p.taken = append(p.taken, at)
	return nil
}

// unfilled records every {NAME} that no reference fills as a problem, if the request has references.
func (d *decoder) unfilled(r *Request, texts []refText) {
	filled := make(map[string]bool, len(texts))
	for _, t := range texts {
		filled[t.place] = true
	}
	path, query, _ := strings.Cut(r.Path, "?")
	for _, part := range []struct {
		where Where
		text  string
	}{{InPath, path}, {InQuery, query}} {
		for at := range placeholders(part.text) {
			name := part.text[at.begin+1 : at.end-1]
			if !filled[part.where.String()+":"+name] {
				d.noteAt(".path", "has {%s} in its %s, which no reference fills: add refs[\"%s:%s\"]", name, part.where, part.where, name)
			}
		}
	}
}

// validRefName reports whether s can name a place in a path or query.
func validRefName(s string) bool { return len(s) <= MaxRefName && ValidStoreID(s) }
