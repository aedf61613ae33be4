package submit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"strconv"
	"strings"

	"github.com/sheafapi/sheaf/internal/batch"
)

// The bounds of a batch. A server takes bodies of 10 MiB unless it was told otherwise.
const (
	mostRequests = batch.MaxRequests
	mostBytes    = 8 << 20
)

// chunk is what one batch takes of the file.
type chunk struct {
	Requests int    `json:"n"`
	Sum      string `json:"sum"` // of the requests' text
}

// need is what the planner has to know of a request.
type need struct {
	line, bytes int
	back        int // how many requests before it the first is that it depends on; 0: none
}

// planner cuts a file into batches: as few as possible, requests that depend on each other in
// the same one. It looks ahead as far as a dependency can reach.
type planner struct {
	path   string
	bound  int            // bytes of a batch
	needs  []need         // not cut yet
	behind int            // requests that were cut
	ids    map[string]int // the last request with an id, counted over the file
	last   []string       // ids by request, as long as they can be depended on
	cuts   []int
}

// links are the parts of a request that planning needs.
type links struct {
	ID        string            `json:"id"`
	DependsOn []string          `json:"dependsOn"`
	Refs      map[string]string `json:"refs"`
}

// add takes the next request. What is wrong with its form is left to the check.
func (p *planner) add(r *row) error {
	n := need{line: r.line, bytes: len(r.request) + 1}
	var l links
	if mayLink(r.request) {
		_ = json.Unmarshal(r.request, &l)
	}
	at := p.behind + len(p.needs)
	look := func(id string) error {
		first, ok := p.ids[id]
		if !ok {
			return nil
		}
		if at-first >= mostRequests {
			return &lineError{path: p.path, line: r.line, err: fmt.Errorf("the request depends on %q, %d requests before: both have to fit into one batch of %d", id, at-first, mostRequests)}
		}
		n.back = max(n.back, at-first)
		return nil
	}
	for _, id := range l.DependsOn {
		if err := look(id); err != nil {
			return err
		}
	}
	for _, from := range l.Refs {
		id, _, _ := strings.Cut(from, "#")
		if id, _, found := strings.Cut(from, "@"); found && !strings.Contains(id, "#") {
			if err := look(id); err != nil {
				return err
			}
			continue
		}
		if err := look(id); err != nil {
			return err
		}
	}
	p.remember(l.ID, at)
	p.needs = append(p.needs, n)
	for len(p.needs) >= 2*mostRequests {
		if err := p.cut(); err != nil {
			return err
		}
	}
	return nil
}

// mayLink spares most requests the decoding.
func mayLink(request []byte) bool {
	return bytes.Contains(request, []byte(`"id"`)) || bytes.Contains(request, []byte(`"dependsOn"`)) || bytes.Contains(request, []byte(`"refs"`))
}

// remember keeps the ids of twice as many requests as a dependency can span, to tell of one
// that spans too many.
func (p *planner) remember(id string, at int) {
	if p.ids == nil {
		p.ids = map[string]int{}
	}
	p.last = append(p.last, id)
	if id != "" {
		p.ids[id] = at
	}
	if n := len(p.last) - 4*mostRequests; n > mostRequests {
		for i, old := range p.last[:n] {
			if p.ids[old] <= at-len(p.last)+1+i {
				delete(p.ids, old)
			}
		}
		p.last = append(p.last[:0], p.last[n:]...)
	}
}

// cut decides about the next batch.
func (p *planner) cut() error {
	size, most := 2, 0
	for most < min(len(p.needs), mostRequests) && (most == 0 || size+p.needs[most].bytes <= p.bound) {
		size += p.needs[most].bytes
		most++
	}
	// The first request, from the end, that nothing behind depends on anything before.
	first := len(p.needs)
	at := 0
	for i := len(p.needs) - 1; i > 0; i-- {
		first = min(first, i-p.needs[i].back)
		if i <= most && first >= i {
			at = i
			break
		}
	}
	if most == len(p.needs) {
		at = most
	}
	if at == 0 {
		return &lineError{path: p.path, line: p.needs[0].line, err: fmt.Errorf("the requests from here to line %d depend on each other and don't fit into one batch of %d requests and %d MiB", p.needs[min(most, len(p.needs)-1)].line, mostRequests, p.bound>>20)}
	}
	p.cuts = append(p.cuts, at)
	p.behind += at
	p.needs = append(p.needs[:0], p.needs[at:]...)
	return nil
}

// finish decides about the rest.
func (p *planner) finish() error {
	for len(p.needs) > 0 {
		if err := p.cut(); err != nil {
			return err
		}
	}
	return nil
}

// plan reads the whole file and cuts it into chunks, whose requests are all well-formed. It
// also returns how many blank rows it skipped.
func (in *Input) plan(o batch.Options) (chunks []chunk, blank int, err error) {
	p := planner{path: in.Path, bound: mostBytes}
	rows, file, err := in.open()
	if err != nil {
		return nil, 0, err
	}
	defer file.Close()
	var wrong mistakes
	for {
		r, err := rows.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = p.add(r)
		}
		if err != nil && !wrong.take(err) {
			break
		}
	}
	if wrong.found() {
		return nil, 0, &wrong
	}
	if err := p.finish(); err != nil {
		return nil, 0, err
	}
	if len(p.cuts) == 0 {
		return nil, 0, fmt.Errorf("%s holds no request", in.Path)
	}
	chunks = make([]chunk, len(p.cuts))
	for i, n := range p.cuts {
		chunks[i].Requests = n
	}
	return chunks, rows.blank(), in.check(chunks, o)
}

// mostMistakes is how many mistakes of a file are shown.
const mostMistakes = 20

// mistakes are what is wrong with a file: the first ones, and the number of the others.
type mistakes struct {
	shown []error
	more  int
}

// take adds a mistake and reports whether what follows it can be read.
func (m *mistakes) take(err error) bool {
	m.add(err)
	wrong, ok := errors.AsType[*lineError](err)
	return ok && wrong.more
}

func (m *mistakes) add(err error) {
	if len(m.shown) < mostMistakes {
		m.shown = append(m.shown, err)
	} else {
		m.more++
	}
}

func (m *mistakes) found() bool { return len(m.shown) > 0 }

func (m *mistakes) Unwrap() []error { return m.shown }

func (m *mistakes) Error() string {
	text := errors.Join(m.shown...).Error()
	if m.more > 0 {
		text += fmt.Sprintf("\nand %d more mistakes", m.more)
	}
	return text
}

// check judges each request as a server does, and fills in the sums.
func (in *Input) check(chunks []chunk, o batch.Options) error {
	r, err := in.reader(chunks)
	if err != nil {
		return err
	}
	defer r.Close()
	var wrong mistakes
	for i := range chunks {
		part, err := r.next()
		if err != nil {
			return err
		}
		if _, err := batch.Decode(part.body(), o, batch.AnyHeader()); err != nil {
			in.wrong(&wrong, part, err)
		}
		chunks[i].Sum = part.sum
	}
	if wrong.found() {
		return &wrong
	}
	return nil
}

// wrong names the lines of what a server would refuse.
func (in *Input) wrong(m *mistakes, part *part, err error) {
	invalid, ok := errors.AsType[*batch.InvalidError](err)
	if !ok {
		m.add(err)
		return
	}
	for _, p := range invalid.Problems {
		m.add(in.problem(part, p))
	}
	m.more += invalid.More
}

// problem names the line of $[3].method.
func (in *Input) problem(part *part, p batch.Problem) error {
	place, found := strings.CutPrefix(p.Place, "$[")
	index, field, _ := strings.Cut(place, "]")
	i, err := strconv.Atoi(index)
	if !found || err != nil || i >= len(part.lines) {
		return &lineError{path: in.Path, line: part.lines[0], err: fmt.Errorf("a request of lines %d to %d: %s", part.lines[0], part.lines[len(part.lines)-1], p.Message)}
	}
	field = strings.TrimPrefix(field, ".")
	if field == "" {
		field = "the request"
	}
	return &lineError{path: in.Path, line: part.lines[i], err: fmt.Errorf("%s %s", field, p.Message)}
}

// part is what a chunk holds.
type part struct {
	index   int
	first   int // requests of the file before it
	lines   []int
	columns [][]string // CSV
	text    []byte     // an array of a create body
	ends    []int      // of each request in text
	sum     string
}

func (p *part) body() []byte { return p.text }

// request returns the text of a request.
func (p *part) request(i int) []byte {
	begin := 1
	if i > 0 {
		begin = p.ends[i-1] + 1
	}
	return p.text[begin:p.ends[i]]
}

// reader reads a file chunk by chunk.
type reader struct {
	rows   rows
	file   io.Closer
	chunks []chunk
	keep   bool // the columns
	path   string
	part   part
	sum    hash.Hash
}

func (in *Input) reader(chunks []chunk) (*reader, error) {
	rows, file, err := in.open()
	if err != nil {
		return nil, err
	}
	return &reader{rows: rows, file: file, chunks: chunks, path: in.Path, sum: sha256.New()}, nil
}

func (r *reader) Close() error { return r.file.Close() }

// next reads the next chunk, which is used until the call after. A chunk that has a sum must
// still be what it was.
func (r *reader) next() (*part, error) {
	p := &r.part
	if p.text == nil {
		p.text = []byte{}
	} else {
		p.first += len(p.lines)
		p.index++
	}
	if p.index == len(r.chunks) {
		return nil, io.EOF
	}
	p.lines, p.columns, p.ends = p.lines[:0], p.columns[:0], p.ends[:0]
	p.text = append(p.text[:0], '[')
	for range r.chunks[p.index].Requests {
		one, err := r.rows.next()
		if errors.Is(err, io.EOF) {
			return nil, r.changed()
		}
		if err != nil {
			return nil, err
		}
		if len(p.lines) > 0 {
			p.text = append(p.text, ',')
		}
		p.text = append(p.text, one.request...)
		p.ends = append(p.ends, len(p.text))
		p.lines = append(p.lines, one.line)
		if r.keep {
			p.columns = append(p.columns, append([]string(nil), one.columns...))
		}
	}
	p.text = append(p.text, ']')
	r.sum.Reset()
	r.sum.Write(p.text)
	p.sum = hex.EncodeToString(r.sum.Sum(nil)[:12])
	if want := r.chunks[p.index].Sum; want != "" && want != p.sum {
		return nil, r.changed()
	}
	return p, nil
}

func (r *reader) changed() error {
	return fmt.Errorf("%s is no longer what it was when it was checked (batch %d differs): put it back, or send what is left from a file of its own", r.path, r.part.index+1)
}
