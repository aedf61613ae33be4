// Package submit sends the requests of a file to a batch service, as batches of one group, and writes
// their results to another file.
//
// If the process dies, nothing is lost and nothing is carried out twice. A journal next to the input
// records which batches were created and how much of the results has been written. Each batch has a
// deduplication key that never changes.
//
// The input is read three times: to check it, to send it, and to copy its rows into the results. So
// memory doesn't grow with the size of the input.
package submit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/sheafapi/sheaf/client"
	"github.com/sheafapi/sheaf/internal/batch"
)

// Options describe a submission.
type Options struct {
	Input         Input
	Server, Store string
	GroupID       string // default: a unique one
	Choices
	Results       string // default: a file next to the input; "-": standard output
	ResultsFormat Format // NDJSON or CSV; default: from the name of Results, or else CSV if the input is CSV
	FailedOnly    string // a file for the failed requests that can be sent again; "": none
	Overwrite     bool   // replace existing results files
	Raw           bool   // write answers to CSV unchanged, including formulas
}

// Choices are the options of the batches. An empty field means the server's default.
type Choices struct {
	Parallel      bool   `json:"parallel,omitempty"`      // run several requests of a batch at the same time
	StopOnFailure bool   `json:"stopOnFailure,omitempty"` // start no request after the first failure
	Concurrency   int    `json:"concurrency,omitempty"`   // requests of a batch in flight
	Retries       *int   `json:"retries,omitempty"`
	RetryBackoff  string `json:"retryBackoff,omitempty"`
	SuccessStatus string `json:"successStatus,omitempty"`
	FailWhen      string `json:"failWhen,omitempty"`
}

// create returns the options of a create.
func (c *Choices) create() client.CreateOptions {
	o := client.CreateOptions{
		Parallel: c.Parallel, ContinueOnFailure: !c.StopOnFailure, Concurrency: c.Concurrency,
		Retries: c.Retries, RetryBackoff: c.RetryBackoff, SuccessStatus: c.SuccessStatus,
	}
	if c.FailWhen != "" {
		o.FailWhen = []string{c.FailWhen}
	}
	return o
}

// ahead is how many batches may be unfinished at the same time: enough that the service never runs out
// of work, but not so many that they flood it.
const ahead = 8

// Plan is a checked input.
type Plan struct {
	options  Options
	chunks   []chunk
	Requests int
	Batches  int
	Blank    int // blank rows, which are skipped
}

// NewPlan reads and checks the whole file, and sends nothing. The error lists the first mistakes with
// their lines.
func NewPlan(o Options) (*Plan, error) {
	if err := o.Input.sniff(); err != nil {
		return nil, err
	}
	chunks, blank, err := o.Input.plan(batch.Options{Parallel: o.Parallel, StopOnFailure: o.StopOnFailure})
	if err != nil {
		return nil, err
	}
	p := &Plan{options: o, chunks: chunks, Batches: len(chunks), Blank: blank}
	for _, c := range chunks {
		p.Requests += c.Requests
	}
	return p, nil
}

// Run is a submission in progress. Except for Progress, it must be used by one goroutine only.
type Run struct {
	Progress

	journal *journal
	input   Input
	giveUp  bool
	stdout  io.Writer

	stopped atomic.Bool // a failure stopped the submission
	tally   tally
	results *resultWriter
	failed  *requestWriter // nil: FailedOnly is not set
}

// Start begins a submission and creates its journal.
func (p *Plan) Start(stdout io.Writer) (*Run, error) {
	o := p.options
	if err := batch.CheckName(o.GroupID); err != nil {
		return nil, fmt.Errorf("the group's name %w", err)
	}
	h := Header{
		Version: journalVersion, ID: uuid.New(), Server: o.Server, Store: o.Store, GroupID: o.GroupID,
		Format: o.Input.Format, Encoding: o.Input.Encoding, Template: o.Input.Template, DecimalComma: o.Input.DecimalComma,
		Choices: o.Choices, Raw: o.Raw, Blank: p.Blank, Chunks: p.chunks,
	}
	if o.Input.Format == CSV {
		h.Delimiter = string(o.Input.Delimiter)
	}
	if h.GroupID == "" {
		h.GroupID = "submit-" + h.ID.String()
	}
	path := JournalPath(o.Input.Path)
	if _, err := os.Lstat(path); err == nil {
		return nil, alreadyStarted(o.Input.Path)
	}
	if err := o.files(&h); err != nil {
		return nil, err
	}
	j, err := createJournal(path, h)
	if errors.Is(err, fs.ErrExist) {
		return nil, alreadyStarted(o.Input.Path)
	}
	if err != nil {
		return nil, err
	}
	r, err := newRun(j, o.Input, true, stdout)
	if err != nil {
		return nil, errors.Join(err, j.remove()) // nothing was sent
	}
	return r, nil
}

func alreadyStarted(input string) error {
	return fmt.Errorf("an unfinished submission of %s exists: continue it with --resume, or delete %s to start over", input, JournalPath(input))
}

// resultsBeside returns the default name of the results file.
func resultsBeside(input string, format Format) string {
	return strings.TrimSuffix(input, filepath.Ext(input)) + ".results." + string(format)
}

// IsBeside reports whether the results go to the file with the default name.
func (h *Header) IsBeside(input string) bool {
	path, err := filepath.Abs(resultsBeside(input, h.ResultsFormat))
	return err == nil && path == h.Results
}

// files sets the names of the results files in the header and checks them.
func (o *Options) files(h *Header) (err error) {
	h.ResultsFormat = o.ResultsFormat
	if h.ResultsFormat == "" {
		switch ext := strings.ToLower(filepath.Ext(o.Results)); {
		case ext == ".csv", o.Results == "" && o.Input.Format == CSV:
			h.ResultsFormat = CSV
		default:
			h.ResultsFormat = NDJSON
		}
	}
	if h.ResultsFormat != CSV && h.ResultsFormat != NDJSON {
		return fmt.Errorf("the results format is %q but must be ndjson or csv", h.ResultsFormat)
	}
	h.Results = o.Results
	if h.Results == "" {
		h.Results = resultsBeside(o.Input.Path, h.ResultsFormat)
	}
	h.FailedOnly = o.FailedOnly
	seen := map[string]bool{}
	if path, err := filepath.Abs(o.Input.Path); err == nil {
		seen[path] = true
	}
	for _, path := range []*string{&h.Results, &h.FailedOnly} {
		if *path == "" || *path == "-" && path == &h.Results {
			continue
		}
		if *path, err = filepath.Abs(*path); err != nil {
			return err
		}
		if seen[*path] {
			return fmt.Errorf("%s is used twice: the input, the results and the failures need different files", *path)
		}
		seen[*path] = true
		if _, err := os.Lstat(*path); err == nil && !o.Overwrite {
			return fmt.Errorf("%s already exists: move it away, name another file, or add --overwrite", *path)
		}
	}
	return nil
}

// Resume continues the submission of an input. It calls allow with the journal's header before it opens
// a file for writing or sends anything. If allow returns an error, Resume returns it.
//
// If the outcome of a batch can no longer be determined, Do fails. With giveUp, it reports the batch's
// requests as UNKNOWN instead.
func Resume(input string, giveUp bool, allow func(Header) error, stdout io.Writer) (*Run, error) {
	j, err := openJournal(JournalPath(input))
	if err != nil {
		return nil, err
	}
	if err := allow(j.Header); err != nil {
		return nil, errors.Join(err, j.close())
	}
	in := Input{Path: input, Format: j.Format, Encoding: j.Encoding, Template: j.Template, DecimalComma: j.DecimalComma}
	if j.Delimiter != "" {
		in.Delimiter, _ = utf8.DecodeRuneInString(j.Delimiter)
	}
	if err = in.sniff(); err == nil {
		err = in.check(j.Chunks, batch.Options{Parallel: j.Parallel, StopOnFailure: j.StopOnFailure})
	}
	var r *Run
	if err == nil {
		r, err = newRun(j, in, false, stdout)
	}
	if err != nil {
		return nil, errors.Join(err, j.close())
	}
	r.giveUp = giveUp
	return r, nil
}

// newRun opens the results files and truncates them to the sizes in the journal. If begin is set, it
// creates them.
func newRun(j *journal, in Input, begin bool, stdout io.Writer) (*Run, error) {
	r := &Run{journal: j, input: in, stdout: stdout}
	var columns []string
	if in.Format == CSV {
		rows, file, err := in.open()
		if err != nil {
			return nil, err
		}
		columns = rows.header()
		file.Close()
	}
	out, err := openOutput(j.Results, j.ends.Results, begin, stdout)
	if err != nil {
		return nil, err
	}
	if r.results, err = newResultWriter(out, &j.Header, &in, columns); err != nil {
		return nil, err
	}
	if j.FailedOnly != "" {
		if out, err = openOutput(j.FailedOnly, j.ends.Failed, begin, nil); err != nil {
			return nil, err
		}
		if r.failed, err = newRequestWriter(out, &in, columns); err != nil {
			return nil, err
		}
	}
	for i, c := range j.Chunks {
		r.Progress.requests += c.Requests
		r.tally.merge(j.states[i].counts, j.states[i].groups)
	}
	r.Progress.batches = len(j.Chunks)
	r.Progress.before = r.tally.counts.Total()
	r.Progress.counted(&r.tally.counts)
	return r, nil
}

// Header returns the journal's header.
func (r *Run) Header() Header { return r.journal.Header }

// Summary is the result of a submission.
type Summary struct {
	Counts
	Requests   int
	Batches    int
	GroupID    string
	Blank      int     // blank rows, which were skipped
	Groups     []Group // the failures, grouped
	Results    string
	FailedOnly string
}

// Do creates the remaining batches, waits for them, and writes the results. clients returns a client
// with the given options (see client.Options). If ctx is done or something fails, Do
// calls Close. The journal then stays for Resume, unless no batch can have been created.
func (r *Run) Do(ctx context.Context, clients func(retryFor time.Duration, onRetry func(error, time.Duration)) (*client.Client, error)) (*Summary, error) {
	if err := r.do(ctx, clients); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	if err := r.closeResults(); err != nil {
		return nil, errors.Join(err, r.journal.close())
	}
	j := r.journal
	s := &Summary{
		Counts: r.tally.counts, Requests: r.requests, Batches: len(j.Chunks), GroupID: j.GroupID,
		Blank: j.Blank, Groups: r.tally.groups, Results: j.Results, FailedOnly: j.FailedOnly,
	}
	return s, j.remove()
}

// Begun reports whether any batch may have been created.
func (r *Run) Begun() bool {
	for i := range r.journal.Chunks {
		if s := r.journal.state(i); s.ticket != "" || !s.sending.IsZero() || s.unsent || s.givenUp {
			return true
		}
	}
	return false
}

// Close closes the files and leaves the submission to Resume. If no batch can have been created, it
// removes the files instead.
func (r *Run) Close() error {
	err := r.closeResults()
	if r.Begun() {
		return errors.Join(err, r.journal.close())
	}
	for _, path := range []string{r.journal.Results, r.journal.FailedOnly} {
		if path != "" && path != "-" {
			err = errors.Join(err, os.Remove(path)) // the file has at most a header
		}
	}
	return errors.Join(err, r.journal.remove())
}

func (r *Run) closeResults() error {
	err := r.results.Close()
	if r.failed != nil {
		err = errors.Join(err, r.failed.Close())
	}
	return err
}

// patience is how long the service may be unavailable before a submission stops.
const patience = 6 * time.Hour

func (r *Run) do(ctx context.Context, clients func(time.Duration, func(error, time.Duration)) (*client.Client, error)) error {
	once, err := clients(-1, nil)
	if err != nil {
		return err
	}
	patient, err := clients(patience, r.Progress.retries)
	if err != nil {
		return err
	}
	r.stopped.Store(r.journal.StopOnFailure && r.tally.counts.Total() > r.tally.counts.Completed)
	limit := ahead
	if r.journal.StopOnFailure {
		limit = 1 // so that nothing else has started when a batch fails
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	created := make(chan int, limit)
	free := make(chan struct{}, limit)
	for range limit {
		free <- struct{}{}
	}
	s := sender{Run: r, once: once, patient: patient}
	sent := make(chan error, 1)
	go func() {
		defer close(created)
		sent <- s.send(ctx, free, created)
	}()
	collectErr := r.collect(ctx, patient, free, created)
	if collectErr != nil {
		cancel()
	}
	err = <-sent
	switch {
	case collectErr != nil && (err == nil || errors.Is(err, context.Canceled)):
		return collectErr
	case err != nil && errors.Is(collectErr, err):
		return err
	}
	return errors.Join(err, collectErr)
}

// collect writes the results of the created batches in the order of the input.
func (r *Run) collect(ctx context.Context, c *client.Client, free chan<- struct{}, created <-chan int) error {
	in, err := r.input.reader(r.journal.Chunks)
	if err != nil {
		return err
	}
	defer in.Close()
	in.keep = r.input.Format == CSV
	for range r.journal.done {
		if _, err := in.next(); err != nil {
			return err
		}
	}
	for i := range created {
		p, err := in.next()
		if err != nil {
			return err
		}
		if err := r.collectOne(ctx, c, i, p); err != nil {
			return err
		}
		free <- struct{}{}
	}
	return nil
}

// collectOne waits for one batch and writes its results.
func (r *Run) collectOne(ctx context.Context, c *client.Client, i int, p *part) error {
	t := tally{}
	w := &chunkWriter{Run: r, part: p, tally: &t, state: r.journal.state(i)}
	if err := w.all(ctx, c); err != nil {
		return err
	}
	done := entry{Chunk: i, Done: true, Counts: &t.counts, Groups: t.groups}
	var err error
	if done.Results, err = r.results.flush(); err != nil {
		return err
	}
	if r.failed != nil {
		if done.Failed, err = r.failed.flush(); err != nil {
			return err
		}
	}
	if err := r.journal.write(done); err != nil {
		return err
	}
	r.tally.merge(&t.counts, t.groups)
	r.Progress.counted(&r.tally.counts)
	if r.journal.StopOnFailure && t.counts.Total() > t.counts.Completed {
		r.stopped.Store(true)
	}
	return nil
}

// chunkWriter writes the results of one batch.
type chunkWriter struct {
	*Run
	part  *part
	tally *tally
	state chunkState
	next  int // the index of the next request
}

func (w *chunkWriter) all(ctx context.Context, c *client.Client) error {
	ticket := w.state.ticket
	switch {
	case w.state.unsent:
		return w.rest(string(client.NotExecuted), "not sent: an earlier request failed, and --stop-on-failure was given")
	case ticket == "":
		return w.rest(unknownStatus, "it is unknown whether the batch was created")
	}
	explaining, stop := context.WithCancel(ctx)
	var explained sync.WaitGroup
	explained.Go(func() { w.explain(explaining, c, ticket) })
	_, err := c.Wait(ctx, ticket, func(b *client.Batch) { w.Progress.running(b.CompletedRequests) })
	stop()
	explained.Wait()
	if err == nil {
		for response, e := range c.Results(ctx, ticket, client.GetOptions{}) {
			if err = e; err != nil {
				break
			}
			if err := w.expect(response.Index); err != nil {
				return err
			}
			if err := w.write(response, ""); err != nil {
				return err
			}
		}
	}
	if missing, ok := errors.AsType[*client.Error](err); ok && missing.StatusCode == http.StatusNotFound {
		if !w.giveUp {
			return fmt.Errorf("the service has no batch %s (lines %d to %d of the input): it was deleted, its retention has ended, or the token is not the one that created it; to report its requests as UNKNOWN and continue, use --resume --give-up: %w",
				ticket, w.part.lines[0], w.part.lines[len(w.part.lines)-1], err)
		}
		err = nil
	}
	if err != nil {
		return err
	}
	return w.rest(unknownStatus, "the service no longer has the batch")
}

// stall is how long a submission makes no progress before it asks the service why.
const stall = 2 * time.Second

// explain runs until ctx is done. Whenever no request has ended for a while, it asks the service whether
// the batch is waiting for the upstream. It asks only once if the server doesn't support details.
func (w *chunkWriter) explain(ctx context.Context, c *client.Client, ticket string) {
	tick := time.NewTicker(stall)
	defer tick.Stop()
	for seen := -1; ; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if n := w.Progress.Snapshot().Done; n != seen {
			seen = n
			continue
		}
		b, err := c.Get(ctx, ticket, client.GetOptions{NoResponses: true, Details: true})
		switch {
		case err != nil: // Wait reports it
		case b.CreatedAt.IsZero():
			return
		default:
			w.Progress.waiting(Wait{Until: b.WaitsUntil, For: b.WaitingFor, Since: b.WaitingSince})
		}
	}
}

// expect returns an error if a response is not the next one. If the server doesn't send indexes, the
// responses are in order, because the batch is COMPLETED (docs/contract.md#read-a-status).
func (w *chunkWriter) expect(index int) error {
	if index < 0 {
		index = w.next
	}
	if index != w.next || index >= len(w.part.lines) {
		return fmt.Errorf("the service sent the response of request %d of batch %s instead of that of request %d", index, w.state.ticket, w.next)
	}
	return nil
}

// rest writes results for the remaining requests, which have no response.
func (w *chunkWriter) rest(status, why string) error {
	for w.next < len(w.part.lines) {
		var r *client.Response
		if status != unknownStatus {
			r = &client.Response{Status: client.ResultStatus(status), Reason: why}
		}
		if err := w.write(r, why); err != nil {
			return err
		}
	}
	return nil
}

func (w *chunkWriter) write(r *client.Response, why string) error {
	p, i := w.part, w.next
	w.next++
	o, err := newOutcome(p.lines[i], p.request(i), w.state.ticket, r, why)
	if err != nil {
		return err
	}
	w.tally.add(o)
	var columns []string
	if w.input.Format == CSV {
		columns = p.columns[i]
	}
	if err := w.results.write(o, columns); err != nil {
		return err
	}
	if w.failed == nil || o.Status == string(client.Succeeded) || o.Status == unknownStatus || o.InDoubt {
		return nil
	}
	return w.failed.write(p.request(i), columns)
}
