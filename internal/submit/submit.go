// Package submit hands the requests of a file over to a batch service, in batches of one
// group, and writes what became of them beside it.
//
// Whatever ends the process, nothing is lost and nothing is done twice: a journal beside the
// input tells which batches were handed over, each with a deduplication key that stays the
// same, and how much of the results is written. The requests are read three times (checked,
// sent, and once more beside their results), so that memory does not grow with them.
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

// Options are what a submission is.
type Options struct {
	Input         Input
	Server, Store string
	GroupID       string // default: one of its own
	Parallel      bool   // up to 100 requests of a batch at the same time
	StopOnFailure bool   // nothing is started after the first failure
	Results       string // default: beside the input; "-": the standard output
	ResultsFormat Format // NDJSON or CSV; default: told by the name, else CSV for CSV
	FailedOnly    string // a file for the requests to send again; empty: none
	Overwrite     bool   // replace files of results that exist
	Raw           bool   // write what the API answered into CSV as it is, formulas included
}

// ahead is how many batches are handed over before the oldest of them is finished: enough
// that the service never waits for this end, few enough not to flood it.
const ahead = 8

// Plan is a file that was checked.
type Plan struct {
	options  Options
	chunks   []chunk
	Requests int
	Batches  int
	Blank    int // rows without any text, which are skipped
}

// NewPlan reads the whole file and checks it. An error names the places of the first mistakes.
// Nothing has been sent then.
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

// Run is a submission under way. It belongs to one goroutine, apart from Progress.
type Run struct {
	Progress

	journal *journal
	input   Input
	giveUp  bool
	stdout  io.Writer

	stopped atomic.Bool // a failure ended it
	tally   tally
	results *resultWriter
	again   *againWriter // nil: not wanted
}

// Start begins a submission: from now on a journal tells of it.
func (p *Plan) Start(stdout io.Writer) (*Run, error) {
	o := p.options
	if err := batch.CheckName(o.GroupID); err != nil {
		return nil, fmt.Errorf("the group's name %w", err)
	}
	h := Header{
		Version: journalVersion, ID: uuid.New(), Server: o.Server, Store: o.Store, GroupID: o.GroupID,
		Format: o.Input.Format, Encoding: o.Input.Encoding, Template: o.Input.Template, DecimalComma: o.Input.DecimalComma,
		Parallel: o.Parallel, StopOnFailure: o.StopOnFailure, Raw: o.Raw, Blank: p.Blank, Chunks: p.chunks,
	}
	if o.Input.Format == CSV {
		h.Delimiter = string(o.Input.Delimiter)
	}
	if h.GroupID == "" {
		h.GroupID = "submit-" + h.ID.String()
	}
	path := JournalPath(o.Input.Path)
	if _, err := os.Lstat(path); err == nil {
		return nil, begunBefore(o.Input.Path)
	}
	if err := o.files(&h); err != nil {
		return nil, err
	}
	j, err := createJournal(path, h)
	if errors.Is(err, fs.ErrExist) {
		return nil, begunBefore(o.Input.Path)
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

func begunBefore(input string) error {
	return fmt.Errorf("%s was begun before and is not finished: continue with --resume, or remove %s to start over", input, JournalPath(input))
}

// resultsBeside returns where results go that no name was given for.
func resultsBeside(input string, format Format) string {
	return strings.TrimSuffix(input, filepath.Ext(input)) + ".results." + string(format)
}

// IsBeside reports whether the results go to the file that they get without a name.
func (h *Header) IsBeside(input string) bool {
	path, err := filepath.Abs(resultsBeside(input, h.ResultsFormat))
	return err == nil && path == h.Results
}

// files decides where results go.
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
		return fmt.Errorf("results are written as ndjson or csv, not as %q", h.ResultsFormat)
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
			return fmt.Errorf("%s can't be two files at once: the input, the results and the failures each need a name of their own", *path)
		}
		seen[*path] = true
		if _, err := os.Lstat(*path); err == nil && !o.Overwrite {
			return fmt.Errorf("%s exists already: move it away, name another file, or add --overwrite", *path)
		}
	}
	return nil
}

// Resume continues the submission of an input. allow judges what the journal says before
// anything is opened for writing or sent: whether that is what the user means. giveUp: requests
// of a batch whose outcome nobody knows any more are UNKNOWN; otherwise that is an error.
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

// newRun opens the files of results, which have grown as far as the journal says. begin: it
// makes them.
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
		if r.again, err = newAgainWriter(out, &in, columns); err != nil {
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

// Header returns what was decided at the beginning.
func (r *Run) Header() Header { return r.journal.Header }

// Summary is what became of a submission.
type Summary struct {
	Counts
	Requests   int
	Batches    int
	GroupID    string
	Blank      int     // rows without any text, which were skipped
	Groups     []Group // of failures
	Results    string
	FailedOnly string
}

// Do hands over what was not, waits for the rest and writes the results. clients makes a
// client that is told of what it repeats; retryFor bounds that, as in client.Options. When
// ctx ends or something fails, the journal stays and Resume can go on.
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

// Begun reports whether anything may have been handed over.
func (r *Run) Begun() bool {
	for i := range r.journal.Chunks {
		if s := r.journal.state(i); s.ticket != "" || !s.sending.IsZero() || s.unsent || s.givenUp {
			return true
		}
	}
	return false
}

// Close leaves a submission for Resume. One of which nothing can have been handed over is as
// if it had never begun. Do closes by itself.
func (r *Run) Close() error {
	err := r.closeResults()
	if r.Begun() {
		return errors.Join(err, r.journal.close())
	}
	for _, path := range []string{r.journal.Results, r.journal.FailedOnly} {
		if path != "" && path != "-" {
			err = errors.Join(err, os.Remove(path)) // it holds no more than a header
		}
	}
	return errors.Join(err, r.journal.remove())
}

func (r *Run) closeResults() error {
	err := r.results.Close()
	if r.again != nil {
		err = errors.Join(err, r.again.Close())
	}
	return err
}

// patience is how long a service may be away before a submission gives up for now.
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
	places := ahead
	if r.journal.StopOnFailure {
		places = 1 // the next batch must not have begun
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	handed := make(chan int, places)
	free := make(chan struct{}, places)
	for range places {
		free <- struct{}{}
	}
	s := sender{Run: r, once: once, patient: patient}
	sent := make(chan error, 1)
	go func() {
		defer close(handed)
		sent <- s.send(ctx, free, handed)
	}()
	collected := r.collect(ctx, patient, free, handed)
	if collected != nil {
		cancel()
	}
	err = <-sent
	switch {
	case collected != nil && (err == nil || errors.Is(err, context.Canceled)):
		return collected
	case err != nil && errors.Is(collected, err):
		return err
	}
	return errors.Join(err, collected)
}

// collect writes the results of what was handed over, in the order of the input.
func (r *Run) collect(ctx context.Context, c *client.Client, free chan<- struct{}, handed <-chan int) error {
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
	for i := range handed {
		p, err := in.next()
		if err != nil {
			return err
		}
		if err := r.gather(ctx, c, i, p); err != nil {
			return err
		}
		free <- struct{}{}
	}
	return nil
}

// gather waits for one batch and writes its results.
func (r *Run) gather(ctx context.Context, c *client.Client, i int, p *part) error {
	t := tally{}
	w := &chunkWriter{Run: r, part: p, tally: &t, state: r.journal.state(i)}
	if err := w.all(ctx, c); err != nil {
		return err
	}
	done := step{Chunk: i, Done: true, Counts: &t.counts, Groups: t.groups}
	var err error
	if done.Results, err = r.results.flush(); err != nil {
		return err
	}
	if r.again != nil {
		if done.Failed, err = r.again.flush(); err != nil {
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
	state state
	next  int
}

func (w *chunkWriter) all(ctx context.Context, c *client.Client) error {
	ticket := w.state.ticket
	switch {
	case w.state.unsent:
		return w.rest(string(client.NotExecuted), "not handed over: a request before it failed, and --stop-on-failure was given")
	case ticket == "":
		return w.rest(unknownStatus, "whether the batch was handed over could not be found out")
	}
	asking, stop := context.WithCancel(ctx)
	var explained sync.WaitGroup
	explained.Go(func() { w.explain(asking, c, ticket) })
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
			return fmt.Errorf("the service does not know batch %s (lines %d to %d of the input) any more: it was deleted, its time is over, or the token is not the one that it was made with; with --resume --give-up its requests are reported as UNKNOWN: %w",
				ticket, w.part.lines[0], w.part.lines[len(w.part.lines)-1], err)
		}
		err = nil
	}
	if err != nil {
		return err
	}
	return w.rest(unknownStatus, "the service does not know the batch any more")
}

// stall is how long nothing may end before the service is asked for the reason.
const stall = 2 * time.Second

// explain asks, while nothing ends, whether the service waits itself, until ctx ends. A server
// that tells no details is asked once.
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
		case err != nil: // told by what waits for the batch
		case b.CreatedAt.IsZero():
			return
		default:
			w.Progress.held(b.WaitsUntil)
		}
	}
}

// expect refuses a response that is not the next one. Where the server does not tell the
// index, they come in order: the batch is COMPLETED (docs/contract.md#read-a-status).
func (w *chunkWriter) expect(index int) error {
	if index < 0 {
		index = w.next
	}
	if index != w.next || index >= len(w.part.lines) {
		return fmt.Errorf("the service told the response of request %d of batch %s where that of request %d was to come", index, w.state.ticket, w.next)
	}
	return nil
}

// rest writes requests that have no response.
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
	w.tally.take(o)
	var columns []string
	if w.input.Format == CSV {
		columns = p.columns[i]
	}
	if err := w.results.write(o, columns); err != nil {
		return err
	}
	if w.again == nil || o.Status == string(client.Succeeded) || o.Status == unknownStatus || o.InDoubt {
		return nil
	}
	return w.again.write(p.request(i), columns)
}
