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

// The limits of a batch. By default, servers accept bodies of 10 MiB.
const (
	maxRequests = batch.MaxRequests
	maxBytes    = 8 << 20
)

// chunk is the part of the file that becomes one batch.
type chunk struct {
	Requests int    `json:"n"`
	Sum      string `json:"sum"` // a hash of the requests' text
}

// plannedRequest is what the planner needs to know about a request.
type plannedRequest struct {
	line, bytes int
	back        int // the distance to the first request that it depends on; 0: none
}

// planner divides a file into as few batches as possible, with requests that depend on each other in
// the same batch. It looks ahead as far as a dependency can reach.
type planner struct {
	path     string
	maxBytes int              // the maximum size of a batch
	pending  []plannedRequest // requests that have no batch yet
	planned  int              // the number of requests that have one
	ids      map[string]int   // the index in the file of the last request with each ID
	last     []string         // the IDs of the latest requests, which later ones may depend on
	cuts     []int            // the number of requests in each batch
}

// links are the parts of a request that the planner needs.
type links struct {
	ID        string            `json:"id"`
	DependsOn []string          `json:"dependsOn"`
	Refs      map[string]string `json:"refs"`
}

// add adds the next request. It ignores invalid fields, which the check reports later.
func (p *planner) add(r *row) error {
	n := plannedRequest{line: r.line, bytes: len(r.request) + 1}
	var l links
	if mayLink(r.request) {
		_ = json.Unmarshal(r.request, &l)
	}
	at := p.planned + len(p.pending)
	look := func(id string) error {
		first, ok := p.ids[id]
		if !ok {
			return nil
		}
		if at-first >= maxRequests {
			return &lineError{path: p.path, line: r.line, err: fmt.Errorf("the request depends on %q, which is %d requests before it: both must fit into one batch of %d", id, at-first, maxRequests)}
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
	p.pending = append(p.pending, n)
	for len(p.pending) >= 2*maxRequests {
		if err := p.cut(); err != nil {
			return err
		}
	}
	return nil
}

// mayLink reports whether a request may have links, so that most requests need no decoding.
func mayLink(request []byte) bool {
	return bytes.Contains(request, []byte(`"id"`)) || bytes.Contains(request, []byte(`"dependsOn"`)) || bytes.Contains(request, []byte(`"refs"`))
}

// remember records a request's ID. It keeps more IDs than a dependency can span, so that add can report
// one that spans too many requests.
func (p *planner) remember(id string, at int) {
	if p.ids == nil {
		p.ids = map[string]int{}
	}
	p.last = append(p.last, id)
	if id != "" {
		p.ids[id] = at
	}
	if n := len(p.last) - 4*maxRequests; n > maxRequests {
		for i, old := range p.last[:n] {
			if p.ids[old] <= at-len(p.last)+1+i {
				delete(p.ids, old)
			}
		}
		p.last = append(p.last[:0], p.last[n:]...)
	}
}

// cut determines the next batch.
func (p *planner) cut() error {
	size, most := 2, 0
	for most < min(len(p.pending), maxRequests) && (most == 0 || size+p.pending[most].bytes <= p.maxBytes) {
		size += p.pending[most].bytes
		most++
	}
	// Find the last position such that no request after it depends on one before it.
	first := len(p.pending)
	at := 0
	for i := len(p.pending) - 1; i > 0; i-- {
		first = min(first, i-p.pending[i].back)
		if i <= most && first >= i {
			at = i
			break
		}
	}
	if most == len(p.pending) {
		at = most
	}
	if at == 0 {
		return &lineError{path: p.path, line: p.pending[0].line, err: fmt.Errorf("the requests from here to line %d depend on each other and don't fit into one batch of %d requests and %d MiB", p.pending[min(most, len(p.pending)-1)].line, maxRequests, p.maxBytes>>20)}
	}
	p.cuts = append(p.cuts, at)
	p.planned += at
	p.pending = append(p.pending[:0], p.pending[at:]...)
	return nil
}

// finish divides the remaining requests into batches.
func (p *planner) finish() error {
	for len(p.pending) > 0 {
		if err := p.cut(); err != nil {
			return err
		}
	}
	return nil
}

// plan reads and checks the whole file and divides it into chunks. blank is how many blank rows it
// skipped.
func (in *Input) plan(o batch.Options) (chunks []chunk, blank int, err error) {
	p := planner{path: in.Path, maxBytes: maxBytes}
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
		if err != nil && !wrong.addLine(err) {
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
		return nil, 0, fmt.Errorf("%s has no requests", in.Path)
	}
	chunks = make([]chunk, len(p.cuts))
	for i, n := range p.cuts {
		chunks[i].Requests = n
	}
	return chunks, rows.blank(), in.check(chunks, o)
}

// maxMistakes is how many mistakes of a file are shown.
const maxMistakes = 20

// mistakes is an error that holds the first mistakes in a file and counts the others.
type mistakes struct {
	shown []error
	more  int
}

// addLine adds a mistake and reports whether the rest of the file can still be read.
func (m *mistakes) addLine(err error) bool {
	m.add(err)
	wrong, ok := errors.AsType[*lineError](err)
	return ok && wrong.more
}

func (m *mistakes) add(err error) {
	if len(m.shown) < maxMistakes {
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

// check validates each request as a server does, and sets the sums of the chunks.
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
			in.addProblems(&wrong, part, err)
		}
		chunks[i].Sum = part.sum
	}
	if wrong.found() {
		return &wrong
	}
	return nil
}

// addProblems adds the mistakes that a server would refuse, with their lines.
func (in *Input) addProblems(m *mistakes, part *part, err error) {
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

// problem turns a problem at a place such as $[3].method into an error with the line of the request.
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

// part is the content of a chunk.
type part struct {
	index   int
	first   int        // how many requests of the file precede it
	lines   []int      // the line of each request
	columns [][]string // the rows, if the input is CSV
	text    []byte     // the body for creating the batch, a JSON array
	ends    []int      // the end of each request in text
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
	keep   bool // keep the columns
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

// next reads the next chunk, which is valid until the next call. It returns an error if the text of the
// chunk doesn't match its sum.
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
	return fmt.Errorf("%s has changed since it was checked (batch %d differs): restore it, or send the remaining requests from another file", r.path, r.part.index+1)
}
